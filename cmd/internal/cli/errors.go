package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
)

// mistake is a command line that cannot be carried out, and the way to mend it.
type mistake struct {
	text string
	hint string
}

func (m *mistake) Error() string { return m.text }

func mistakef(hint, format string, args ...any) error {
	return &mistake{text: fmt.Sprintf(format, args...), hint: hint}
}

// deviceFault places an error that came before the engine had a say.
func deviceFault(name string, err error) error {
	code := transport.CodeDevice
	if errors.Is(err, vfio.ErrBusy) || errors.Is(err, vfio.ErrNoMigration) {
		code = transport.CodeBusy
	}
	return &transport.Fault{Code: code, Device: name, Err: err}
}

// packagePrefixes are what Go programs want to read before an error, and users
// do not.
var packagePrefixes = []string{"reader: ", "writer: ", "transport: ", "vfio: ", "sim: "}

// errorText is an error on one line for people: where it is, then what.
func errorText(err error) string {
	f, ok := errors.AsType[*transport.Fault](err)
	if !ok {
		return plainText(err)
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
	b.WriteString(plainText(f.Err))
	return b.String()
}

// plainText leaves out package names, and the hint that the error carries in
// brackets where hints are lines of their own.
func plainText(err error) string {
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
	return oneLine(text)
}

// oneLine joins what errors.Join puts on lines of their own.
func oneLine(text string) string { return strings.ReplaceAll(text, "\n", "; ") }

// jsonRefused is mig-recv's event about a source that it refused, or let go of before it sent
// anything. The next source is waited for.
type jsonRefused struct {
	jsonHead
	ID    *transport.PeerID `json:"id,omitempty"`
	Code  string            `json:"code"`
	Why   string            `json:"why"`
	Hints []string          `json:"hints,omitempty"`
	More  int               `json:"more,omitempty"` // refusals since the last event that had no event of their own
}

func (j *jsonView) refused(head jsonHead, ev migration.Event) {
	code, _ := codeOf(ev.Err)
	j.write(jsonRefused{head, known(ev.Peer), code.String(), errorText(ev.Err), refusedHints(ev.Err), ev.More})
}

// refusedText is the line about the same.
func refusedText(ev migration.Event) string {
	text := "refused a source"
	if ev.Peer != (transport.PeerID{}) {
		text += " (" + ev.Peer.Short() + ")"
	}
	if ev.More > 0 {
		text += fmt.Sprintf(", and %d more since the last line", ev.More)
	}
	text += ": " + errorText(ev.Err)
	if hints := refusedHints(ev.Err); len(hints) > 0 {
		text += " (" + strings.Join(hints, "; ") + ")"
	}
	return text + "; waiting for the next"
}

// refusedHints are the next steps where this side can take one.
func refusedHints(err error) []string {
	for _, h := range causeHints {
		if errors.Is(err, h.cause) {
			return []string{h.hint}
		}
	}
	switch code, remote := codeOf(err); code {
	case transport.CodeVersion, transport.CodeDevices, transport.CodeIncompatible:
		return optional(scene{}.ofCode(code, remote))
	}
	return nil
}
