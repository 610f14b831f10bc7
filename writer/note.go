package writer

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/transport"
)

// noteVersion is the layout of a note.
const noteVersion = 1

// note is what a device keeps beside its stream (vfio.Durable), for a process after
// this one to go on with: whose it is, what was agreed on in HELLO and WELCOME, which
// nobody says again, and the digest of what is durable. How much that is, the digest
// counts.
type note struct {
	noteHead
	digest *transport.Digest
}

// noteHead is the part of fixed length, in big-endian order.
type noteHead struct {
	Version     uint8
	Priority    uint8
	Device      uint16 // of so many Devices, by HELLO's order
	Devices     uint16
	Lanes       uint16
	ChunkSize   uint32
	Epoch       uint64
	Mig         transport.MigID
	Source      transport.JournalID
	Destination transport.JournalID
	Codecs      [32]byte // a bit for each that HELLO offers
	Name        [transport.MaxName]byte
}

var noteHeadLen = binary.Size(noteHead{})

// encode fits vfio.MaxNote.
func (n note) encode() ([]byte, error) {
	b, err := binary.Append(nil, binary.BigEndian, n.noteHead)
	if err != nil {
		return nil, err
	}
	digest, err := n.digest.MarshalBinary()
	return append(b, digest...), err
}

// parseNote reads all of b.
func parseNote(b []byte) (n note, err error) {
	if len(b) < noteHeadLen || b[0] != noteVersion {
		return n, fmt.Errorf("%w: a note of %d bytes that this release did not write", transport.ErrCorrupt, len(b))
	}
	if _, err := binary.Decode(b[:noteHeadLen], binary.BigEndian, &n.noteHead); err != nil {
		return n, err
	}
	n.digest = transport.NewDigest()
	return n, n.digest.UnmarshalBinary(b[noteHeadLen:])
}

// notes are those of an attempt's devices, by HELLO's order, when nothing has come.
func notes(h *transport.Hello, t terms, journal transport.JournalID) []note {
	head := noteHead{Version: noteVersion, Devices: uint16(len(h.Devices)), Lanes: uint16(t.lanes), ChunkSize: uint32(t.chunkSize),
		Epoch: h.Epoch, Mig: h.Mig, Source: h.Journal, Destination: journal}
	for _, id := range h.Codecs {
		head.Codecs[id/8] |= 1 << (id % 8)
	}
	all := make([]note, len(h.Devices))
	for i, o := range h.Devices {
		head.Device, head.Priority, head.Name = uint16(i), o.Priority, [transport.MaxName]byte{}
		copy(head.Name[:], o.Name)
		all[i] = note{head, transport.NewDigest()}
	}
	return all
}

// name is the device's.
func (h *noteHead) name() string { return string(bytes.TrimRight(h.Name[:], "\x00")) }

// offer is what of HELLO still matters, as the notes of all devices have it.
func offer(all []note) *transport.Hello {
	first := all[0]
	h := &transport.Hello{Attempt: transport.Attempt{Mig: first.Mig, Epoch: first.Epoch}, Journal: first.Source,
		ChunkSize: first.ChunkSize, Lanes: first.Lanes, Versions: transport.Versions{Min: transport.Version, Max: transport.Version}}
	for id := range len(first.Codecs) * 8 {
		if first.Codecs[id/8]&(1<<(id%8)) != 0 {
			h.Codecs = append(h.Codecs, codec.ID(id))
		}
	}
	for _, n := range all {
		h.Devices = append(h.Devices, transport.DeviceOffer{Name: n.name(), Priority: n.Priority})
	}
	return h
}
