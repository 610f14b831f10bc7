package transport

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"
)

// PeerID names a peer: the SHA-256 of its public key in the DER form of a
// SubjectPublicKeyInfo (RFC 5280, section 4.1). It is what an operator copies
// from one host to the other; everything else about a certificate is ignored.
//
// A peer that a CA vouches for is named by its certificate, and its key may change. Its
// PeerID holds that name, padded with zeros. A hash is never mistaken for a name: it would
// have to consist of the characters of names and zeros alone.
type PeerID [sha256.Size]byte

const (
	idPrefix   = "mig1"
	idChecksum = 3 // bytes: with the 32 of the hash, 35 bytes are 56 characters with no bit to spare
)

// idEncoding is RFC 4648 base32 in lower case, so that a double click selects
// the whole text and no letter is mistaken for a digit.
var idEncoding = base32.NewEncoding(idAlphabet).WithPadding(base32.NoPadding)

const idAlphabet = "abcdefghijklmnopqrstuvwxyz234567"

// idLen is the length of an ID's text.
var idLen = len(idPrefix) + idEncoding.EncodedLen(len(PeerID{})+idChecksum)

// ErrBadPeerID is wrapped by every error of [ParsePeerID].
var ErrBadPeerID = errors.New("not a peer ID")

// certificateID is the ID of the key that a certificate holds.
func certificateID(c *x509.Certificate) PeerID {
	return sha256.Sum256(c.RawSubjectPublicKeyInfo)
}

// checksum finds a mistyped ID: one typing error in 16 million passes it. It is no defence against
// an attacker.
func (id PeerID) checksum() []byte {
	sum := sha256.Sum256(append([]byte(idPrefix), id[:]...))
	return sum[:idChecksum]
}

// maxNameID is the length of a name that an ID holds whole: the last byte is 0. Of a longer
// one it has the first longNameHead characters, a ~, and longNameHash of a hash.
const (
	maxNameID    = len(PeerID{}) - 1
	longNameHead = 10
	longNameHash = maxNameID - longNameHead - 1 // 20 characters: 100 bits
)

// nameID is the ID of a peer whose certificate has a name.
func nameID(name string) (id PeerID) {
	if !isDistinguished(name) { // whose values have an upper and a lower case
		name = strings.ToLower(strings.TrimSuffix(name, "."))
	}
	if len(name) > maxNameID || !isName(name) {
		sum := sha256.Sum256([]byte(name))
		head := strings.Map(func(r rune) rune {
			if strings.ContainsRune(nameAlphabet, r) && r != '~' {
				return r
			}
			return -1
		}, name)
		name = head[:min(len(head), longNameHead)] + "~" + idEncoding.EncodeToString(sum[:])[:longNameHash]
	}
	copy(id[:], name)
	return id
}

// nameAlphabet has the characters of host names and addresses, as IDs hold them.
const nameAlphabet = "abcdefghijklmnopqrstuvwxyz0123456789.-_:*~"

func isName(s string) bool { return s != "" && strings.Trim(s, nameAlphabet) == "" }

// name is what an ID holds of a certificate's name, "" for a key's.
func (id PeerID) name() string {
	name := strings.TrimRight(string(id[:]), "\x00")
	if len(name) > maxNameID || !isName(name) {
		return ""
	}
	return name
}

// String is the text form. Of a key it is "mig1" and 56 lower-case base32 characters that
// hold the hash and a checksum; of a certificate's name that name, or the beginning of a
// long one, a ~ and a hash.
func (id PeerID) String() string {
	if name := id.name(); name != "" {
		return name
	}
	return idPrefix + idEncoding.EncodeToString(append(id[:], id.checksum()...))
}

// Short is enough of the text to recognise a peer in a log. It is not enough to
// trust one: [ParsePeerID] refuses it.
func (id PeerID) Short() string {
	text := id.String()
	return text[:min(len(text), len(idPrefix)+8)]
}

// ParsePeerID reads the text that [PeerID.String] gives for a key. Its errors wrap
// [ErrBadPeerID] and name the fault: the prefix, the length, a character or the checksum.
func ParsePeerID(s string) (PeerID, error) {
	body, ok := strings.CutPrefix(s, idPrefix)
	switch i := strings.IndexFunc(body, notInIDAlphabet); {
	case !ok:
		return PeerID{}, fmt.Errorf("transport: %w: %.80q does not begin with %q", ErrBadPeerID, s, idPrefix)
	case len(s) != idLen:
		return PeerID{}, fmt.Errorf("transport: %w: %.80q has %d characters, want %d", ErrBadPeerID, s, len(s), idLen)
	case i >= 0:
		return PeerID{}, fmt.Errorf("transport: %w: %.80q has a character outside a-z and 2-7 at %d", ErrBadPeerID, s, len(idPrefix)+i)
	}
	raw, err := idEncoding.DecodeString(body)
	if err != nil {
		return PeerID{}, fmt.Errorf("transport: %w: %w", ErrBadPeerID, err)
	}
	id := PeerID(raw[:len(PeerID{})])
	if !bytes.Equal(raw[len(id):], id.checksum()) {
		return PeerID{}, fmt.Errorf("transport: %w: %.80q was mistyped (its checksum is wrong)", ErrBadPeerID, s)
	}
	if id.name() != "" {
		return PeerID{}, fmt.Errorf("transport: %w: %.80q is the name of a certificate, and no key", ErrBadPeerID, s)
	}
	return id, nil
}

func notInIDAlphabet(r rune) bool { return !strings.ContainsRune(idAlphabet, r) }

// MarshalText is [PeerID.String] for JSON.
func (id PeerID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what MarshalText wrote, of a name too.
func (id *PeerID) UnmarshalText(text []byte) error {
	if len(text) <= maxNameID && isName(string(text)) {
		*id = nameID(string(text))
		return nil
	}
	parsed, err := ParsePeerID(string(text))
	if err != nil {
		return err
	}
	*id = parsed
	return nil
}
