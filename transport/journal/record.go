package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/migpipe/migpipe/internal/crc32c"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
)

// Role is the side of a migration that a journal is of.
type Role uint8

// The roles.
const (
	Source      Role = 1
	Destination Role = 2
)

// String is the role as file names and people spell it.
func (r Role) String() string {
	switch r {
	case Source:
		return "source"
	case Destination:
		return "destination"
	}
	return fmt.Sprintf("role %d", uint8(r))
}

// Record is an entry with what the file adds to it.
type Record struct {
	handoff.Entry
	Seq  uint64 // 1 for the first of the file
	Role Role
	Time time.Time // by the wall clock: for people, and for the order of journals
	Boot BootID    // of the host that wrote it
}

// recordLen is the length of a slot. It divides every sector size, so that no slot spans two
// sectors.
const recordLen = 256

// MaxText is how many bytes of Why.Text a record holds.
const MaxText = 87

const (
	recordMagic   = "MIGJ"
	recordVersion = 1
)

// Where the fields are.
const (
	atVersion = 4
	atRole    = 5
	atKind    = 6
	atTextLen = 7
	atSeq     = 8
	atMig     = 16
	atEpoch   = 32
	atJournal = 40
	atPeer    = 56
	atPeerID  = 72
	atTime    = 104
	atBytes   = 112
	atDigest  = 120
	atCode    = 152
	atWitness = 154
	atText    = 156
	atFlags   = atText + MaxText
	atBoot    = atFlags + 1
	atSum     = recordLen - 4
)

// flagSole is Entry.Sole.
const flagSole = 1

// errNoRecord is the error for a slot that was not written, or not completely.
var errNoRecord = errors.New("no record")

// encode lays a record out.
func (r *Record) encode() []byte {
	b := r.header(byte(r.Record))
	text := r.Why.Text[:min(len(r.Why.Text), MaxText)]
	b[atTextLen] = byte(len(text))
	copy(b[atPeer:], r.PeerJournal[:])
	copy(b[atPeerID:], r.PeerID[:])
	binary.BigEndian.PutUint64(b[atTime:], uint64(r.Time.UnixNano()))
	binary.BigEndian.PutUint64(b[atBytes:], r.Why.Bytes)
	copy(b[atDigest:], r.Digest[:])
	binary.BigEndian.PutUint16(b[atCode:], uint16(r.Why.Code))
	binary.BigEndian.PutUint16(b[atWitness:], uint16(r.Witness))
	copy(b[atText:], text)
	if r.Sole {
		b[atFlags] = flagSole
	}
	copy(b[atBoot:], r.Boot[:])
	return seal(b)
}

// header makes a slot with the fields that every kind of slot has.
func (r *Record) header(kind byte) []byte {
	b := make([]byte, recordLen)
	copy(b, recordMagic)
	b[atVersion], b[atRole], b[atKind] = recordVersion, byte(r.Role), kind
	binary.BigEndian.PutUint64(b[atSeq:], r.Seq)
	copy(b[atMig:], r.Attempt.Mig[:])
	binary.BigEndian.PutUint64(b[atEpoch:], r.Attempt.Epoch)
	copy(b[atJournal:], r.Journal[:])
	return b
}

// seal adds the checksum of a slot.
func seal(b []byte) []byte {
	binary.BigEndian.PutUint32(b[atSum:], crc32c.Sum(b[:atSum]))
	return b
}

// suffix ends the names of a role's files.
func (r Role) suffix() string {
	if r == Source {
		return ".source"
	}
	return ".destination"
}

// decode reads a record of recordLen bytes.
func decode(b []byte) (r Record, err error) {
	if r, err = fields(b); err == nil {
		r.Why.Text = text(b)
	}
	return r, err
}

// text is Why.Text of a record that fields has read.
func text(b []byte) string {
	return strings.ToValidUTF8(string(b[atText:][:b[atTextLen]]), "\uFFFD")
}

// readHeader reads the fields that every kind of slot has. It allocates nothing.
func readHeader(b []byte) (r Record, err error) {
	if string(b[:len(recordMagic)]) != recordMagic || binary.BigEndian.Uint32(b[atSum:]) != crc32c.Sum(b[:atSum]) {
		return r, errNoRecord
	}
	if b[atVersion] != recordVersion {
		return r, fmt.Errorf("journal record of version %d, this program knows %d", b[atVersion], recordVersion)
	}
	if r.Role = Role(b[atRole]); r.Role != Source && r.Role != Destination {
		return Record{}, fmt.Errorf("journal record of role %d is unknown", b[atRole])
	}
	r.Seq = binary.BigEndian.Uint64(b[atSeq:])
	copy(r.Attempt.Mig[:], b[atMig:])
	r.Attempt.Epoch = binary.BigEndian.Uint64(b[atEpoch:])
	copy(r.Journal[:], b[atJournal:])
	return r, nil
}

// fields reads all of a record but Why.Text, and so allocates nothing.
func fields(b []byte) (Record, error) {
	r, err := readHeader(b)
	if err != nil {
		return r, err
	}
	return r, r.readBody(b)
}

// readBody reads what a record has behind the header.
func (r *Record) readBody(b []byte) error {
	r.Record = handoff.Record(b[atKind])
	if r.Record > handoff.ResumeFailed || b[atTextLen] > MaxText || b[atFlags]&^flagSole != 0 {
		*r = Record{}
		return fmt.Errorf("journal record of kind %d by role %d is unknown", b[atKind], b[atRole])
	}
	copy(r.PeerJournal[:], b[atPeer:])
	copy(r.PeerID[:], b[atPeerID:])
	r.Time = time.Unix(0, int64(binary.BigEndian.Uint64(b[atTime:])))
	r.Why.Bytes = binary.BigEndian.Uint64(b[atBytes:])
	copy(r.Digest[:], b[atDigest:])
	r.Why.Code = transport.Code(binary.BigEndian.Uint16(b[atCode:]))
	r.Witness = handoff.Register(binary.BigEndian.Uint16(b[atWitness:]))
	r.Sole = b[atFlags]&flagSole != 0
	copy(r.Boot[:], b[atBoot:])
	return nil
}
