package cli

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLateReaderGetsQuestions: a VMM that reads its events late loses some, but never an
// event that asks it.
func TestLateReaderGetsQuestions(t *testing.T) {
	address := "unix:" + filepath.Join(t.TempDir(), "sock")
	recv := command(t, "mig-recv", "--json", "--commit", "external", "--listen", address, "--device", "d=sim:mtty")
	started, err := recv.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	there := begin(t, recv)
	nextEvent(t, there, "sandbox")
	send := command(t, "mig-send", "--json", "--commit", "external", "--resume-after", "1m", "--to", address, "--device", "d=sim:mtty")
	send.Stderr = nil
	in, err := send.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := send.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	complaint, err := send.StderrPipe()
	if err == nil {
		err = send.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	go io.WriteString(in, strings.Repeat("one of many lines that say nothing of use\n", 12000)) // ends with the program
	lines := bufio.NewScanner(complaint)
	for lines.Scan() && !strings.Contains(lines.Text(), "the reader of stdout has stopped reading") {
	}
	go io.WriteString(in, "paused\ncommit\n") // the same
	nextEvent(t, there, "accept")             // so all questions were asked, and the source waits on
	go io.WriteString(started, "started\n")   // the same
	events, err := io.ReadAll(out)
	if err != nil {
		t.Fatal(err)
	}
	for _, event := range []string{"pause", "ready", "done"} {
		if !bytes.Contains(events, fmt.Appendf(nil, "{%q:%q,", "event", event)) {
			t.Errorf("the event %s was dropped", event)
		}
	}
	for lines.Scan() { // to its end
	}
	if err := errors.Join(send.Wait(), recv.Wait()); err != nil {
		t.Error(err)
	}
}

// TestStoppedTerminal: a stopped terminal delays neither the program's end nor the report
// on another output.
func TestStoppedTerminal(t *testing.T) {
	terminal := stoppedTerminal(t)
	report, err := os.Create(filepath.Join(t.TempDir(), "report"))
	if err != nil {
		t.Fatal(err)
	}
	defer report.Close()
	address := "unix:" + filepath.Join(t.TempDir(), "sock")
	recv := command(t, "mig-recv", "--json", "--listen", address, "--device", "d=sim:mlx5")
	nextEvent(t, begin(t, recv), "sandbox")
	send := command(t, "mig-send", "--downtime-target", "20s", "--to", address, "--device", "d=sim:mlx5?size=1MiB")
	send.Stdout, send.Stderr = report, terminal
	if err := send.Run(); err != nil {
		t.Error(err)
	}
	text, err := os.ReadFile(report.Name())
	if err != nil || !bytes.HasPrefix(text, []byte("committed: ")) {
		t.Errorf("the report is %q, %v", text, err)
	}
	if err := recv.Wait(); err != nil {
		t.Error(err)
	}
}

// TestServiceManagerDoesNotRead: a service manager that does not read the readiness of mig-recv
// delays nothing.
func TestServiceManagerDoesNotRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	fill, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(fill)
		err = unix.Connect(fill, &unix.SockaddrUnix{Name: path})
	}
	for err == nil {
		_, err = unix.Write(fill, []byte("x"))
	}
	if err != unix.EAGAIN {
		t.Fatal(err)
	}
	recv := command(t, "mig-recv", "--json", "--listen", "unix:"+filepath.Join(t.TempDir(), "sock"), "--device", "d=sim:mtty")
	recv.Env = append(os.Environ(), "NOTIFY_SOCKET="+path)
	events := begin(t, recv)
	contains(t, nextEvent(t, events, "warning"), "the service manager was not told that this is ready")
	nextEvent(t, events, "sandbox")
	signalProcess(t, recv, unix.SIGTERM)
	if recv.Wait(); recv.ProcessState.ExitCode() != 9 {
		t.Errorf("it ended by %v", recv.ProcessState)
	}
}

// stoppedTerminal is a pseudo-terminal (pts(4)) that accepts no output, as after Ctrl-S.
func stoppedTerminal(t *testing.T) *os.File {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("SKIP: no pseudo-terminals: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	terminal, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { terminal.Close() })
	if err := unix.IoctlSetInt(int(terminal.Fd()), unix.TCXONC, unix.TCOOFF); err != nil {
		t.Fatal(err)
	}
	return terminal
}
