package cli

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/transport/migration"
)

// TestSurvey: a run keeps in memory what it may go on with, and of the settled journals the
// newest of each kind and those that are asked for. Old ones go, and an empty file.
func TestSurvey(t *testing.T) {
	dir := t.TempDir()
	s := &stateFlags{dir: dir, volatile: true, keep: time.Hour}
	for i, kind := range []handoff.Record{handoff.Done, handoff.Open, handoff.Done, handoff.Running, handoff.Open, handoff.Running, handoff.Done, handoff.Ready} {
		a := migration.Attempt{Mig: migration.ID{byte(i + 1)}, Epoch: 1}
		j, err := journal.Open(dir, journal.Options{Role: journal.Destination, Mig: a.Mig, Volatile: true})
		if err == nil {
			err = j.Append(handoff.Entry{Record: kind, Attempt: a})
		}
		if err != nil {
			t.Fatal(err)
		}
		j.Close()
	}
	empty := filepath.Join(dir, journal.Name(journal.Destination, migration.ID{99}))
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	left, err := s.remaining(journal.Destination, func(mig migration.ID, _ handoff.Record, _ time.Time) bool { return mig[0] == 3 })
	if err != nil {
		t.Fatal(err)
	}
	var got []byte
	for _, r := range left {
		got = append(got, r.Attempt.Mig[0])
	}
	if want := []byte{2, 3, 5, 6, 7, 8}; !slices.Equal(got, want) {
		t.Errorf("left: %v, want %v", got, want)
	}
	if _, err := os.Lstat(empty); !os.IsNotExist(err) {
		t.Errorf("the empty file: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, journal.Name(journal.Destination, migration.ID{2}))); err != nil {
		t.Fatal(err)
	}
	if again, err := s.remaining(journal.Destination, nil); err != nil || len(again) != len(left) {
		t.Errorf("the files were read again: %v, %v", again, err)
	}
	if all, err := journal.List(dir, journal.Destination); err != nil || len(all) != 7 {
		t.Errorf("files: %v, %v", all, err)
	}
}

// TestSurveyKeepsSole: of sources whose copy elsewhere may be the only one none is left out.
func TestSurveyKeepsSole(t *testing.T) {
	dir := t.TempDir()
	s := &stateFlags{dir: dir, volatile: true, keep: time.Hour}
	for i := range 3 {
		a := migration.Attempt{Mig: migration.ID{byte(i + 1)}, Epoch: 1}
		j, err := journal.Open(dir, journal.Options{Role: journal.Source, Mig: a.Mig, Volatile: true})
		if err == nil {
			err = j.Append(handoff.Entry{Record: handoff.Owner, Attempt: a, Sole: i > 0})
		}
		if err != nil {
			t.Fatal(err)
		}
		j.Close()
	}
	left, err := s.remaining(journal.Source, nil)
	if err != nil || len(left) != 3 {
		t.Errorf("%d left, %v", len(left), err)
	}
}
