package cli

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestEveryThreadIsConfined: Landlock applies to one thread, and needs no_new_privs. The kernel
// shows that flag for every thread.
func TestEveryThreadIsConfined(t *testing.T) {
	if !landlocked() {
		t.Skip("SKIP: the kernel has no Landlock")
	}
	cmd := command(t, "mig-recv", "--json", "--listen", "unix:"+filepath.Join(t.TempDir(), "sock"), "--device", "d=sim:mtty")
	out := start(t, cmd)
	nextEvent(t, bufio.NewScanner(out), "sandbox")
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", cmd.Process.Pid))
	if err != nil || len(threads) < 2 {
		t.Fatalf("threads %q, %v", threads, err)
	}
	for _, thread := range threads {
		text, err := os.ReadFile(thread)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), "NoNewPrivs:\t1\n") {
			t.Errorf("%s may gain privileges:\n%s", thread, text)
		}
		left := "0000000000000000"
		if os.Geteuid() == 0 {
			left = fmt.Sprintf("%016x", ownCapabilities(t)&(1<<24)) // CAP_SYS_RESOURCE, for the pipes of unix:
			if !strings.Contains(string(text), "CapBnd:\t"+left) {
				t.Errorf("%s may gain capabilities:\n%s", thread, text)
			}
		}
		for _, set := range []string{"CapEff:\t" + left, "CapPrm:\t" + left, "CapInh:\t0000000000000000", "CapAmb:\t0000000000000000"} {
			if !strings.Contains(string(text), set+"\n") {
				t.Errorf("%s has not %q:\n%s", thread, set, text)
			}
		}
	}
	signalProcess(t, cmd, syscall.SIGTERM)
	cmd.Wait()
}

// TestBrokerEndsWithItsProgram: the broker ends after a kill of its program as well. It does
// not end by a signal to all processes of a service, which the program handles in its own time.
func TestBrokerEndsWithItsProgram(t *testing.T) {
	if !landlocked() {
		t.Skip("SKIP: the kernel has no Landlock")
	}
	peers := filepath.Join(t.TempDir(), "peers")
	if err := os.WriteFile(peers, []byte(identity(t, "mig-send")), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, end := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		cmd := command(t, "mig-recv", "--json", "--listen", "127.0.0.1:0", "--peers-file", peers, "--device", "d=sim:mtty")
		nextEvent(t, begin(t, cmd), "sandbox")
		broker := childOf(t, cmd.Process.Pid)
		if err := syscall.Kill(broker, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if childOf(t, cmd.Process.Pid) != broker {
			t.Error("a signal has ended the broker")
		}
		signalProcess(t, cmd, end)
		cmd.Wait()
		for late := time.Now().Add(patience); runs(broker); time.Sleep(time.Millisecond) {
			if time.Now().After(late) {
				t.Fatalf("the broker, process %d, is left after %v", broker, end)
			}
		}
	}
}

// childOf is the only child of a process.
func childOf(t *testing.T, parent int) int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range stats {
		if pid, state, of := stat(path); of == parent && state != "Z" {
			return pid
		}
	}
	t.Fatalf("process %d has begun none", parent)
	return 0
}

func runs(pid int) bool {
	_, state, _ := stat(fmt.Sprintf("/proc/%d/stat", pid))
	return state != "" && state != "Z" // its new parent may wait for it late
}

// stat reads proc_pid_stat(5) of a process; it is empty for one that has ended.
func stat(path string) (pid int, state string, parent int) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, "", 0
	}
	before, after, _ := strings.Cut(string(text), "(")
	after = after[strings.LastIndex(after, ")")+1:]
	pid, _ = strconv.Atoi(strings.TrimSpace(before))
	fields := strings.Fields(after)
	parent, _ = strconv.Atoi(fields[1])
	return pid, fields[0], parent
}

// ownCapabilities are the capabilities of this process. A container may have none.
func ownCapabilities(t *testing.T) (all uint64) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), "CapPrm:")
	if _, err := fmt.Sscanf(after, "%x", &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// TestOtherUsersDirectory: root keeps the privilege to write where another user may.
func TestOtherUsersDirectory(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIP: only root can give a directory away")
	}
	dir := t.TempDir()
	theirs := filepath.Join(dir, "theirs")
	if err := errors.Join(os.Mkdir(theirs, 0o700), os.Chown(theirs, 12345, 12345), os.WriteFile(filepath.Join(dir, "from"), []byte("state"), 0o600)); err != nil {
		t.Fatal(err)
	}
	sock := filepath.Join(dir, "sock")
	recv := command(t, "mig-recv", "--json", "--listen", "unix:"+sock, "--device", "d=file:"+filepath.Join(theirs, "to"))
	events := begin(t, recv)
	if text := nextEvent(t, events, "sandbox"); !strings.Contains(text, `"capabilities":["dac_override"`) || !strings.Contains(text, `"no_new_privs":true`) {
		t.Errorf("in force: %s", text)
	}
	if err := command(t, "mig-send", "--to", "unix:"+sock, "--device", "d=file:"+filepath.Join(dir, "from")).Run(); err != nil {
		t.Error(err)
	}
	for events.Scan() { // until it has ended
	}
	if err := recv.Wait(); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(filepath.Join(theirs, "to")); err != nil || string(got) != "state" {
		t.Errorf("%q, %v", got, err)
	}
}
