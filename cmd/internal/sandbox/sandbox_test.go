package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	llsys "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/handoff/witness"
	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/file"
)

// inside is set in the process that the tests start to be restricted: they cannot
// restrict their own, which runs the others too.
const inside = "MIGPIPE_TEST_SANDBOX"

// checked is what that process says when it has found nothing wrong.
const checked = "all was checked"

// restricted runs a test once more, in a process of its own in a new directory, which it
// is given.
func restricted(t *testing.T, child func(dir string) error) {
	t.Helper()
	if dir := os.Getenv(inside); dir != "" {
		if err := child(dir); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(checked)
		os.Exit(0)
	}
	if _, err := llsys.LandlockGetABIVersion(); err != nil {
		t.Skipf("SKIP: the kernel has no Landlock: %v", err)
	}
	cmd := exec.Command("/proc/self/exe", "-test.run", "^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), inside+"="+t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), checked) {
		t.Errorf("%v\n%s", err, out)
	}
}

// denied finds that an access was not refused by the sandbox.
func denied(what string, err error) error {
	if !errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%s: %v, want a refusal", what, err)
	}
	return nil
}

// enter makes what a program under test has before it is restricted.
func enter(dir string) (state, other string, _ error) {
	state, other = filepath.Join(dir, "state"), filepath.Join(dir, "other")
	err := errors.Join(os.Mkdir(state, 0o700), os.Mkdir(other, 0o700), os.WriteFile(filepath.Join(other, "secret"), []byte("x"), 0o600))
	if err != nil {
		return "", "", err
	}
	status, err := Enter(Needs{Write: []string{state}})
	if err == nil && (status.ABI < 1 || status.ABI > newest || status.Why != "") {
		err = fmt.Errorf("in force: %+v", status)
	}
	return state, other, err
}

// TestOutside: nothing outside of what was asked for can be read, listed, made,
// removed or executed, by any thread.
func TestOutside(t *testing.T) {
	restricted(t, func(dir string) error {
		before, err := os.Open(os.Args[0])
		if err != nil {
			return err
		}
		state, other, err := enter(dir)
		if err != nil {
			return err
		}
		secret := filepath.Join(other, "secret")
		_, read := os.ReadFile(secret)
		_, list := os.ReadDir(other)
		_, passwd := os.ReadFile("/etc/passwd")
		_, dev := os.OpenFile("/dev/null", os.O_RDWR, 0)
		copied := filepath.Join(state, "true")
		_, hosts := os.ReadFile("/etc/hosts")
		if errors.Is(hosts, fs.ErrNotExist) { // a machine may have none
			hosts = passwd
		}
		program := []byte("#!/bin/true\n")
		_, still := before.ReadAt(make([]byte, 4), 0)
		return errors.Join(
			denied("read", read), denied("list", list), denied("read /etc/passwd", passwd), denied("read /etc/hosts", hosts), denied("open a device", dev),
			denied("make", os.WriteFile(filepath.Join(other, "new"), nil, 0o600)),
			denied("remove", os.Remove(secret)),
			denied("move away", os.Rename(secret, filepath.Join(state, "secret"))),
			denied("make a directory", os.Mkdir(filepath.Join(state, "directory"), 0o700)),
			denied("execute", exec.Command("/bin/true").Run()),
			os.WriteFile(copied, program, 0o700), denied("execute what was written", exec.Command(copied).Run()),
			inThreads(func() error { _, err := os.ReadFile(secret); return denied("another thread", err) }),
			still, // what was open stays open
		)
	})
}

// inThreads does the same in several goroutines at once.
func inThreads(do func() error) error {
	var list [8]error
	var all sync.WaitGroup
	for i := range list {
		all.Go(func() { list[i] = do() })
	}
	all.Wait()
	return errors.Join(list[:]...)
}

// TestInside: journals, file sinks and sockets work as before.
func TestInside(t *testing.T) {
	restricted(t, func(dir string) error {
		state, other, err := enter(dir)
		if err != nil {
			return err
		}
		return errors.Join(
			keepsJournal(state),
			sinks(filepath.Join(state, "new"), nil),
			sinks(filepath.Join(state, "new"), &file.DestinationOptions{Overwrite: true}),
			denied("a sink elsewhere", sinks(filepath.Join(other, "new"), nil)),
			listens(filepath.Join(state, "sock")),
			denied("a socket elsewhere", listens(filepath.Join(other, "sock"))),
		)
	})
}

func keepsJournal(dir string) error {
	o := journal.Options{Role: journal.Source, Mig: migration.NewID(), Volatile: true}
	for range 2 { // made, then opened
		j, err := journal.Open(dir, o)
		if err != nil {
			return err
		}
		e := handoff.Entry{Record: handoff.Open, Attempt: migration.Attempt{Mig: o.Mig, Epoch: 1}}
		if err := errors.Join(j.Append(e), j.Close()); err != nil {
			return err
		}
	}
	paths, err := journal.List(dir, o.Role)
	if err == nil && len(paths) != 1 {
		err = fmt.Errorf("journals: %q", paths)
	}
	_, pruned := journal.Prune(dir, o.Role, 0)
	return errors.Join(err, pruned)
}

// sinks commits a state to a file.
func sinks(path string, o *file.DestinationOptions) error {
	s, err := file.NewDestination(path, o)
	if err != nil {
		return err
	}
	defer s.Close()
	stream, err := s.SetState(vfio.Resuming)
	if err == nil {
		_, err = stream.Write([]byte("state"))
	}
	for _, to := range []vfio.State{vfio.Stop, vfio.Running} {
		if err == nil {
			_, err = s.SetState(to)
		}
	}
	return err
}

// listens makes a socket and removes it.
func listens(path string) error {
	l, err := transport.ListenUnix(path)
	if err != nil {
		return err
	}
	return closes(l, path)
}

// closes ends a listener, and finds that its socket is left.
func closes(l transport.Listener, path string) error {
	err := l.Close()
	if _, left := os.Lstat(path); !errors.Is(left, fs.ErrNotExist) {
		err = errors.Join(err, fmt.Errorf("%s is left", path))
	}
	return err
}

// TestReplaced: a file that is replaced in a directory that may be used stays usable. A
// directory that is replaced is not: the rule is the old one's, so that no new right comes
// from a rename.
func TestReplaced(t *testing.T) {
	restricted(t, func(dir string) error {
		outside := exec.Command("/bin/sh", "-c", "read now && mv state state.old && mv other state")
		outside.Dir = dir
		now, err := outside.StdinPipe()
		if err := errors.Join(err, outside.Start()); err != nil {
			return err
		}
		state, _, err := enter(dir)
		if err != nil {
			return err
		}
		path, next := filepath.Join(state, "file"), filepath.Join(state, "next")
		again := errors.Join(os.WriteFile(path, []byte("old"), 0o600), os.WriteFile(next, []byte("new"), 0o600), os.Rename(next, path))
		text, err := os.ReadFile(path)
		if err = errors.Join(again, err); err != nil || string(text) != "new" {
			return fmt.Errorf("a file that was replaced: %q, %w", text, err)
		}
		w, err := witness.OpenDir(state)
		if err != nil {
			return err
		}
		attempt := migration.Attempt{Mig: migration.NewID(), Epoch: 1}
		if won, err := w.Decide(t.Context(), attempt, handoff.SourceSide); err != nil || won != handoff.SourceSide {
			return fmt.Errorf("the witness says %v, %w", won, err)
		}
		sink, err := file.NewDestination(filepath.Join(state, "sink"), nil)
		if err != nil {
			return err
		}
		defer sink.Close()
		stream, err := sink.SetState(vfio.Resuming)
		if err == nil {
			_, err = stream.Write([]byte("state"))
		}
		if err == nil {
			_, err = sink.SetState(vfio.Stop)
		}
		if err != nil {
			return err
		}
		_, err = now.Write([]byte("now\n"))
		if err := errors.Join(err, outside.Wait()); err != nil {
			return err
		}
		_, read := os.ReadFile(filepath.Join(state, "secret"))
		_, decided := w.Decide(t.Context(), attempt, handoff.DestSide)
		_, committed := sink.SetState(vfio.Running)
		return errors.Join(
			denied("a journal in it", keepsJournal(state)),
			denied("a witness in it", decided),
			denied("a file that appears in it", committed),
			denied("a socket in it", listens(filepath.Join(state, "sock"))),
			denied("read in a directory that was renamed here", read),
			denied("make in a directory that was renamed here", os.WriteFile(path, nil, 0o600)),
		)
	})
}

// TestReader: a reader may read below what it was given, and do nothing else.
func TestReader(t *testing.T) {
	restricted(t, func(dir string) error {
		etc, other := filepath.Join(dir, "etc"), filepath.Join(dir, "other")
		hosts, secret := filepath.Join(etc, "hosts"), filepath.Join(other, "secret")
		err := errors.Join(os.Mkdir(etc, 0o700), os.Mkdir(other, 0o700), os.WriteFile(hosts, nil, 0o600), os.WriteFile(secret, nil, 0o600))
		if err == nil {
			err = EnterReader([]string{etc, filepath.Join(dir, "none")}, false)
		}
		if err != nil {
			return err
		}
		_, allowed := os.ReadFile(hosts)
		_, read := os.ReadFile(secret)
		_, list := os.ReadDir(etc)
		_, dial := net.Dial("tcp", "127.0.0.1:53")
		return errors.Join(allowed,
			denied("read elsewhere", read), denied("list", list), denied("connect", dial),
			denied("write", os.WriteFile(hosts, nil, 0o600)), denied("remove", os.Remove(hosts)),
			denied("execute", exec.Command("/bin/true").Run()),
		)
	})
}

// TestRemove: a socket that is to be removed in the end is, and to nothing beside it is
// more done than that.
func TestRemove(t *testing.T) {
	restricted(t, func(dir string) error {
		socket, key := filepath.Join(dir, "sock"), filepath.Join(dir, "send.key")
		l, err := transport.ListenUnix(socket)
		if err := errors.Join(err, os.WriteFile(key, []byte("x"), 0o600)); err != nil {
			return err
		}
		if _, err := Enter(Needs{Remove: []string{dir}}); err != nil {
			return err
		}
		_, read := os.ReadFile(key)
		_, list := os.ReadDir(dir)
		return errors.Join(
			denied("read", read), denied("list", list),
			denied("write", os.WriteFile(key, nil, 0o600)),
			denied("make", os.WriteFile(filepath.Join(dir, "new"), nil, 0o600)),
			denied("rename", os.Rename(key, filepath.Join(dir, "new"))),
			denied("another socket", listens(filepath.Join(dir, "new"))),
			closes(l, socket),
		)
	})
}

// TestSelf: what the kernel knows of the process can be read by name where that was asked
// for, and neither what else is there nor what it knows of others.
func TestSelf(t *testing.T) {
	restricted(t, func(dir string) error {
		if _, err := Enter(Needs{Self: true}); err != nil {
			return err
		}
		var all []error
		for _, path := range self {
			_, err := os.ReadFile(path)
			all = append(all, err)
		}
		for _, path := range []string{"/proc/self/environ", "/proc/1/stat", "/proc/meminfo"} {
			_, err := os.ReadFile(path)
			all = append(all, denied(path, err))
		}
		return errors.Join(all...)
	})
}

// TestPrograms: who is to run others is not restricted, and says so.
func TestPrograms(t *testing.T) {
	restricted(t, func(dir string) error {
		status, err := Enter(Needs{Programs: true})
		if status.ABI != 0 || !strings.Contains(status.Why, "programs are to be run") {
			return fmt.Errorf("in force: %+v, %v", status, err)
		}
		return exec.Command("/bin/true").Run()
	})
}

// TestMissing: a path that is not there is an error, and not something less.
func TestMissing(t *testing.T) {
	restricted(t, func(dir string) error {
		_, err := Enter(Needs{Write: []string{filepath.Join(dir, "none")}})
		if !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), "none") {
			return fmt.Errorf("entered: %v", err)
		}
		return nil
	})
}

// TestScopes: no signal and no abstract socket reaches the process that has begun this one.
func TestScopes(t *testing.T) {
	name := fmt.Sprintf("@mig-sandbox-%d", os.Getppid())
	if os.Getenv(inside) == "" {
		if abi, _ := llsys.LandlockGetABIVersion(); abi < scopesSince {
			t.Skipf("SKIP: Landlock %d has no scopes", abi)
		}
		l, err := net.Listen("unix", fmt.Sprintf("@mig-sandbox-%d", os.Getpid()))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	restricted(t, func(string) error {
		dial := func() error {
			c, err := net.Dial("unix", name)
			if err == nil {
				c.Close()
			}
			return err
		}
		if err := errors.Join(dial(), unix.Kill(os.Getppid(), 0)); err != nil {
			return fmt.Errorf("before: %w", err)
		}
		status, err := Enter(Needs{})
		if err != nil || len(status.Scopes) != 2 {
			return fmt.Errorf("in force: %+v, %w", status, err)
		}
		return errors.Join(denied("a signal", unix.Kill(os.Getppid(), 0)), denied("an abstract socket", dial()), unix.Kill(os.Getpid(), 0))
	})
}

// TestAbstract: a process that connects to an abstract socket may, and still sends no signal.
func TestAbstract(t *testing.T) {
	name := fmt.Sprintf("@mig-abstract-%d", os.Getppid())
	if os.Getenv(inside) == "" {
		l, err := net.Listen("unix", fmt.Sprintf("@mig-abstract-%d", os.Getpid()))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	restricted(t, func(string) error {
		status, err := Enter(Needs{Abstract: true})
		if err != nil {
			return err
		}
		c, err := net.Dial("unix", name)
		if err != nil {
			return err
		}
		c.Close()
		if len(status.Scopes) == 0 { // an old kernel
			return nil
		}
		if !slices.Equal(status.Scopes, []string{"signal"}) {
			return fmt.Errorf("in force: %+v", status)
		}
		return denied("a signal", unix.Kill(os.Getppid(), 0))
	})
}

// TestPrivileges: root keeps no capability but those that it is left, and gains none.
func TestPrivileges(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIP: only root has capabilities")
	}
	restricted(t, func(dir string) error {
		foreign := filepath.Join(dir, "foreign")
		if err := errors.Join(os.WriteFile(foreign, nil, 0o600), os.Chown(foreign, 12345, 12345)); err != nil {
			return err
		}
		status, err := Enter(Needs{Write: []string{dir}, Keep: []Capability{NetAdmin}})
		if err != nil || !status.Privileges || len(status.Left) != 1 || status.Left[0].String() != "net_admin" {
			return fmt.Errorf("in force: %+v, %w", status, err)
		}
		_, err = os.ReadFile(foreign)
		return errors.Join(denied("another user's file", err), denied("a change of owner", os.Chown(foreign, 0, 0)))
	})
}

// TestWritable: what an owner and a mode allow, without capabilities.
func TestWritable(t *testing.T) {
	dir := t.TempDir()
	if !Writable(dir) || !Writable(dir+"/../"+filepath.Base(dir)) {
		t.Error("a directory of one's own is not writable")
	}
	below := filepath.Join(dir, "below")
	if err := errors.Join(os.Mkdir(below, 0o500)); err != nil {
		t.Fatal(err)
	}
	if Writable(below) || Writable(filepath.Join(dir, "missing")) {
		t.Error("a directory without w is writable, or one that is not there")
	}
	if os.Geteuid() == 0 {
		if err := errors.Join(os.Chmod(below, 0o700), os.Chown(dir, 12345, 12345), os.Chmod(dir, 0o700)); err != nil {
			t.Fatal(err)
		}
		if Writable(below) || Searchable(below) {
			t.Error("a directory behind one of another user is writable")
		}
	}
}
