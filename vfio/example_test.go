package vfio_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/migpipe/migpipe/vfio"
)

// A VMM that owns the file descriptors implements a Device: its SetState calls the VMM, and the
// stream is the fd that the VMM passes. The device of this example has its state in memory. The
// suite vfiotest.Run checks whether a device keeps the contract.
func ExampleDevice() {
	source, destination := &register{state: vfio.Running, value: []byte("42")}, &register{state: vfio.Running}

	saving, err := vfio.Enter(source, vfio.StopCopy, true)
	if err != nil {
		panic(err)
	}
	loading, err := vfio.Enter(destination, vfio.Resuming, true)
	if err != nil {
		panic(err)
	}
	io.Copy(loading, saving)
	for _, to := range []vfio.State{vfio.Stop, vfio.Running} {
		if _, err := vfio.Enter(destination, to, false); err != nil {
			panic(err)
		}
	}
	state, _ := destination.State()
	fmt.Printf("%s %v\n", destination.value, state)
	// Output: 42 RUNNING
}

// register is a device without PRE_COPY.
type register struct {
	state vfio.State
	value []byte
}

func (r *register) Features() vfio.Features       { return vfio.Features{} }
func (r *register) State() (vfio.State, error)    { return r.state, nil }
func (r *register) StopCopySize() (uint64, error) { return 0, errors.ErrUnsupported }
func (r *register) Reset() error                  { r.state, r.value = vfio.Running, nil; return nil }
func (r *register) Close() error                  { return nil }

func (r *register) SetState(to vfio.State) (vfio.Stream, error) {
	from := r.state
	if err := vfio.Legal(from, to, r.Features()); err != nil {
		return nil, err
	}
	r.state = to
	switch {
	case !vfio.OpensSession(from, to):
		return nil, nil
	case to == vfio.Resuming:
		r.value = nil
		return &session{load: r}, nil
	}
	return &session{save: bytes.NewReader(r.value)}, nil
}

// session is the stream of a register: it is read while the device is saved, and written while
// it is loaded.
type session struct {
	save *bytes.Reader
	load *register
}

func (s *session) Read(p []byte) (int, error) { return s.save.Read(p) }

func (s *session) Write(p []byte) (int, error) {
	s.load.value = append(s.load.value, p...)
	return len(p), nil
}

func (s *session) Close() error                   { return nil }
func (s *session) Pending() (vfio.Pending, error) { return vfio.Pending{}, errors.ErrUnsupported }
