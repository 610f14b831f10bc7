package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/report"
)

// jsonRefused is mig-recv's event about a source that it refused, or let go of before it sent
// anything. The next source is waited for.
type jsonRefused struct {
	jsonHead
	ID    *transport.ID `json:"id,omitempty"`
	Code  string        `json:"code"`
	Why   string        `json:"why"`
	Hints []string      `json:"hints,omitempty"`
	More  int           `json:"more,omitempty"` // refusals since the last event that had no event of their own
}

func (j *jsonView) refused(head jsonHead, ev report.Event) {
	code, _ := codeOf(ev.Err)
	j.write(jsonRefused{head, known(ev.Peer), code.String(), errorText(ev.Err), refusedHints(ev.Err), ev.More})
}

// refusedText is the line about the same.
func refusedText(ev report.Event) string {
	text := "refused a source"
	if ev.Peer != (transport.ID{}) {
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
