package journal

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/internal/safefile"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
)

// TestTogether: starts at the same time in one directory do not disturb each other. Each
// does what a program does: it makes the directory, reads what is there, removes what is
// over, and opens a journal of its own. Half of the starts before them have left an empty
// file.
func TestTogether(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for range 50 {
		if err := os.WriteFile(filepath.Join(dir, Name(Source, migration.NewID())), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var starts sync.WaitGroup
	first := make(chan struct{})
	const together = 100
	for range together {
		starts.Go(func() {
			<-first
			for range 3 { // a removal meets a start only now and then
				start(t, dir)
			}
		})
	}
	close(first)
	starts.Wait()
	paths, err := List(dir, Source)
	if err != nil || len(paths) != 3*together {
		t.Errorf("%d journals, %v, want those of %d starts", len(paths), err, 3*together)
	}
}

func start(t *testing.T, dir string) {
	if err := Check(dir, false); err != nil {
		t.Error(err)
	}
	for f, err := range Scan(dir, Source) {
		if err != nil {
			t.Error(err)
			continue
		}
		if _, err := f.Prune(time.Now().Add(-month)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	}
	mig := migration.NewID()
	j, err := Open(dir, Options{Role: Source, Mig: mig})
	if err != nil {
		t.Error(err)
		return
	}
	defer j.Close()
	if err := j.Append(handoff.Entry{Record: handoff.Open, Attempt: migration.Attempt{Mig: mig, Epoch: 1}}); err != nil {
		t.Error(err)
	}
}

// TestCheckTogether: one directory is made by all that start at once, and no error comes of it.
func TestCheckTogether(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	var starts sync.WaitGroup
	for range 50 {
		starts.Go(func() {
			if err := Check(dir, false); err != nil {
				t.Error(err)
			}
		})
	}
	starts.Wait()
}

// TestRemovedBeforeLock: a start whose file another process removes before the first record,
// under the lock, makes the file again. If that process has done something else with the file,
// it is in use.
func TestRemovedBeforeLock(t *testing.T) {
	for _, c := range []struct {
		name  string
		holds func(path string, f *os.File) error
		want  error
	}{
		{"removed", func(path string, f *os.File) error { return errors.Join(os.Remove(path), f.Close()) }, nil},
		{"let go", func(_ string, f *os.File) error { return f.Close() }, nil},
		{"begun", func(_ string, f *os.File) error {
			first := Record{Seq: 1, Role: Source, Entry: entry(handoff.Owner, 0)}
			_, err := f.WriteAt(first.encode(), 0)
			return err
		}, ErrBusy},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, Name(Source, mig))
			f, err := os.Create(path)
			if err == nil {
				err = lock(int(f.Fd()))
			}
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := openFile(path, dir, Options{Role: Source, Mig: mig}); !errors.Is(err, errRemoved) {
				t.Fatalf("an empty file that another process has locked: %v", err)
			}
			done := make(chan error)
			go func() {
				j, err := Open(dir, Options{Role: Source, Mig: mig})
				if err == nil {
					err = j.Close()
				}
				done <- err
			}()
			if err := c.holds(path, f); err != nil {
				t.Fatal(err)
			}
			if err := <-done; !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
}

// TestOthersFiles: a directory or a journal that another user could write decides nothing.
func TestOthersFiles(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, Options{})
	j.Close()
	path := filepath.Join(dir, Name(Source, mig))
	refused := func(what string) {
		t.Helper()
		if _, err := Open(dir, Options{Role: Source, Mig: mig}); !errors.Is(err, safefile.ErrUntrusted) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for name, mode := range map[string]os.FileMode{path: 0o660, dir: 0o770} {
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
		refused(name)
		if err := os.Chmod(name, mode&0o700); err != nil {
			t.Fatal(err)
		}
	}
	if unix.Geteuid() == 0 {
		for _, name := range []string{path, dir} {
			if err := os.Chown(name, 12345, -1); err != nil {
				t.Fatal(err)
			}
			refused("another user's " + name)
			if err := os.Chown(name, 0, -1); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := Open(filepath.Join(dir, "no", "state"), Options{Role: Source, Mig: mig}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("two directories are missing: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "no")); err == nil {
		t.Error("a directory above the directory was made")
	}
}
