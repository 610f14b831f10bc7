package ui

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/migpipe/migpipe/internal/lockfile"
	"github.com/migpipe/migpipe/internal/safefile"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/vfio"
)

// Mistake is a command line that cannot be carried out, and the way to mend it.
type Mistake struct {
	Text string
	Hint string
}

// Error implements error.
func (m *Mistake) Error() string { return m.Text }

// Mistakef makes a mistake of a text and a hint, which may be empty.
func Mistakef(hint, format string, args ...any) error {
	return &Mistake{Text: fmt.Sprintf(format, args...), Hint: hint}
}

// DeviceFault places an error that came before the engine started.
func DeviceFault(name string, err error) error {
	code := transport.CodeDevice
	if errors.Is(err, vfio.ErrBusy) || errors.Is(err, vfio.ErrNoMigration) {
		code = transport.CodeBusy
	}
	return &transport.Fault{Code: code, Device: name, Err: err}
}

// packagePrefixes are what Go programs want to read before an error, and users
// do not.
var packagePrefixes = []string{"reader: ", "writer: ", "transport: ", "vfio: ", "sim: "}

// ErrorText is an error on one line for people: where it is, then what.
func ErrorText(err error) string {
	f, ok := errors.AsType[*transport.Fault](err)
	if !ok {
		return PlainText(err)
	}
	var b strings.Builder
	if f.Remote {
		b.WriteString("the peer says: ")
	}
	if f.Device != "" {
		fmt.Fprintf(&b, "device %s", f.Device)
		if f.Offset > 0 {
			fmt.Fprintf(&b, " at byte %d", f.Offset)
		}
		b.WriteString(": ")
	}
	b.WriteString(PlainText(f.Err))
	return b.String()
}

// PlainText leaves out package names, and the hint that the error carries in
// brackets where hints are lines of their own.
func PlainText(err error) string {
	text := err.Error()
	if e, ok := errors.AsType[*vfio.OpError](err); ok && e.Hint != "" {
		text = strings.Replace(text, " ("+e.Hint+")", "", 1)
	}
	if errors.Is(err, transport.ErrRefusedByPeer) { // wherever that showed
		text = text[max(0, strings.Index(text, transport.ErrRefusedByPeer.Error())):]
	}
	for _, prefix := range packagePrefixes {
		text = strings.TrimPrefix(text, prefix)
	}
	return OneLine(text)
}

// OneLine joins what errors.Join puts on lines of their own.
func OneLine(text string) string { return strings.ReplaceAll(text, "\n", "; ") }

// JournalError is why a journal cannot be used.
type JournalError struct{ Err error }

// Error implements error.
func (e *JournalError) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *JournalError) Unwrap() error { return e.Err }

// Hint is the next step.
func (e *JournalError) Hint() string {
	switch {
	case errors.Is(e.Err, journal.ErrVolatile):
		return "name a directory on a disk with --state-dir; or say --volatile-state, if losing what was decided with the host is acceptable"
	case errors.Is(e.Err, journal.ErrBusy):
		held, ok := errors.AsType[*lockfile.HeldError](e.Err)
		if !ok {
			held = &lockfile.HeldError{}
		}
		return "that process works on this migration: wait for it, or " + EndFirst(held.PID)
	case errors.Is(e.Err, journal.ErrDamaged):
		return "keep the file, and ask the other side's `status` what it says"
	case errors.Is(e.Err, safefile.ErrUntrusted):
		return "run as the user that owns what is named, or name a directory of this user's with --state-dir"
	case errors.Is(e.Err, fs.ErrNotExist):
		return "make that directory first, or correct --state-dir"
	}
	return "name a directory that this user may write with --state-dir"
}

// EndFirst is the hint where a process is in the way.
func EndFirst(pid int) string {
	if pid == 0 {
		return "end that process first, and keep its supervisor from starting another"
	}
	return fmt.Sprintf("end it first: kill %d, or systemctl stop its unit, which would start another", pid)
}
