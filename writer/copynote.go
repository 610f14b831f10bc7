package writer

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
)

// copyNoteVersion is the version of the layout.
const copyNoteVersion = 1

// copyNote is the note that a device holds beside a complete copy (vfio.Persistent): the owner of
// the copy, and its digest. A later process resumes the copy by it. Its fields are written in
// big-endian order.
type copyNote struct {
	Version     uint8
	Device      uint16 // number in HELLO's order, of Devices
	Devices     uint16
	Epoch       uint64
	Mig         migration.ID
	Destination migration.JournalID
	Name        [wire.MaxName]byte
	Digest      migration.StreamDigest
}

var copyNoteLen = binary.Size(copyNote{})

// newCopyNote is the note for a device of an attempt, without the digest.
func newCopyNote(h *wire.Hello, device int, journal migration.JournalID) *copyNote {
	n := &copyNote{Version: copyNoteVersion, Device: uint16(device), Devices: uint16(len(h.Devices)), Epoch: h.Epoch, Mig: h.Mig, Destination: journal}
	copy(n.Name[:], h.Devices[device].Name)
	return n
}

// encode fits vfio.MaxNote.
func (n *copyNote) encode() ([]byte, error) { return binary.Append(nil, binary.BigEndian, n) }

// parseCopyNote reads all of b.
func parseCopyNote(b []byte) (n copyNote, err error) {
	if len(b) != copyNoteLen || b[0] != copyNoteVersion {
		return n, fmt.Errorf("%w: a note of %d bytes that this release did not write", transport.ErrCorrupt, len(b))
	}
	_, err = binary.Decode(b, binary.BigEndian, &n)
	return n, err
}

// name is the name of the device.
func (n *copyNote) name() string { return string(bytes.TrimRight(n.Name[:], "\x00")) }

// epochOf is the attempt of a record's copy: FORCED names the next one.
func epochOf(last handoff.Entry) uint64 {
	if last.Record == handoff.Forced {
		return last.Attempt.Epoch - 1
	}
	return last.Attempt.Epoch
}

// verify compares the notes of the devices with each other and with the journal: they must be one
// set, with the digest that READY was sent with.
func verify(found []copyNote, targets []Target, last handoff.Entry) error {
	sums, seen := make([]migration.StreamDigest, len(found)), make([]bool, len(found))
	for i, n := range found {
		at := int(n.Device)
		switch {
		case n.Mig != last.Attempt.Mig || n.Epoch != epochOf(last) || n.Destination != last.Journal:
			return fmt.Errorf("device %s holds a copy of attempt %d", targets[i].Name, n.Epoch)
		case int(n.Devices) != len(found) || at >= len(found) || seen[at]:
			return fmt.Errorf("device %s holds a copy of another set", targets[i].Name)
		case n.name() != targets[i].Name:
			return fmt.Errorf("device %s holds a copy of a device %q", targets[i].Name, n.name())
		}
		sums[at], seen[at] = n.Digest, true
	}
	if got := wire.SetDigest(sums); got != last.Digest {
		return fmt.Errorf("%w: the digest of the copy in the devices is %v, and %v is recorded", transport.ErrCorrupt, got, last.Digest)
	}
	return nil
}
