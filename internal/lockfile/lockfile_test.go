package lockfile

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// holder starts a process that locks or opens a path and waits to be killed.
func holder(t *testing.T, what, path string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run", "^TestHolderProcess$")
	cmd.Env = append(os.Environ(), "LOCKFILE_TEST="+what, "LOCKFILE_PATH="+path)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Process.Kill(); cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "has it\n" {
		t.Fatalf("%q, %v", line, err)
	}
	return cmd
}

// TestHolderProcess is the process that holder starts.
func TestHolderProcess(t *testing.T) {
	path := os.Getenv("LOCKFILE_PATH")
	var err error
	switch os.Getenv("LOCKFILE_TEST") {
	case "":
		return
	case "lock":
		_, err = LockName(path)
	case "open":
		_, err = os.Open(path)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("has it")
	os.Stdin.Read(make([]byte, 1))
	os.Exit(1)
}

// TestCrash checks that the error names the process that has the lock, and that the lock ends
// with the process.
func TestCrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sink")
	other := holder(t, "lock", path)
	_, err := LockName(path)
	held, ok := errors.AsType[*HeldError](err)
	if !ok || held.PID != other.Process.Pid || !strings.Contains(err.Error(), fmt.Sprintf("process %d has locked ", other.Process.Pid)) {
		t.Fatalf("%v, want that process %d has it", err, other.Process.Pid)
	}
	other.Process.Kill()
	other.Wait()
	l, err := LockName(path)
	if err != nil {
		t.Fatalf("lock after a crash: %v", err)
	}
	if err := l.Release(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestNames checks that different paths to one name lock the same name.
func TestNames(t *testing.T) {
	dir := t.TempDir()
	l, err := LockName(filepath.Join(dir, "a"))
	if err != nil || l == nil {
		t.Fatal(l, err)
	}
	defer l.Release()
	t.Chdir(dir)
	if _, err := LockName("a"); !strings.Contains(fmt.Sprint(err), fmt.Sprintf("process %d has locked a", os.Getpid())) {
		t.Errorf("the same name: %v", err)
	}
	b, err := LockName("b")
	if err != nil || b == nil {
		t.Errorf("another name: %v", err)
	}
	b.Release()
}

// TestOpener checks that Holder finds a process that has a file open without a lock.
func TestOpener(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if pid := Holder(path); pid != 0 {
		t.Errorf("process %d has it", pid)
	}
	other := holder(t, "open", path)
	if pid := Holder(path); pid != other.Process.Pid {
		t.Errorf("process %d has it, want %d", pid, other.Process.Pid)
	}
}

// TestOneAtATime checks that only one of many concurrent callers has the lock at a time.
func TestOneAtATime(t *testing.T) {
	path := filepath.Join(t.TempDir(), strings.Repeat("n", 255)) // no room for a longer name
	var have, taken atomic.Int32
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 20 {
				l, err := LockName(path)
				if _, held := errors.AsType[*HeldError](err); held {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				taken.Add(1)
				if n := have.Add(1); n != 1 {
					t.Errorf("%d have the lock", n)
				}
				time.Sleep(time.Millisecond)
				have.Add(-1)
				if err := l.Release(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if taken.Load() == 0 {
		t.Error("no caller got the lock")
	}
}

// TestLockFile checks that a lock does not change the file, and that LockFile does not lock a pipe
// or wait for it.
func TestLockFile(t *testing.T) {
	dir := t.TempDir()
	path, fifo := filepath.Join(dir, "file"), filepath.Join(dir, "fifo")
	if err := errors.Join(os.WriteFile(path, []byte("text"), 0o400), unix.Mkfifo(fifo, 0o600)); err != nil {
		t.Fatal(err)
	}
	l, err := LockFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := LockFile(path); !strings.Contains(fmt.Sprint(err), fmt.Sprintf("process %d has locked", os.Getpid())) {
		t.Errorf("a second lock: %v", err)
	}
	if err := l.Release(); err != nil {
		t.Error(err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "text" {
		t.Errorf("%q, %v", text, err)
	}
	if l, err := LockFile(fifo); l != nil || err != nil {
		t.Errorf("a pipe: %v, %v", l, err)
	}
	if _, err := LockFile(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

// TestNoLocks checks which errors mean that the file system has no locks.
func TestNoLocks(t *testing.T) {
	for err, want := range map[error]bool{
		unix.EBADF: true, unix.ENOLCK: true, unix.EOPNOTSUPP: true, unix.ENOSYS: true, unix.EINTR: false, unix.EIO: false, &HeldError{}: false,
	} {
		if got := isUnsupported(fmt.Errorf("flock: %w", err)); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
	if isUnsupported(nil) {
		t.Error("a nil error means that there are no locks")
	}
}
