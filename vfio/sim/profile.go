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
	Size int64  // default bytes of state
}

// Profiles lists the kinds of devices that can be opened.
func Profiles() []Profile {
	list := make([]Profile, len(profiles))
	for i, p := range profiles {
		list[i] = Profile{Name: p.name, Doc: p.doc, Size: p.sizeWith(2)}
	}
	return list
}

// rounds is the data that PRE_COPY offers first, and after each Pending.
type rounds int

const (
	headOnly   rounds = iota // the stream's head, once
	increments               // all blocks, then the changed ones
	dumps                    // all blocks, then all blocks again, once a second
)

// loadPoint is the point at which a driver loads or rejects written bytes.
type loadPoint int

const (
	never    loadPoint = iota
	inWrite            // in the Write that completes it
	inLocked           // as inWrite, under the lock that every ioctl takes
	atStop             // in RESUMING -> STOP
)

// rejection is the way a driver refuses bytes: the point and the errno.
type rejection struct {
	at    loadPoint
	errno syscall.Errno
}

// profile describes the behaviour of a driver.
type profile struct {
	name, doc string
	features  vfio.Features
	magic     uint64
	layout    layout

	size, min, max int64 // bytes of the state for the layout records, otherwise of the stream
	port           int64 // bytes that each serial port adds to size
	bare           int64 // the only size outside these bounds, 0 for none
	estimate       int64 // fixed result of MIG_DATA_SIZE, 0 = the size

	rounds     rounds
	async      bool  // saves in the background: SET returns early, Read waits
	chunk      int64 // bytes that become readable together
	chunks     int64 // number of unread chunks at which the device becomes idle
	drainBusy  bool  // in PRE_COPY, a Read does not wait for an increment in progress
	fillsReads bool  // Read waits until its buffer is full

	loads    loadPoint
	badHead  rejection
	badBody  rejection
	overflow rejection     // for more bytes than the device can hold; 0 = accepts a part of them
	short    syscall.Errno // for RESUMING -> STOP with missing bytes; 0 = accepts the state
}

// sizeWith returns the size of a device with this number of serial ports.
func (p *profile) sizeWith(ports int) int64 { return p.size + p.port*int64(ports) }

// checkOptions returns an error for options that a device of this profile cannot have.
func (p *profile) checkOptions(o *Options) error {
	switch whole := p.sizeWith(o.Ports); {
	case p.chunk == 0 && o.Buffer != 0:
		return errors.New("buffer: a device of this kind has no buffers")
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

// known returns the names of the profiles, for errors.
func known() string {
	names := make([]string, len(profiles))
	for i, p := range profiles {
		names[i] = p.name
	}
	return strings.Join(names, ", ")
}
