package sim

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/migpipe/migpipe/vfio"
)

// Profile names a kind of simulated device.
type Profile struct {
	Name string
	Doc  string // one line
	Size int64  // bytes of state where nothing else is asked for
}

// Profiles lists the kinds of devices that can be opened.
func Profiles() []Profile {
	list := make([]Profile, len(profiles))
	for i, p := range profiles {
		list[i] = Profile{Name: p.name, Doc: p.doc, Size: p.sizeWith(2)}
	}
	return list
}

// rounds is what PRE_COPY offers, and what Pending makes it offer again.
type rounds int

const (
	headOnly   rounds = iota // the stream's head, once
	increments               // everything, then what has changed
	dumps                    // everything, then everything again, once a second
)

// when says where a driver does something with what was written to it.
type when int

const (
	never    when = iota
	inWrite       // in the Write that completes it
	inLocked      // as inWrite, under the lock that every ioctl takes
	atStop        // in RESUMING -> STOP
)

// verdict is how a driver refuses bytes: where, and with which errno.
type verdict struct {
	at    when
	errno syscall.Errno
}

// profile is how a driver behaves.
type profile struct {
	name, doc string
	features  vfio.Features
	magic     uint64
	layout    layout

	size, min, max int64 // of the state where the layout is records, else of the stream
	port           int64 // bytes that each serial port adds to size
	bare           int64 // the one size outside of these bounds, if there is one
	estimate       int64 // what MIG_DATA_SIZE says whatever the size, 0 = the size

	rounds    rounds
	async     bool  // saves beside its owner: SET returns early, Read waits
	chunk     int64 // bytes that become readable together
	chunks    int64 // how many of them may be unread before the device idles
	drainBusy bool  // in PRE_COPY, a Read that finds an increment under way does not wait for it
	fills     bool  // Read waits until its buffer is full

	loads    when
	badHead  verdict
	badBody  verdict
	overflow verdict       // more bytes than the device can hold; 0 = takes a part of them
	short    syscall.Errno // RESUMING -> STOP with bytes missing; 0 = accepts them silently
}

// sizeWith is the size of a device with so many serial ports.
func (p *profile) sizeWith(ports int) int64 { return p.size + p.port*int64(ports) }

// fits says what such a device cannot have.
func (p *profile) fits(o *Options) error {
	switch whole := p.sizeWith(o.Ports); {
	case p.chunk == 0 && o.Buffer != 0:
		return errors.New("buffer: a device of this kind saves into none")
	case p.port == 0 && o.Ports != 0:
		return errors.New("ports: only mtty has serial ports")
	case p.port > 0 && (o.Ports < 1 || o.Ports > 2):
		return fmt.Errorf("ports %d: must be 1 or 2", o.Ports)
	case p.port > 0 && o.Size != whole:
		return fmt.Errorf("size %d: a device with %d ports has %d bytes", o.Size, o.Ports, whole)
	case p.bare > 0 && o.Size == p.bare:
		return nil
	case o.Size < p.min || o.Size > p.max:
		return fmt.Errorf("size %d: must be %d to %d bytes", o.Size, p.min, p.max)
	}
	return nil
}

func lookup(name string) (*profile, error) {
	for i := range profiles {
		if profiles[i].name == name {
			return &profiles[i], nil
		}
	}
	return nil, fmt.Errorf("sim: unknown profile %q: known are %s", name, known())
}

// known lists the profiles for errors.
func known() string {
	names := make([]string, len(profiles))
	for i, p := range profiles {
		names[i] = p.name
	}
	return strings.Join(names, ", ")
}
