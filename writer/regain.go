package writer

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/vfio"
)

// regain takes what every device has kept of a complete copy, and says what that is:
// what was verified, by the digest beside it, and all of it. Where that is not so nobody
// knows why, and it may be the last copy: it is left to a later process.
func (f *fleet) regain(last handoff.Entry) (handoff.Holding, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	holding, err := f.regainAll(last)
	if err != nil {
		err = errors.Join(err, f.leave())
	}
	return holding, err
}

// leave gives up what was taken, to a later process.
func (f *fleet) leave() error {
	return f.each(len(f.sinks), func(i int) error {
		if !f.touched[i] {
			return nil
		}
		f.touched[i], f.streams[i] = false, nil // which Leave has ended
		if err := f.sinks[i].Device.(vfio.Resumable).Leave(); err != nil {
			return f.fault(i, transport.CodeDevice, err)
		}
		return nil
	})
}

func (f *fleet) regainAll(last handoff.Entry) (handoff.Holding, error) {
	found, committed, missing := make([]note, len(f.sinks)), make([]bool, len(f.sinks)), make([]error, len(f.sinks))
	err := f.each(len(f.sinks), func(i int) (err error) {
		found[i], err = f.reopen(i)
		committed[i] = errors.Is(err, vfio.ErrCommitted)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, errors.ErrUnsupported):
			missing[i] = f.fault(i, transport.CodeDevice, err)
		case err != nil && !committed[i]:
			return f.fault(i, transport.CodeDevice, err)
		}
		return nil
	})
	if err == nil && !slices.Contains(missing, nil) {
		return handoff.Nothing, nil
	}
	if err = errors.Join(err, errors.Join(missing...)); err == nil {
		err = verified(found, f.sinks, last)
	}
	if err == nil && last.Record == handoff.Ready && slices.Contains(committed, true) {
		err = errors.New("what is recorded as READY has its name already")
	}
	if err == nil {
		err = f.stand(committed)
	}
	if err != nil {
		return handoff.Nothing, err
	}
	f.adopted, f.ran = true, committed
	if slices.Contains(committed, false) {
		return handoff.Whole, nil
	}
	return handoff.Executing, nil
}

// stand brings the devices whose session is complete, and not committed, to STOP.
func (f *fleet) stand(committed []bool) error {
	return f.each(len(f.sinks), func(i int) error {
		if committed[i] {
			return nil
		}
		if _, err := vfio.Enter(f.sinks[i].Device, vfio.Stop, false); err != nil {
			return f.fault(i, validation(err), err)
		}
		return nil
	})
}

// verified holds the notes against the digest that READY was said of.
func verified(found []note, sinks []Sink, last handoff.Entry) error {
	all, _, err := sorted(found, sinks, last)
	if err != nil {
		return err
	}
	sums := make([]transport.StreamDigest, len(all))
	for i, n := range all {
		sums[i] = n.digest.Sum()
	}
	if got := transport.SetDigest(sums); got != last.Digest {
		return fmt.Errorf("%w: the digest of what the devices hold is %v, and %v is recorded", transport.ErrCorrupt, got, last.Digest)
	}
	return nil
}
