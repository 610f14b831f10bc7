package journal

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/migpipe/migpipe/transport/migration"
)

// Device is one device of a migration, as this side knows it.
type Device struct {
	Name    string `json:"name"`              // as in HELLO: the same on both sides
	Address string `json:"address,omitempty"` // on this host, "" where nothing but the name is known
}

// String is the name, with the address if it is known.
func (d Device) String() string {
	if d.Address == "" {
		return d.Name
	}
	return d.Name + " (" + d.Address + ")"
}

// Is reports whether both may be the same device. Addresses decide, and names where one of
// the addresses is not known.
func (d Device) Is(other Device) bool {
	if d.Address == "" || other.Address == "" {
		return d.Name == other.Name
	}
	return shorten(d.Address) == shorten(other.Address)
}

// Concerns reports whether a journal with these devices may be about one of the others. A
// journal without a list may be about any.
func Concerns(recorded, others []Device) bool {
	return len(recorded) == 0 || slices.ContainsFunc(recorded, func(d Device) bool { return slices.ContainsFunc(others, d.Is) })
}

// AreThese reports whether the devices of a journal may be exactly the others. Those of a
// journal without a list may be.
func AreThese(recorded, others []Device) bool {
	if len(recorded) == 0 {
		return true
	}
	return len(recorded) == len(others) && !slices.ContainsFunc(recorded, func(d Device) bool { return !slices.ContainsFunc(others, d.Is) })
}

const (
	// kindDevices is the kind of a slot that has a part of a list of devices. Every other
	// slot is a record.
	kindDevices = 128

	atPart   = atPeer // a part of the list
	maxPart  = atFlags - atPart
	flagHead = 1 // the slot has the first part of a list
	flagTail = 2 // the slot has the last part of a list

	maxDeviceName = 255
	maxAddress    = 200
)

// shorten is the address as the list has it. The beginning of a longer one, and a digest of
// the whole, tell it from others.
func shorten(address string) string {
	if len(address) <= maxAddress {
		return address
	}
	sum := sha256.Sum256([]byte(address))
	return address[:maxAddress-3-2*16] + "..." + hex.EncodeToString(sum[:16])
}

// encodeDevices lays a list out: for each device the length of the name and the name, then
// the length of the address and the address.
func encodeDevices(list []Device) (b []byte, err error) {
	for _, d := range list {
		if d.Name == "" || len(d.Name) > maxDeviceName {
			return nil, fmt.Errorf("the device name %.80q has %d bytes, want 1 to %d", d.Name, len(d.Name), maxDeviceName)
		}
		address := shorten(d.Address)
		b = append(append(b, byte(len(d.Name))), d.Name...)
		b = append(append(b, byte(len(address))), address...)
	}
	return b, nil
}

// decodeDevices gives nil, which is any device, for bytes that are no list.
func decodeDevices(b []byte) (list []Device) {
	text := func() (s string, ok bool) {
		if len(b) == 0 || len(b) <= int(b[0]) {
			return "", false
		}
		s, b = string(b[1:][:b[0]]), b[1+b[0]:]
		return s, true
	}
	for len(b) > 0 {
		name, named := text()
		address, addressed := text()
		if !named || !addressed || name == "" {
			return nil
		}
		list = append(list, Device{name, address})
	}
	return list
}

// devicesSlots are the slots that a list needs.
func devicesSlots(encoded []byte) uint64 { return uint64(len(encoded)+maxPart-1) / maxPart }

// writeDevices writes the list before the OPEN of an attempt, unless it is there. Each slot
// is synced before the next is written, so that a crash tears no more than the last.
func (j *Journal) writeDevices(a migration.Attempt) error {
	if bytes.Equal(j.devices, j.recorded) {
		return nil
	}
	flags := byte(flagHead)
	for rest := j.devices; flags&flagTail == 0; flags &^= flagHead {
		part := rest[:min(len(rest), maxPart)]
		if rest = rest[len(part):]; len(rest) == 0 {
			flags |= flagTail
		}
		r := Record{Seq: j.used + 1, Role: j.role}
		r.Attempt, r.Journal = a, j.id
		b := r.header(kindDevices)
		b[atTextLen], b[atFlags] = byte(len(part)), flags
		copy(b[atPart:], part)
		if err := j.writeSlot(r.Seq, seal(b)); err != nil {
			return err
		}
		j.used++
	}
	j.recorded = j.devices
	return nil
}

// deviceList finds the newest whole list among the slots of a file.
type deviceList struct {
	begun    bool
	from, to int // the slots of the newest whole list, none if both are 0
	at       int // where the list that is being read began
}

// add takes the next part of a list.
func (l *deviceList) add(slot int, b []byte) error {
	flags := b[atFlags]
	if b[atTextLen] > maxPart || flags&^(flagHead|flagTail) != 0 {
		return fmt.Errorf("a list of devices with %d bytes in a slot and flags %#x is unknown", b[atTextLen], flags)
	}
	if flags&flagHead != 0 {
		l.begun, l.at = true, slot
	}
	if flags&flagTail != 0 && l.begun {
		l.from, l.to, l.begun = l.at, slot+1, false
	}
	return nil
}

// bytes are the encoded list, nil where there is none.
func (l *deviceList) bytes(file []byte) (encoded []byte) {
	for slot := l.from; slot < l.to; slot++ {
		b := file[slot*recordLen:][:recordLen]
		encoded = append(encoded, b[atPart:][:b[atTextLen]]...)
	}
	return encoded
}
