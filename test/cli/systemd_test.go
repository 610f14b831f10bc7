package cli

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/migpipe/migpipe/test/nobody"
)

// service is the environment of a service's process: a directory of its user, with the
// programs.
type service struct {
	t   *testing.T
	dir string
}

func newService(t *testing.T) *service {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIP: only root starts processes of another user")
	}
	dir, err := os.MkdirTemp("", "mig-service-") // not t.TempDir, whose parent is root's alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, program := range []string{"mig-send", "mig-recv"} {
		text, err := os.ReadFile(filepath.Join(bin, program))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, program), text, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(dir, nobody.ID, nobody.ID); err != nil {
		t.Fatal(err)
	}
	return &service{t, dir}
}

// command is a program of the service as systemd runs it: by a user without capabilities,
// with descriptors from 3 on, and names for them. A shell sets the process for which they
// are, since the program's PID is not known before.
func (s *service) command(files []*os.File, names, program string, args ...string) *exec.Cmd {
	script := []string{"-c", `LISTEN_PID=$$ exec "$@"`, "sh", "./" + program}
	cmd := exec.CommandContext(s.t.Context(), "/bin/sh", append(script, args...)...)
	cmd.Dir, cmd.Stderr, cmd.ExtraFiles = s.dir, s.t.Output(), files
	cmd.Env = []string{
		fmt.Sprintf("LISTEN_FDS=%d", len(files)), "LISTEN_FDNAMES=" + names,
		"STATE_DIRECTORY=" + filepath.Join(s.dir, "state"), "NOTIFY_SOCKET=" + filepath.Join(s.dir, "notify"),
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody.ID, Gid: nobody.ID}}
	return cmd
}

// id is the name of a program's identity.
func (s *service) id(program string) string {
	s.t.Helper()
	out, err := s.command(nil, "", program, "id", "--identity", program+".key").Output()
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// notified listens at the socket of a service manager.
func (s *service) notified() *net.UnixConn {
	s.t.Helper()
	path := filepath.Join(s.dir, "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err == nil {
		s.t.Cleanup(func() { conn.Close() })
		err = os.Chmod(path, 0o777)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return conn
}

// secret makes a file that only root may open, and returns it open.
func secret(t *testing.T, content []byte) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// udpSocket is the socket of a socket unit with ListenDatagram=.
func udpSocket(t *testing.T) (_ *os.File, address string) {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	f, err := conn.File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f, conn.LocalAddr().String()
}

// TestServices: both programs migrate as systemd runs them, without a privilege. systemd
// passes them the socket and the devices, which they cannot open themselves.
func TestServices(t *testing.T) {
	s := newService(t)
	notify := s.notified()
	send, recv := s.id("mig-send"), s.id("mig-recv")
	content := make([]byte, 3_000_001)
	rand.Read(content)
	from, to := secret(t, content), secret(t, nil)
	socket, address := udpSocket(t)

	r := s.command([]*os.File{socket, to}, "quic:nic0", "mig-recv", "--json", "--identity", "mig-recv.key",
		"--listen", "fdname:quic", "--peer", send, "--device", "d=fdname:nic0")
	events := bufio.NewScanner(start(t, r))
	contains(t, nextEvent(t, events, "listening"), fmt.Sprintf(`"address":%q`, address))
	wantReady(t, notify)
	wantUnprivileged(t, r.Process.Pid)

	c := s.command([]*os.File{from}, "nic0", "mig-send", "--json", "--identity", "mig-send.key",
		"--to", address, "--peer", recv, "--device", "d=fdname:nic0")
	sent, err := c.Output()
	if err != nil {
		t.Errorf("mig-send: %v\n%s", err, sent)
	}
	var done struct {
		Outcome string
		Devices []struct{ Bytes int }
	}
	if err := json.Unmarshal([]byte(nextEvent(t, events, "done")), &done); err != nil {
		t.Fatal(err)
	}
	if done.Outcome != "committed" || len(done.Devices) != 1 || done.Devices[0].Bytes != len(content) {
		t.Errorf("mig-recv: %+v", done)
	}
	if err := r.Wait(); err != nil {
		t.Errorf("mig-recv: %v", err)
	}
	got, err := io.ReadAll(io.NewSectionReader(to, 0, 1<<30))
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes arrived, %v; sent were %d", len(got), err, len(content))
	}
	wantStatus(t, "mig-send", filepath.Join(s.dir, "state"), "DONE", 1)
	wantStatus(t, "mig-recv", filepath.Join(s.dir, "state"), "DONE", 1)
}

func wantReady(t *testing.T, notify *net.UnixConn) {
	t.Helper()
	notify.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 4096)
	n, err := notify.Read(b)
	if err != nil || string(b[:n]) != "READY=1" {
		t.Errorf("the service manager got %q, %v", b[:n], err)
	}
}

// wantUnprivileged reads the process's privileges from the kernel (proc(5)).
func wantUnprivileged(t *testing.T, pid int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\nName:\tmig-recv\n", fmt.Sprintf("\nUid:\t%d\t%[1]d\t%[1]d\t%[1]d\n", nobody.ID), "\nCapEff:\t0000000000000000\n", "\nCapPrm:\t0000000000000000\n"} {
		if !strings.Contains("\n"+string(text), want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
}

// TestWrongInheritedDescriptor: a program reports a wrong inherited descriptor before it opens
// anything.
func TestWrongInheritedDescriptor(t *testing.T) {
	s := newService(t)
	socket, _ := udpSocket(t)
	file := secret(t, nil)
	id := s.id("mig-send")
	for _, c := range []struct {
		names, listen, device, want string
	}{
		{"quic:a", "fdname:other", "d=fdname:a", `no descriptor was handed over as "other" (LISTEN_FDNAMES=quic:a)`},
		{"quic:quic", "fdname:quic", "d=sim:mtty", `2 descriptors were handed over as "quic"`},
		{"quic", "fdname:quic", "d=sim:mtty", "LISTEN_FDNAMES has 1 names, and LISTEN_FDS is 2"},
		{"quic:a", "fdname:quic", "d=fdname:quic", "file descriptor 3 is a device's"},
		{"quic:a", "fdname:quic", "d=fdname:b", `no descriptor was handed over as "b"`},
		{"quic:a", "fd:4", "d=sim:mtty", "file descriptor 4: socket operation on non-socket"},
		{"quic:a", "fd:5", "d=sim:mtty", "no file descriptor 5 was passed to mig-recv"},
		{"quic:a", "fd:04", "d=sim:mtty", `"04" is not the number of a file descriptor`},
	} {
		cmd := s.command([]*os.File{socket, file}, c.names, "mig-recv", "--identity", "mig-recv.key", "--listen", c.listen, "--peer", id, "--device", c.device)
		contains(t, exits(t, 2, cmd), c.want)
	}
	cmd := s.command([]*os.File{file}, "a", "mig-recv", "--listen", "unix:sock", "--device", "d=fdname:a", "--device", "e=fd:3")
	contains(t, exits(t, 2, cmd), "devices d and e are both file descriptor 3")
	cmd = s.command([]*os.File{socket}, "quic", "mig-send", "--to", "fdname:quic", "--peer", id, "--device", "d=sim:mtty")
	contains(t, exits(t, 2, cmd), "only mig-recv is handed a socket")
	cmd = s.command(nil, "", "mig-recv", "--listen", "unix:sock", "--device", "d=fdname:a")
	cmd.Args[2] = `exec "$@"`
	contains(t, exits(t, 2, cmd), "no service manager has handed descriptors over (LISTEN_PID)")
}
