package writer

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/migpipe/migpipe/transport"
)

// noteVersion is the layout of a note.
const noteVersion = 1

// note is what a device holds beside a complete copy (vfio.Persistent): whose copy it is, and
// its digest. A process after this one resumes the copy by it. It is written in big-endian
// order.
type note struct {
	Version     uint8
	Device      uint16 // of so many Devices, in HELLO's order
	Devices     uint16
	Epoch       uint64
	Mig         transport.MigID
	Destination transport.JournalID
	Name        [transport.MaxName]byte
	Digest      transport.StreamDigest
}

var noteLen = binary.Size(note{})

// newNote is that of a device of an attempt, without the digest.
func newNote(h *transport.Hello, device int, journal transport.JournalID) *note {
	n := &note{Version: noteVersion, Device: uint16(device), Devices: uint16(len(h.Devices)), Epoch: h.Epoch, Mig: h.Mig, Destination: journal}
	copy(n.Name[:], h.Devices[device].Name)
	return n
}

// encode fits vfio.MaxNote.
func (n *note) encode() ([]byte, error) { return binary.Append(nil, binary.BigEndian, n) }

// parseNote reads all of b.
func parseNote(b []byte) (n note, err error) {
	if len(b) != noteLen || b[0] != noteVersion {
		return n, fmt.Errorf("%w: a note of %d bytes that this release did not write", transport.ErrCorrupt, len(b))
	}
	_, err = binary.Decode(b, binary.BigEndian, &n)
	return n, err
}

// name is the device's.
func (n *note) name() string { return string(bytes.TrimRight(n.Name[:], "\x00")) }
