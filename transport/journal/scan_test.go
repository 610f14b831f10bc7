package journal

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
)

// many is how many journals a host has that was up for years.
const many = 10_000

// manyJournals makes a directory with that many journals of one role, each of a migration
// that ended at a time.
func manyJournals(t testing.TB, ended time.Time) string {
	dir, err := os.MkdirTemp("/dev/shm", "journals") // in memory: making them takes seconds on a disk
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	j := open(t, dir, Options{Volatile: true})
	appendAll(t, j, entry(handoff.Open, 1), entry(handoff.Commit, 1), entry(handoff.Done, 1))
	j.Close()
	file, err := os.ReadFile(j.file.Name())
	if err != nil {
		t.Fatal(err)
	}
	all := j.all
	for i := range many {
		id := migration.ID{1: byte(i >> 8), 2: byte(i)}
		for at, r := range all {
			r.Attempt.Mig, r.Time = id, ended
			copy(file[at*recordLen:], r.encode())
		}
		if err := os.WriteFile(filepath.Join(dir, Name(Source, id)), file, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(j.file.Name()); err != nil {
		t.Fatal(err)
	}
	return dir
}

// lookAtAll is what a start does.
func lookAtAll(t testing.TB, dir string, before time.Time) (found, gone int) {
	for f, err := range Scan(dir, Source) {
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := f.Newest(); ok {
			found++
		}
		removed, err := f.Prune(before)
		if err != nil {
			t.Fatal(err)
		}
		if removed {
			gone++
		}
	}
	return found, gone
}

// TestScan: each journal of the role is found once, what is none is passed over, and what
// cannot be read is reported and does not end the scan.
func TestScan(t *testing.T) {
	dir := t.TempDir()
	put := func(name string, text []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	whole := written(t)
	put(Name(Source, mig), whole)
	put(Name(Destination, mig), whole)
	put(Name(Source, migration.ID{1}), nil)
	put(Name(Source, migration.ID{2}), whole) // of another migration
	put(Name(Source, migration.ID{3}), bytes.Repeat([]byte("text"), 100))
	put(Name(Source, mig)+".bak", whole)
	put("notes.source", whole)
	put(string(bytes.ToUpper([]byte(hex.EncodeToString(mig[:]))))+".source", whole)
	got := map[string]string{}
	for f, err := range Scan(dir, Source) {
		if err != nil {
			got[f.Path()] = "damaged"
			continue
		}
		got[f.Path()] = fmt.Sprint(len(f.Records()))
	}
	want := map[string]string{mig.String(): "4", migration.ID{1}.String(): "0", migration.ID{2}.String(): "damaged", migration.ID{3}.String(): "damaged"}
	if len(got) != len(want) {
		t.Errorf("found %v", got)
	}
	for id, what := range want {
		if path := filepath.Join(dir, id+".source"); got[path] != what {
			t.Errorf("%s: %q, want %q", path, got[path], what)
		}
	}
	for f, err := range Scan(filepath.Join(dir, "none"), Source) {
		if f != nil || !os.IsNotExist(err) {
			t.Errorf("no directory: %v", err)
		}
	}
}

// BenchmarkStart is what ten thousand old journals cost a start.
func BenchmarkStart(b *testing.B) {
	dir := manyJournals(b, time.Now())
	b.ReportAllocs()
	for b.Loop() {
		if found, gone := lookAtAll(b, dir, time.Now().Add(-month)); found != many || gone != 0 {
			b.Fatal(found, gone)
		}
	}
}
