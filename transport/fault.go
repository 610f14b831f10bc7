package transport

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Code is why an attempt ended, on the wire and in errors. A number never gets another meaning.
type Code uint16

// The reasons of protocol version 1.
const (
	CodeInternal     Code = 1  // a defect of this software
	CodeVersion      Code = 2  // no protocol version in common
	CodeDevices      Code = 3  // the two sides name different devices
	CodeIncompatible Code = 4  // a device cannot take the other's state
	CodeBusy         Code = 5  // a device is in use or cannot migrate
	CodeLimit        Code = 6  // a limit of this side would be exceeded
	CodeCorrupt      Code = 7  // a digest or checksum did not match
	CodeIncomplete   Code = 8  // the stream does not match END
	CodeDevice       Code = 9  // a device failed while saving, loading or changing state
	CodeValidation   Code = 10 // the destination device refused the loaded state
	CodeStart        Code = 11 // the destination device did not start
	CodeCancelled    Code = 12 // a person or a VMM cancelled
	CodeTimeout      Code = 13 // something took longer than it may
	CodeProtocol     Code = 14 // the peer broke the protocol
	CodeNetwork      Code = 15 // the peer cannot be reached, or no longer
	CodeAuth         Code = 16 // the peer is not who it should be, or does not want this side
	CodeHeld         Code = 17 // the destination holds a complete copy of another migration
	CodeUnknown      Code = 18 // the peer has no record of the migration
	CodeWitness      Code = 19 // the two sides do not name the same witness
	CodeDecided      Code = 20 // a person has decided at the peer
	CodeLost         Code = 21 // what the destination accepted, and may have run, is gone
	CodeBothMayRun   Code = 22 // the destination has accepted an attempt before the source's
)

var codeNames = [...]string{
	CodeInternal: "internal", CodeVersion: "version", CodeDevices: "devices",
	CodeIncompatible: "incompatible", CodeBusy: "busy", CodeLimit: "limit",
	CodeCorrupt: "corrupt", CodeIncomplete: "incomplete", CodeDevice: "device",
	CodeValidation: "validation", CodeStart: "start", CodeCancelled: "cancelled",
	CodeTimeout: "timeout", CodeProtocol: "protocol", CodeNetwork: "network", CodeAuth: "auth", CodeHeld: "held",
	CodeUnknown: "unknown-migration", CodeWitness: "witness", CodeDecided: "decided", CodeLost: "lost", CodeBothMayRun: "both-may-run",
}

// String is the reason in one word.
func (c Code) String() string {
	if int(c) < len(codeNames) && codeNames[c] != "" {
		return codeNames[c]
	}
	return fmt.Sprintf("code-%d", uint16(c))
}

// Fault is why an attempt failed: on which side, at which device and offset.
type Fault struct {
	Code   Code
	Remote bool   // the peer has reported it
	Device string // "" where it concerns no single device
	Offset uint64 // of the device's stream, where Device is set
	Err    error
}

// Error names side, device, offset and cause.
func (f *Fault) Error() string {
	var b strings.Builder
	if f.Remote {
		b.WriteString("peer: ")
	}
	if f.Device != "" {
		fmt.Fprintf(&b, "device %s at offset %d: ", f.Device, f.Offset)
	}
	b.WriteString(f.Err.Error())
	return b.String()
}

// Unwrap gives the cause.
func (f *Fault) Unwrap() error { return f.Err }

// CodeOf finds the reason in an error that a carrier or this package gave.
func CodeOf(err error) Code {
	if f, ok := errors.AsType[*Fault](err); ok {
		return f.Code
	}
	switch {
	case errors.Is(err, ErrCorrupt):
		return CodeCorrupt
	case errors.Is(err, ErrProtocol):
		return CodeProtocol
	case errors.Is(err, ErrAuth):
		return CodeAuth
	}
	return CodeNetwork
}

// ErrCorrupt is the error for bytes that do not match their digest or checksum.
var ErrCorrupt = errors.New("corrupt data")

// ErrProtocol is the error for a violation of the protocol by the peer.
var ErrProtocol = errors.New("protocol violation")

// PeerText makes text from the peer safe to show. Text in which every character is printable
// stays as it is; other text is quoted as Go does. It is cut after 300 bytes.
func PeerText(s string) string { return printable(s, 300) }

// printable is PeerText with another limit in bytes.
func printable(s string, most int) string {
	end := ""
	if len(s) > most {
		for most > 0 && !utf8.RuneStart(s[most]) {
			most--
		}
		s, end = s[:most], "..."
	}
	if utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return s + end
	}
	return strconv.Quote(s + end)
}
