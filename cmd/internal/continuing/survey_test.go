package continuing

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/transport/migration"
)

// TestSurvey: a run holds in memory what may continue, and of the settled journals the newest
// of each kind. Old ones go, and an empty file.
func TestSurvey(t *testing.T) {
	dir := t.TempDir()
	s := &State{dir: dir, Volatile: true, Keep: time.Hour}
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
	left, err := s.ofDevices(journal.Destination)
	if err != nil {
		t.Fatal(err)
	}
	var got []byte
	for _, r := range left {
		got = append(got, r.Attempt.Mig[0])
	}
	if want := []byte{2, 5, 6, 7, 8}; !slices.Equal(got, want) {
		t.Errorf("left: %v, want %v", got, want)
	}
	if _, err := os.Lstat(empty); !os.IsNotExist(err) {
		t.Errorf("the empty file: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, journal.Name(journal.Destination, migration.ID{2}))); err != nil {
		t.Fatal(err)
	}
	if again, err := s.ofDevices(journal.Destination); err != nil || len(again) != len(left) {
		t.Errorf("the files were read again: %v, %v", again, err)
	}
	if all, err := journal.List(dir, journal.Destination); err != nil || len(all) != 7 {
		t.Errorf("files: %v, %v", all, err)
	}
}

// TestSurveyKeepsSole: of sources whose copy elsewhere may be the only one none is left out.
func TestSurveyKeepsSole(t *testing.T) {
	dir := t.TempDir()
	s := &State{dir: dir, Volatile: true, Keep: time.Hour}
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
	left, err := s.ofDevices(journal.Source)
	if err != nil || len(left) != 3 {
		t.Errorf("%d left, %v", len(left), err)
	}
}

// TestSurveyOfDevices: journals of other devices do not count, and are pruned all the same.
func TestSurveyOfDevices(t *testing.T) {
	dir := t.TempDir()
	here := []journal.Device{{Name: "d", Address: "vfio:0000:3b:00.1"}}
	for i, list := range [][]journal.Device{nil, here, {{Name: "d", Address: "vfio:0000:3b:00.2"}}, {{Name: "d"}}, {{Name: "e"}}} {
		a := migration.Attempt{Mig: migration.ID{byte(i + 1)}, Epoch: 1}
		j, err := journal.Open(dir, journal.Options{Role: journal.Source, Mig: a.Mig, Volatile: true, Devices: list})
		if err == nil {
			err = errors.Join(j.Append(handoff.Entry{Record: handoff.Open, Attempt: a}), j.Append(handoff.Entry{Record: handoff.Commit, Attempt: a}))
		}
		if err != nil {
			t.Fatal(err)
		}
		j.Close()
	}
	s := &State{dir: dir, Volatile: true, Keep: time.Hour, Devices: here}
	all, err := s.ofDevices(journal.Source)
	if err != nil {
		t.Fatal(err)
	}
	var got []byte
	for _, r := range all {
		got = append(got, r.Attempt.Mig[0])
	}
	if want := []byte{1, 2, 4}; !slices.Equal(got, want) {
		t.Errorf("of the devices: %v, want %v", got, want)
	}
}
