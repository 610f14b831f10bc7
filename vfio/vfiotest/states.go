package vfiotest

import (
	"errors"
	"testing"

	"github.com/migpipe/migpipe/vfio"
)

func initialState(t *testing.T, cfg Config) {
	for _, f := range []func(*testing.T) vfio.Device{cfg.Source, cfg.Destination} {
		d := open(t, f)
		wantState(t, d, vfio.Running)
		before := d.Features()
		if before.PreCopyInfoV2 && !before.PreCopy {
			t.Errorf("features %+v: PreCopyInfoV2 without PreCopy", before)
		}
		if after := d.Features(); before != after {
			t.Errorf("features change: %+v, then %+v", before, after)
		}
	}
}

// transitions requests every state from every state. It leaves RESUMING by a
// reset, since other transitions would load a state that was never written.
func transitions(t *testing.T, cfg Config) {
	d := open(t, cfg.Source)
	for _, from := range states(d) {
		for _, to := range states(d) {
			if from == vfio.Resuming || vfio.Legal(from, to, d.Features()) != nil {
				continue
			}
			set(t, d, from)
			set(t, d, to)
			toRunning(t, d)
		}
	}
}

// toRunning returns d to RUNNING.
func toRunning(t *testing.T, d vfio.Device) {
	t.Helper()
	if state(t, d) == vfio.Resuming {
		reset(t, d)
	}
	set(t, d, vfio.Running)
}

// loaded goes from RESUMING, after a whole stream, to every other state.
func loaded(t *testing.T, cfg Config) {
	source, destination := open(t, cfg.Source), open(t, cfg.Destination)
	data := save(t, source)
	for _, to := range states(destination) {
		if to == vfio.Resuming {
			continue
		}
		if err := load(t, destination, data); err != nil {
			t.Fatal(err)
		}
		set(t, destination, to)
		toRunning(t, destination)
	}
}

func sameState(t *testing.T, cfg Config) {
	d := open(t, cfg.Source)
	for _, s := range states(d) {
		set(t, d, s)
		set(t, d, s) // checks that it opens no stream
		toRunning(t, d)
	}
}

// refused requests, from every state, the states that the device lacks.
func refused(t *testing.T, cfg Config) {
	d := open(t, cfg.Source)
	for _, from := range states(d) {
		set(t, d, from)
		for to := vfio.StateError; to <= vfio.PreCopyP2P+1; to++ {
			if !d.Features().Has(to) {
				wantRefused(t, d, to, vfio.ErrUnsupportedState)
			}
		}
		toRunning(t, d)
	}
}

func stopCopyToPreCopy(t *testing.T, cfg Config) {
	d := open(t, cfg.Source)
	set(t, d, vfio.StopCopy)
	for _, to := range []vfio.State{vfio.PreCopy, vfio.PreCopyP2P} {
		if d.Features().Has(to) {
			wantRefused(t, d, to, vfio.ErrBlocked)
		}
	}
}

// wantRefused checks that a request fails with want and does not change the state.
func wantRefused(t *testing.T, d vfio.Device, to vfio.State, want error) {
	t.Helper()
	from := state(t, d)
	s, err := d.SetState(to)
	if e, ok := errors.AsType[*vfio.TransitionError](err); s != nil || !errors.Is(err, want) || !ok || e.Now != from || e.From != from || e.To != to {
		t.Errorf("%v -> %v: got %v, %v, want %v and a TransitionError that names the states", from, to, s, err, want)
	}
	wantState(t, d, from)
}

func stopCopySize(t *testing.T, cfg Config) {
	d := open(t, cfg.Source)
	_, err := d.StopCopySize()
	if d.Features().DataSize && err != nil {
		t.Errorf("estimate: %v", err)
	}
	if !d.Features().DataSize {
		wantErr(t, "estimate", err, errors.ErrUnsupported)
	}
}

// cancelAndMigrate returns to RUNNING from every saving state, before and after
// a read, and then migrates.
func cancelAndMigrate(t *testing.T, cfg Config) {
	source, destination := open(t, cfg.Source), open(t, cfg.Destination)
	for _, s := range saving(source) {
		set(t, source, s)
		set(t, source, vfio.Running)
		if stream := set(t, source, s); s != vfio.StopCopy {
			readUntil(t, stream, vfio.ErrDrained)
		}
		set(t, source, vfio.Running)
	}
	migrate(t, cfg, source, destination)
	set(t, destination, vfio.Running)
	set(t, source, vfio.Stop)
}
