package vm

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/rpc"
	"net/rpc/jsonrpc"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/migpipe/migpipe/test/vm/guestapi"
)

const (
	qemu        = "qemu-system-x86_64"
	bootTime    = 120 * time.Second // under TCG, on a busy machine
	callTime    = 30 * time.Second  // for calls that should return at once
	outputLimit = 8 << 10           // of a console in the test's log
)

// machine is one guest: a QEMU process and the connection to its /init.
type machine struct {
	name    string
	address string // on the network between the guests
	cmd     *exec.Cmd
	exited  chan struct{} // closed when QEMU has ended
	console string        // file
	monitor string        // socket of QEMU's
	conn    net.Conn
	client  *rpc.Client
}

// bootPair boots two guests joined by a cable and waits for both to serve.
func bootPair(t *testing.T, h *host, k kernel) pair {
	// Sockets have short names: a path in t.TempDir may be longer than 108.
	dir, err := os.MkdirTemp("", "vm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	initrd := filepath.Join(dir, "initramfs")
	if err := h.initramfs(k, initrd); err != nil {
		t.Fatal("initramfs: ", err)
	}
	p := pair{host: h, kernel: k.name, cable: layCable(t, dir, "source", "destination")}
	begin := time.Now()
	p.source = boot(t, k, dir, "source", "10.77.0.1")
	p.destination = boot(t, k, dir, "destination", "10.77.0.2")
	p.source.awaitReady(t)
	p.destination.awaitReady(t)
	t.Logf("kernel %s: both guests ready after %v", k.name, time.Since(begin).Round(time.Millisecond))
	return p
}

// boot starts QEMU. The serial ports and the cable are unix sockets and files, so that no
// part of the test is reachable from elsewhere.
func boot(t *testing.T, k kernel, dir, name, address string) *machine {
	port := filepath.Join(dir, name+".port")
	listener, err := net.Listen("unix", port)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	m := &machine{
		name: name, address: address,
		exited:  make(chan struct{}),
		console: filepath.Join(t.ArtifactDir(), k.name+"-"+name+".console"),
		monitor: filepath.Join(dir, name+".qmp"),
	}
	m.cmd = exec.Command(qemu, m.arguments(k, dir, port)...)
	complaint := new(bytes.Buffer)
	m.cmd.Stdout, m.cmd.Stderr = complaint, complaint
	// The guest must not outlive a test that is killed.
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.stop(t) })
	go func() { // ends with QEMU, which stop ends
		m.cmd.Wait()
		close(m.exited)
		listener.Close() // wakes Accept if QEMU has failed early
	}()
	if m.conn, err = listener.Accept(); err != nil {
		<-m.exited
		t.Fatalf("%s did not start: %s", qemu, complaint)
	}
	return m
}

func (m *machine) arguments(k kernel, dir, port string) []string {
	local, remote := cableEnds(dir, m.name)
	return []string{
		"-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "512", "-smp", "2",
		"-nodefaults", "-display", "none", "-no-reboot",
		"-kernel", filepath.Join(k.dir, "vmlinuz"), "-initrd", filepath.Join(dir, "initramfs"),
		// loglevel=5: with "quiet" a WARN would not reach the console.
		// The watchdogs would report a busy host as a stuck guest, and the timer check
		// as a timer that does not work. nokaslr: scenario memory knows where things are.
		"-append", "console=ttyS0 loglevel=5 nokaslr oops=panic panic=-1 nowatchdog no_timer_check rcupdate.rcu_cpu_stall_suppress=1 " +
			guestapi.AddressEnv + "=" + m.address,
		"-chardev", "file,id=console,path=" + m.console, "-serial", "chardev:console",
		"-chardev", "socket,id=calls,path=" + port, "-serial", "chardev:calls",
		"-qmp", "unix:" + m.monitor + ",server=on,wait=off",
		"-netdev", fmt.Sprintf("dgram,id=cable,local.type=unix,local.path=%s,remote.type=unix,remote.path=%s", local, remote),
		// The last digit of the address tells the guests' MACs apart.
		"-device", "virtio-net-pci,netdev=cable,romfile=,mac=52:54:00:00:00:0" + m.address[len(m.address)-1:],
	}
}

// awaitReady waits for the guest's first line.
func (m *machine) awaitReady(t *testing.T) {
	m.conn.SetReadDeadline(time.Now().Add(bootTime))
	line := make([]byte, len(guestapi.Ready))
	if _, err := io.ReadFull(m.conn, line); err != nil {
		t.Fatalf("%s does not boot: %v; see its console below", m.name, err)
	}
	if string(line) != guestapi.Ready {
		t.Fatalf("%s printed %q, want %q", m.name, line, guestapi.Ready)
	}
	m.conn.SetReadDeadline(time.Time{})
	m.client = jsonrpc.NewClient(m.conn)
}

// stop powers the guest off, or kills it, and searches its console for errors of the kernel.
func (m *machine) stop(t *testing.T) {
	if m.client != nil {
		m.client.Go(guestapi.Service+".PowerOff", struct{}{}, new(struct{}), make(chan *rpc.Call, 1))
	} else {
		m.cmd.Process.Kill() // never came up
	}
	select {
	case <-m.exited:
	case <-time.After(callTime):
		t.Errorf("%s does not power off; killed", m.name)
		m.cmd.Process.Kill()
		<-m.exited
	}
	if m.client != nil {
		m.client.Close()
	} else if m.conn != nil {
		m.conn.Close()
	}
	m.checkConsole(t)
}

// trouble matches a kernel's reports of errors in itself or in a driver.
var trouble = regexp.MustCompile(`(?m)^.*(Kernel panic|BUG:|WARNING:|Oops|cut here|Call Trace|protection fault|guest:).*$`)

func (m *machine) checkConsole(t *testing.T) {
	log, err := os.ReadFile(m.console)
	if err != nil {
		t.Error(err)
		return
	}
	if found := trouble.FindAllString(string(log), -1); found != nil {
		t.Errorf("console of %s: %s", m.name, strings.Join(found, "\n"))
	}
	if t.Failed() {
		t.Logf("end of the console of %s:\n%s", m.name, log[max(0, len(log)-outputLimit):])
	}
}

// call calls a method of the guest program. It does not wait long for an answer: the guest's
// kernel may hang in an ioctl.
func (m *machine) call(method string, args, reply any) error {
	return m.callWithin(callTime, method, args, reply)
}

func (m *machine) callWithin(limit time.Duration, method string, args, reply any) error {
	call := m.client.Go(guestapi.Service+"."+method, args, reply, make(chan *rpc.Call, 1))
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-call.Done:
		if call.Error != nil {
			return fmt.Errorf("%s: %s: %w", m.name, method, call.Error)
		}
		return nil
	case <-m.exited:
		return fmt.Errorf("%s: %s: the guest has ended; see its console", m.name, method)
	case <-timer.C:
		return fmt.Errorf("%s: %s: no answer within %v", m.name, method, limit)
	}
}

// must is call for scenarios: an error ends them.
func (m *machine) must(t *testing.T, method string, args, reply any) {
	t.Helper()
	if err := m.call(method, args, reply); err != nil {
		t.Fatal(err)
	}
}

// The calls that scenarios make, typed.

func (m *machine) readFile(t *testing.T, path string) string {
	t.Helper()
	var data []byte
	m.must(t, "ReadFile", path, &data)
	return string(data)
}

func (m *machine) writeFile(t *testing.T, path, data string) {
	t.Helper()
	m.must(t, "WriteFile", guestapi.File{Path: path, Data: []byte(data)}, new(struct{}))
}

func (m *machine) glob(t *testing.T, pattern string) []string {
	t.Helper()
	var names []string
	m.must(t, "Glob", pattern, &names)
	return names
}
