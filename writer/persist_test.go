package writer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/file"
)

// loadedFile is a loaded file, as an earlier process left it.
type loadedFile struct {
	path  string
	epoch uint64
	sum   migration.StreamDigest
}

// make loads a file and stops at a state: RESUMING, with a complete copy, STOP or RUNNING.
func (k *loadedFile) make(t *testing.T, number, of int, at vfio.State) {
	t.Helper()
	content := bytes.Repeat([]byte{byte(number + 1)}, 1000*(number+1))
	h := &wire.Hello{Attempt: k.attempt(), Devices: make([]wire.DeviceOffer, of)}
	h.Devices[number].Name = fmt.Sprint("d", number)
	digest := wire.NewDigest()
	digest.Add(wire.ChunkHead{Device: uint16(number), RawLen: uint32(len(content)), Digest: 7})
	k.sum = digest.Sum()
	n := newCopyNote(h, number, migration.JournalID{2})
	n.Digest = k.sum
	b, err := n.encode()
	if err != nil {
		t.Fatal(err)
	}
	d, err := file.NewDestination(k.path, nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := d.Persist(sessionID(n.Mig))
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skipf("SKIP: %v", err)
	}
	if err == nil {
		_, err = s.Write(content)
	}
	if err == nil {
		err = s.Complete(b)
	}
	if err == nil && at != vfio.Resuming {
		_, err = d.SetState(at)
	}
	if err = errors.Join(err, d.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestResumeCopy checks that a complete copy of files is accepted only whole and verified.
// Otherwise nothing of it is removed.
func TestResumeCopy(t *testing.T) {
	remove := func(paths []string) { os.Remove(paths[1]) }
	const loaded, named = vfio.Stop, vfio.Running
	for _, c := range []struct {
		name   string
		record handoff.Record
		steps  [2]vfio.State
		spoil  func(left []string)
		wrong  bool // the journal has another digest
		want   handoff.Holding
		err    string
	}{
		{name: "READY", record: handoff.Ready, steps: [2]vfio.State{loaded, loaded}, want: handoff.Whole},
		{name: "READY, killed on the way to STOP", record: handoff.Ready, steps: [2]vfio.State{loaded, vfio.Resuming}, want: handoff.Whole},
		{name: "ACCEPT", record: handoff.Accept, steps: [2]vfio.State{loaded, loaded}, want: handoff.Whole},
		{name: "ACCEPT, one has its name", record: handoff.Accept, steps: [2]vfio.State{named, loaded}, want: handoff.Whole},
		{name: "ACCEPT, both have", record: handoff.Accept, steps: [2]vfio.State{named, named}, want: handoff.Executing},
		{name: "FORCED, after READY", record: handoff.Forced, steps: [2]vfio.State{loaded, loaded}, want: handoff.Whole},
		{name: "nothing", record: handoff.Accept, steps: [2]vfio.State{loaded, loaded}, spoil: func(left []string) { remove(left); os.Remove(left[0]) }, want: handoff.Nothing},
		{name: "ACCEPT, one is missing", record: handoff.Accept, steps: [2]vfio.State{loaded, loaded}, spoil: remove, err: "device d1 "},
		{name: "READY, one is missing", record: handoff.Ready, steps: [2]vfio.State{loaded, loaded}, spoil: remove, err: "device d1 "},
		{name: "READY, and one has its name", record: handoff.Ready, steps: [2]vfio.State{loaded, named}, err: "already has its final name"},
		{name: "another digest", record: handoff.Accept, steps: [2]vfio.State{loaded, loaded}, wrong: true, err: "the digest of the copy in the devices"},
		{name: "a file that is shorter", record: handoff.Accept, steps: [2]vfio.State{loaded, loaded}, spoil: func(left []string) { os.Truncate(left[0], 10) }, err: "device d0 "},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			a := migration.Attempt{Mig: migration.ID{1}, Epoch: 3}
			var sums []migration.StreamDigest
			var left []string
			var targets []Target
			for i := range 2 {
				k := loadedFile{path: filepath.Join(dir, fmt.Sprint("f", i)), epoch: a.Epoch}
				k.make(t, i, 2, c.steps[i])
				sums = append(sums, k.sum)
				left = append(left, filepath.Join(dir, fmt.Sprintf(".f%d.%s.resumable", i, sessionID(a.Mig))))
			}
			if c.spoil != nil {
				c.spoil(left)
			}
			last := handoff.Entry{Record: c.record, Attempt: a, Journal: migration.JournalID{2}, Digest: wire.SetDigest(sums)}
			if c.record == handoff.Forced {
				last.Attempt.Epoch++
			}
			if c.wrong {
				last.Digest[0]++
			}
			before := listed(t, dir)
			for i := range 2 {
				d, err := file.NewDestination(filepath.Join(dir, fmt.Sprint("f", i)), nil)
				if err != nil {
					t.Fatal(err)
				}
				targets = append(targets, Target{Name: fmt.Sprint("d", i), Device: d})
			}
			f := newFleet(targets)
			f.session = sessionID(a.Mig)
			got, err := f.resume(last)
			if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Fatalf("%v, %v, want %v and an error about %q", got, err, c.want, c.err)
			}
			if got == handoff.Whole || got == handoff.Executing {
				if err := f.start(); err != nil {
					t.Error(err)
				}
				if err := f.removeSessions(a.Mig); err != nil {
					t.Error(err)
				}
				before = "f0 f1"
			}
			for _, s := range targets {
				s.Device.Close()
			}
			if after := listed(t, dir); after != before {
				t.Errorf("the directory has %s, want %s", after, before)
			}
		})
	}
}

func listed(t *testing.T, dir string) string {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, f := range all {
		list = append(list, f.Name())
	}
	return strings.Join(list, " ")
}

// TestStartOfResumedCopy checks that a device whose file cannot get its final name has not run, and
// that the copy is complete as long as none has.
func TestStartOfResumedCopy(t *testing.T) {
	for _, c := range []struct {
		first vfio.State
		want  handoff.Copy
	}{{vfio.Stop, handoff.Kept}, {vfio.Running, handoff.Unclear}} {
		dir := t.TempDir()
		var targets []Target
		var sums []migration.StreamDigest
		for i, step := range []vfio.State{c.first, vfio.Stop} {
			k := loadedFile{path: filepath.Join(dir, fmt.Sprint("f", i)), epoch: 3}
			k.make(t, i, 2, step)
			sums = append(sums, k.sum)
			d, err := file.NewDestination(k.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			targets = append(targets, Target{Name: fmt.Sprint("d", i), Device: d})
		}
		f := newFleet(targets)
		f.session = sessionID(migration.ID{1})
		f.each = func(n int, do func(int) error) (err error) { // the last one first
			for i := range n {
				err = errors.Join(err, do(n-1-i))
			}
			return err
		}
		last := handoff.Entry{Record: handoff.Accept, Attempt: migration.Attempt{Mig: migration.ID{1}, Epoch: 3}, Journal: migration.JournalID{2}, Digest: wire.SetDigest(sums)}
		if got, err := f.resume(last); got != handoff.Whole || err != nil {
			t.Fatal(got, err)
		}
		for i := range 2 {
			os.Mkdir(filepath.Join(dir, fmt.Sprint("f", i)), 0o700) // blocks the final names
		}
		if err := f.start(); err == nil {
			t.Error("the start succeeded")
		}
		if got := f.undoStart(); got != c.want {
			t.Errorf("with the first in %v the copy is %v, want %v", c.first, got, c.want)
		}
	}
}

// lastingJournal is a journal that knows whether its host was started again.
type lastingJournal struct {
	*handoff.Memory
	rebooted bool
}

func (l lastingJournal) Rebooted() bool { return l.rebooted }

func (k *loadedFile) attempt() migration.Attempt {
	return migration.Attempt{Mig: migration.ID{1}, Epoch: k.epoch}
}

// start is a process that should continue with the file, for which ACCEPT is recorded. It is
// cancelled after a minute.
func (k *loadedFile) start(t *testing.T, j lastingJournal) (transport.Dialer, func() (migration.Report, error)) {
	t.Helper()
	device, err := file.NewDestination(k.path, nil)
	if err != nil {
		t.Fatal(err)
	}
	d, l := transport.Pipe()
	t.Cleanup(func() { l.Close(); device.Close() })
	j.Append(handoff.Entry{Record: handoff.Accept, Attempt: k.attempt(), Journal: migration.JournalID{2}, Digest: wire.SetDigest([]migration.StreamDigest{k.sum})})
	return d, func() (migration.Report, error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		return Receive(ctx, l, []Target{{Name: "d0", Device: device}}, &Options{
			Continue: k.attempt().Mig, Journals: func(migration.ID, bool) (handoff.Journal, error) { return j, nil },
		})
	}
}

// TestAcceptedBeforeARestart checks that a process which should continue does not start a copy that
// was accepted before a restart of the host: a person may have let the source run. A source that
// asks does not know of such a decision.
func TestAcceptedBeforeARestart(t *testing.T) {
	for _, rebooted := range []bool{false, true} {
		dir := t.TempDir()
		k := loadedFile{path: filepath.Join(dir, "f"), epoch: 3}
		k.make(t, 0, 1, vfio.Stop)
		synctest.Test(t, func(t *testing.T) {
			j := lastingJournal{handoff.NewMemory(), rebooted}
			d, receive := k.start(t, j)
			named := func() bool { _, err := os.Stat(k.path); return err == nil }
			source := make(chan error, 1)
			go func() {
				time.Sleep(10 * time.Second)
				if named() == rebooted {
					t.Errorf("rebooted %v: before its source has asked, the file has its final name: %v", rebooted, named())
				}
				control, err := resumeAsSource(t.Context(), d, &wire.Resume{Attempt: k.attempt(), Peer: j.ID()})
				if err == nil {
					control.Send(&wire.Fin{Attempt: k.attempt()})
					wire.HangUp(control.Lane(), func() {})
				}
				source <- err
			}()
			r, err := receive()
			if r.Outcome != migration.Committed || err != nil || !named() {
				t.Errorf("rebooted %v: %v, %v, named %v", rebooted, r.Outcome, err, named())
			}
			if err := <-source; err != nil {
				t.Errorf("the source got no answer: %v", err)
			}
		})
	}
}

// TestWaitsForItsSource checks that such a process ends in doubt, if it ends before the source has
// asked.
func TestWaitsForItsSource(t *testing.T) {
	dir := t.TempDir()
	k := loadedFile{path: filepath.Join(dir, "f"), epoch: 3}
	k.make(t, 0, 1, vfio.Stop)
	synctest.Test(t, func(t *testing.T) {
		j := lastingJournal{handoff.NewMemory(), true}
		_, receive := k.start(t, j)
		r, err := receive()
		if r.Outcome != migration.InDoubt || r.Attempt != k.attempt() || err == nil || j.Last().Record != handoff.Accept {
			t.Errorf("%v of %v, %v; recorded is %v", r.Outcome, r.Attempt, err, j.Last().Record)
		}
	})
}

// TestCheckOtherCopies checks that a device takes no new migration while it may hold the last copy
// of another one, or if that cannot be found out.
func TestCheckOtherCopies(t *testing.T) {
	busy := errors.New("the journal is in use")
	for _, c := range []struct {
		record handoff.Record
		err    error
		free   bool
	}{
		{record: handoff.None, err: fs.ErrNotExist, free: true},
		{err: busy},
		{record: handoff.Open, free: true},
		{record: handoff.Aborted, free: true},
		{record: handoff.Done, free: true},
		{record: handoff.Running, free: true},
		{record: handoff.Ready},
		{record: handoff.Accept},
		{record: handoff.Forced},
		{record: handoff.Lost},
	} {
		dir := t.TempDir()
		k := loadedFile{path: filepath.Join(dir, "f"), epoch: 3}
		k.make(t, 0, 1, vfio.Stop)
		device, err := file.NewDestination(k.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		j := handoff.NewMemory()
		j.Append(handoff.Entry{Record: c.record})
		e := newEngine(Options{}, []Target{{Name: "d0", Device: device}})
		e.opts.Journals = func(migration.ID, bool) (handoff.Journal, error) { return j, c.err }
		want := transport.CodeHeld
		if c.err != nil { // the state of the copy is unknown
			want = transport.CodeBusy
		}
		if f := e.checkOtherCopies(migration.ID{9}); (f == nil) != c.free || f != nil && (f.Code != want || f.Device != "d0") {
			t.Errorf("%v, %v: %v", c.record, c.err, f)
		}
		if f := e.checkOtherCopies(migration.ID{1}); f != nil {
			t.Errorf("its own, %v: %v", c.record, f)
		}
		device.Close()
	}
}
