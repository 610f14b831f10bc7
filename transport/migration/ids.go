package migration

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
)

// Attempt names one attempt of one migration. Every message carries it.
type Attempt struct {
	Mig   ID     `cbor:"1,keyasint"`
	Epoch uint64 `cbor:"2,keyasint"` // strictly increasing per Mig: the fencing token
}

// About lets every message that embeds an Attempt be a Message.
func (a *Attempt) About() *Attempt { return a }

// ID names one migration for ever: 128 random bits.
type ID [16]byte

// NewID draws an ID at random.
func NewID() (id ID) {
	rand.Read(id[:])
	return id
}

// ParseID reads the text that [ID.String] gives.
func ParseID(text string) (id ID, err error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(id) {
		return ID{}, fmt.Errorf("%.40q: not an id of 32 hexadecimal digits", text)
	}
	copy(id[:], b)
	return id, nil
}

// String is the id in hexadecimal.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// UnmarshalCBOR takes a byte string of exactly this length.
func (id *ID) UnmarshalCBOR(item []byte) error { return fixed(id[:], item, 0x50) }

// fixed copies the content of a CBOR byte string of the length that head encodes. The decoder
// alone would also take arrays of numbers, cut a longer string, and pad a shorter one.
func fixed(dst, item []byte, head ...byte) error {
	if len(item) != len(head)+len(dst) || !bytes.HasPrefix(item, head) {
		return fmt.Errorf("not a string of %d bytes", len(dst))
	}
	copy(dst, item[len(head):])
	return nil
}

// JournalID names a journal file. It is drawn when the file is made: a side that lost its
// journal has another one.
type JournalID [16]byte

// NewJournalID draws a JournalID at random.
func NewJournalID() (id JournalID) {
	rand.Read(id[:])
	return id
}

// String is the id in hexadecimal.
func (id JournalID) String() string { return hex.EncodeToString(id[:]) }

// UnmarshalCBOR takes a byte string of exactly this length.
func (id *JournalID) UnmarshalCBOR(item []byte) error { return fixed(id[:], item, 0x50) }

// StreamDigest is the digest of a device's whole stream (see Digest) or, in
// COMMIT, of all of them.
type StreamDigest [32]byte

// String is the digest in hexadecimal.
func (d StreamDigest) String() string { return hex.EncodeToString(d[:]) }

// UnmarshalCBOR takes a byte string of exactly this length.
func (d *StreamDigest) UnmarshalCBOR(item []byte) error { return fixed(d[:], item, 0x58, 0x20) }
