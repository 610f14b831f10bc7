package journal

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
)

const month = 30 * 24 * time.Hour

// aged writes a journal with these records behind its first, whose newest is
// that old, and closes it.
func aged(t *testing.T, dir string, role Role, age time.Duration, records ...handoff.Entry) string {
	t.Helper()
	j := open(t, dir, Options{Role: role})
	appendAll(t, j, records...)
	last := j.all[len(j.all)-1]
	last.Time = time.Now().Add(-age)
	if err := j.write(last); err != nil {
		t.Fatal(err)
	}
	j.Close()
	return j.file.Name()
}

// TestPrune: what ended long ago goes. What is young, in use, unclear or not over
// stays, however old.
func TestPrune(t *testing.T) {
	const source, dest = Source, Destination
	list := func(records ...handoff.Record) (all []handoff.Entry) {
		for _, r := range records {
			all = append(all, entry(r, 1))
		}
		return all
	}
	for _, c := range []struct {
		name    string
		role    Role
		age     time.Duration
		records []handoff.Entry
		spoil   func(t *testing.T, path string)
		gone    bool
	}{
		{name: "source, never opened", role: source, age: month + 1, gone: true},
		{name: "source, open", role: source, age: 99 * month, records: list(handoff.Open)},
		{name: "source, taken back", role: source, age: month + 1, records: list(handoff.Open, handoff.Owner), gone: true},
		{name: "source, on its way back", role: source, age: 99 * month, records: append(list(handoff.Open), handoff.Entry{Record: handoff.Owner, Attempt: entry(handoff.Owner, 1).Attempt, Sole: true})},
		{name: "source, not taken back", role: source, age: 99 * month, records: list(handoff.Open, handoff.Owner, handoff.ResumeFailed)},
		{name: "source, in doubt", role: source, age: 99 * month, records: list(handoff.Open, handoff.Commit)},
		{name: "source, done", role: source, age: month + 1, records: list(handoff.Open, handoff.Commit, handoff.Done), gone: true},
		{name: "source, done, young", role: source, age: month - time.Hour, records: list(handoff.Open, handoff.Commit, handoff.Done)},
		{name: "source, done, in the future", role: source, age: -month, records: list(handoff.Open, handoff.Commit, handoff.Done)},
		{name: "source, in doubt after an attempt that was taken back", role: source, age: 99 * month,
			records: append(list(handoff.Open, handoff.Owner), entry(handoff.Open, 2), entry(handoff.Commit, 2))},

		{name: "destination, nothing opened", role: dest, age: month + 1, gone: true},
		{name: "destination, open", role: dest, age: 99 * month, records: list(handoff.Open)},
		{name: "destination, ready", role: dest, age: 99 * month, records: list(handoff.Open, handoff.Ready)},
		{name: "destination, accepted", role: dest, age: 99 * month, records: list(handoff.Open, handoff.Ready, handoff.Accept)},
		{name: "destination, done", role: dest, age: month + 1, records: list(handoff.Open, handoff.Ready, handoff.Accept, handoff.Done), gone: true},
		{name: "destination, done, young", role: dest, age: month - time.Hour, records: list(handoff.Open, handoff.Ready, handoff.Accept, handoff.Done)},
		{name: "destination, aborted", role: dest, age: month + 1, records: list(handoff.Open, handoff.Aborted), gone: true},
		{name: "destination, aborted after READY", role: dest, age: 99 * month, records: list(handoff.Open, handoff.Ready, handoff.Aborted)},
		{name: "destination, aborted after an older READY", role: dest, age: month + 1, gone: true,
			records: append(list(handoff.Open, handoff.Ready), entry(handoff.Open, 2), entry(handoff.Aborted, 2))},

		{name: "locked", role: source, age: month + 1, records: list(handoff.Open, handoff.Commit, handoff.Done),
			spoil: func(t *testing.T, path string) {
				f, err := os.Open(path)
				if err == nil {
					err = lock(int(f.Fd()))
				}
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { f.Close() })
			}},
		{name: "damaged", role: source, age: month + 1, records: list(handoff.Open, handoff.Commit, handoff.Done),
			spoil: func(t *testing.T, path string) {
				edit(t, path, func(b []byte) []byte { b[recordLen+atEpoch]++; return b })
			}},
		{name: "torn before DONE", role: source, age: month + 1, records: list(handoff.Open, handoff.Commit, handoff.Done),
			spoil: func(t *testing.T, path string) {
				edit(t, path, func(b []byte) []byte { clear(b[4*recordLen-9 : 4*recordLen]); return b })
			}},
		{name: "cut", role: source, age: month + 1, records: list(handoff.Open, handoff.Commit, handoff.Done),
			spoil: func(t *testing.T, path string) { edit(t, path, func(b []byte) []byte { return b[:4*recordLen] }) }},
		{name: "empty", role: source, gone: true,
			spoil: func(t *testing.T, path string) { edit(t, path, func([]byte) []byte { return nil }) }},
		{name: "torn in the first record", role: source, gone: true,
			spoil: func(t *testing.T, path string) { edit(t, path, func(b []byte) []byte { return b[:recordLen-1] }) }},
		{name: "another program's", role: source, age: month + 1,
			spoil: func(t *testing.T, path string) {
				edit(t, path, func([]byte) []byte { return make([]byte, recordLen+1) })
			}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			path := aged(t, dir, c.role, c.age, c.records...)
			if c.spoil != nil {
				c.spoil(t, path)
			}
			gone, err := Prune(dir, c.role, month)
			if err != nil {
				t.Fatal(err)
			}
			_, missing := os.Lstat(path)
			if c.gone != errors.Is(missing, os.ErrNotExist) || c.gone != slices.Equal(gone, []string{path}) {
				t.Errorf("gone: %q, %v; want %v", gone, missing, c.gone)
			}
		})
	}
}

func edit(t *testing.T, path string, do func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, do(b), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestPruneLeavesOthers: what is the other side's, of another migration than its
// name says, or no journal at all, is not this side's to remove.
func TestPruneLeavesOthers(t *testing.T) {
	dir := t.TempDir()
	other := aged(t, dir, Destination, 2*month)
	old := aged(t, dir, Source, 2*month)
	renamed := filepath.Join(dir, Name(Source, migration.ID{1}))
	if err := os.Rename(old, renamed); err != nil {
		t.Fatal(err)
	}
	for name, make := range map[string]func(path string) error{
		"a.source": func(p string) error { return os.Symlink(other, p) },
		"b.source": func(p string) error { return os.Mkdir(p, 0o700) },
		"c.source": func(p string) error { return os.WriteFile(p, []byte("text"), 0o600) },
	} {
		if err := make(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if gone, err := Prune(dir, Source, 0); err != nil || len(gone) > 0 {
		t.Errorf("gone: %q, %v", gone, err)
	}
	if gone, err := Prune(filepath.Join(dir, "none"), Source, 0); err != nil || len(gone) > 0 {
		t.Errorf("no directory: %q, %v", gone, err)
	}
}

// TestPruneUnderOpen: a file that loses its name between another process's open and
// its lock is free.
func TestPruneUnderOpen(t *testing.T) {
	dir := t.TempDir()
	path := aged(t, dir, Source, 2*month)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if gone, err := Prune(dir, Source, month); err != nil || len(gone) != 1 {
		t.Fatalf("gone: %q, %v", gone, err)
	}
	if err := lock(int(f.Fd())); !errors.Is(err, errRemoved) {
		t.Errorf("the removed file is locked: %v", err)
	}
	if j := open(t, dir, Options{}); j.Last().Record != handoff.Owner {
		t.Errorf("a new one says %v", j.Last().Record)
	}
}
