package cli

import (
	"bufio"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/migpipe/migpipe/test/netns"
	"github.com/migpipe/migpipe/test/port"
)

// withEtc gives a program its own /etc, which the test may change while it runs.
func withEtc(t *testing.T, etc string, cmd *exec.Cmd) {
	t.Helper()
	netns.NeedMounts(t)
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Args = append([]string{"sh", "-c", `mount --bind "$0" /etc && exec "$@"`, etc, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = sh
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS} // and no other process sees the mount
}

// replace renames a new file over an old one.
func replace(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".next", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".next", path); err != nil {
		t.Fatal(err)
	}
}

// TestHostsReplaced: a rename replaces /etc/hosts while a confined program dials a destination
// again. A removed name keeps the address that worked last. The program dials a moved name
// at its new address.
func TestHostsReplaced(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	if err := os.Mkdir(path("etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	state := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{}).Read(state)
	replace(t, path("from"), string(state))
	replace(t, path("etc/nsswitch.conf"), "hosts: files\n")
	replace(t, path("etc/hosts"), "127.0.0.1 dest.test\n")
	id := func(program string) string { // not below /etc
		id, err := command(t, program, "id", "--identity", path(program)).Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(id))
	}
	source, dest := id("mig-send"), id("mig-recv")
	_, number, err := net.SplitHostPort(port.Own(t))
	if err != nil {
		t.Fatal(err)
	}
	var recv *exec.Cmd
	receive := func(host string) *bufio.Scanner {
		recv = command(t, "mig-recv", "--json", "--lost-after", "1s", "--listen", net.JoinHostPort(host, number), "--identity", path("mig-recv"), "--peer", source,
			"--state-dir", path("state"), "--device", "d=file:"+path("to"))
		return begin(t, recv)
	}
	heard := receive("127.0.0.1")
	send := command(t, "mig-send", "--json", "--lost-after", "1s", "--commit", "external", "--to", "dest.test:"+number,
		"--identity", path("mig-send"), "--peer", dest, "--device", "d=file:"+path("from"))
	withEtc(t, path("etc"), send)
	answers := answering(t, send)
	said := begin(t, send)
	io.WriteString(answers, "paused\n")
	if landlocked() {
		contains(t, nextEvent(t, said, "sandbox"), `"landlock":`)
	}
	nextEvent(t, said, "ready")
	for _, c := range []struct{ hosts, moves string }{{"127.0.0.9 other.test\n", "127.0.0.1"}, {"127.0.0.2 dest.test\n", "127.0.0.2"}} {
		replace(t, path("etc/hosts"), c.hosts)
		recv.Process.Kill()
		recv.Wait()
		heard = receive(c.moves)
		nextEvent(t, said, "path-restored")
	}
	io.WriteString(answers, "commit\n")
	contains(t, nextEvent(t, said, "done"), `"outcome":"committed"`)
	contains(t, nextEvent(t, heard, "done"), `"outcome":"committed"`)
	send.Wait()
	recv.Wait()
}
