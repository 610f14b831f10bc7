package vfio

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sigBlk returns a thread's mask of blocked signals.
func sigBlk(t *testing.T, tid int) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/status", tid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if mask, ok := strings.CutPrefix(line, "SigBlk:"); ok {
			return strings.TrimSpace(mask)
		}
	}
	t.Fatal("no SigBlk in status")
	return ""
}

// awaitRead waits until a thread sleeps in read(2).
func awaitRead(t *testing.T, tid int) {
	t.Helper()
	want := fmt.Sprintf("%d ", syscall.SYS_READ)
	for range 5000 {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/syscall", tid))
		if strings.HasPrefix(string(text), want) {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("the thread does not sleep in read")
}

// allBlocked is the mask of all signals but SIGKILL and SIGSTOP, which cannot be blocked.
const allBlocked = "fffffffffffbfeff"

// pipe returns the ends of a pipe in blocking mode.
func pipe(t *testing.T) (r, w int) {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(p[0]); unix.Close(p[1]) })
	return p[0], p[1]
}

// TestSignalsBlocked checks a thread's signal mask before, during and after a
// blocked read.
func TestSignalsBlocked(t *testing.T) {
	t.Run("quirk11_quirk14_quirk47_blocking_thread", func(t *testing.T) {
		r, w := pipe(t)
		tids, done := make(chan int), make(chan string)
		s := &stream{fd: descriptor{kernel: host{}, fd: r}}
		go func() {
			runtime.LockOSThread() // the masks must be of one thread
			defer runtime.UnlockOSThread()
			before := sigBlk(t, unix.Gettid())
			tids <- unix.Gettid()
			n, err := s.Read(make([]byte, 8))
			if n != 1 || err != nil {
				t.Errorf("read: %d, %v", n, err)
			}
			if after := sigBlk(t, unix.Gettid()); after != before {
				t.Errorf("blocked %s before and %s after", before, after)
			}
			done <- before
		}()
		tid := <-tids
		awaitRead(t, tid)
		if mask := sigBlk(t, tid); mask != allBlocked {
			t.Errorf("blocked during the read: %s, want %s", mask, allBlocked)
		}
		// The runtime preempts with SIGURG, which must stay pending.
		if err := unix.Tgkill(unix.Getpid(), tid, unix.SIGURG); err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Write(w, []byte("x")); err != nil {
			t.Fatal(err)
		}
		if before := <-done; before == allBlocked {
			t.Error("the test's thread had all signals blocked from the start")
		}
	})
}

// TestQuirk47EveryCallBlocksSignals checks that every call which may sleep in a
// driver, SET included, blocks signals as TestSignalsBlocked shows for a read.
// Only a real device sleeps in an ioctl, so this test parses the code.
func TestQuirk47EveryCallBlocksSignals(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "sys_linux.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	guarded := map[string]bool{"ioctl": false, "read": false, "write": false, "splice": false, "waitReadable": false}
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || fn.Recv == nil {
			continue
		}
		if _, ok := guarded[fn.Name.Name]; ok {
			guarded[fn.Name.Name] = blocksFirst(fn)
		}
	}
	for name, ok := range guarded {
		if !ok {
			t.Errorf("the first statement of host.%s is not: defer restoreSignals(blockSignals())", name)
		}
	}
}

func blocksFirst(fn *ast.FuncDecl) bool {
	d, ok := fn.Body.List[0].(*ast.DeferStmt)
	if !ok || len(d.Call.Args) != 1 {
		return false
	}
	restore, ok := d.Call.Fun.(*ast.Ident)
	block, ok2 := d.Call.Args[0].(*ast.CallExpr)
	if !ok || !ok2 || restore.Name != "restoreSignals" {
		return false
	}
	name, ok := block.Fun.(*ast.Ident)
	return ok && name.Name == "blockSignals"
}

// TestIoctlNumbers checks that kernel devices are not supported where _IO adds direction bits,
// as on powerpc, mips and sparc.
func TestIoctlNumbers(t *testing.T) {
	for direction, works := range map[uint32]bool{0: true, 0x20000000: false} {
		if err := checkIoctlNumbers(direction); (err == nil) != works || !works && !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("direction %#x: %v", direction, err)
		}
	}
}

// TestIoctlArguments passes a pointer and a value to ioctls that every pipe supports.
func TestIoctlArguments(t *testing.T) {
	r, w := pipe(t)
	if _, err := unix.Write(w, []byte("12345")); err != nil {
		t.Fatal(err)
	}
	_, err := host{}.ioctl(r, reqDeviceGetInfo, &deviceInfo{argsz: 24})
	wantIs(t, err, unix.ENOTTY)
	var waiting int32
	if _, err := (host{}).ioctl(r, unix.TIOCINQ, &waiting); err != nil || waiting != 5 {
		t.Errorf("TIOCINQ (FIONREAD) through a pointer: %d, %v; want 5", waiting, err)
	}
	for _, value := range []any{nil, 0, 7} { // none of them an address
		_, err = host{}.ioctl(r, unix.TIOCINQ, value)
		wantIs(t, err, unix.EFAULT)
	}
}

// TestQuirk10SpliceOnPlainFiles splices between files that can be spliced, and
// expects errors.ErrUnsupported for files that cannot.
func TestQuirk10SpliceOnPlainFiles(t *testing.T) {
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteString("state"); err != nil {
		t.Fatal(err)
	}
	if _, err := file.Seek(0, 0); err != nil {
		t.Fatal(err)
	}
	r, w := pipe(t)
	if n, err := Splice(w, int(file.Fd()), 64); n != 5 || err != nil {
		t.Errorf("file to pipe: %d, %v", n, err)
	}
	p := make([]byte, 8)
	if n, _ := unix.Read(r, p); string(p[:n]) != "state" {
		t.Errorf("pipe has %q", p[:n])
	}
	if n, err := Splice(w, int(file.Fd()), 64); n != 0 || err != nil {
		t.Errorf("at the end: %d, %v", n, err)
	}
	_, err = Splice(int(file.Fd()), int(file.Fd()), 1) // neither is a pipe
	wantIs(t, err, errors.ErrUnsupported)
}

// TestQuirk13CloseBesideRead closes a stream during a blocked read. The fd stays
// open until the read returns, so its number is not reused.
func TestQuirk13CloseBesideRead(t *testing.T) {
	r, w := pipe(t)
	fd, err := unix.Dup(r)
	if err != nil {
		t.Fatal(err)
	}
	s := &stream{fd: descriptor{kernel: host{}, fd: fd}}
	tids, got := make(chan int), make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		tids <- unix.Gettid()
		_, err := s.Read(make([]byte, 8))
		got <- err
	}()
	awaitRead(t, <-tids)
	_ = s.Close()
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
		t.Error("the fd was closed under the read")
	}
	if _, err := unix.Write(w, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Errorf("the read failed: %v", err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
		t.Error("the fd is still open")
	}
}
