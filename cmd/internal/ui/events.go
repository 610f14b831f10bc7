package ui

import (
	"errors"
	"math"
	"strings"
	"time"

	"github.com/migpipe/migpipe/cmd/internal/sandbox"
	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// carrying is the event of the choice of a carrier.
const carrying migration.Kind = "carrier"

// jsonCarrying has the carriers that were asked, the chosen one first.
type jsonCarrying struct {
	jsonHead
	Chosen   string          `json:"chosen"`
	Measured []jsonCandidate `json:"measured"`
}

// jsonCandidate has no rate that could not be measured.
type jsonCandidate struct {
	Name  string  `json:"name"`
	RTTMS float64 `json:"rtt_ms,omitempty"`
	Rate  float64 `json:"rate_bytes_per_s,omitempty"`
	Error string  `json:"error,omitempty"`
}

// carryingText is the chosen carrier, and the measurement of each.
func carryingText(all []reader.Candidate) string {
	texts := make([]string, len(all))
	for i, c := range all {
		switch {
		case errors.Is(c.Err, transport.ErrUnreachable):
			texts[i] = c.Carrier + ": nobody answers"
		case c.Err != nil:
			texts[i] = c.Carrier + ": " + ErrorText(c.Err)
		case c.Found.Rate > 0:
			texts[i] = c.Carrier + ": " + humanRate(c.Found.Rate) + ", " + fineTime(c.Found.RTT)
		default:
			texts[i] = c.Carrier + ": " + fineTime(c.Found.RTT)
		}
	}
	return all[0].Carrier + " (" + strings.Join(texts, "; ") + ")"
}

func newJSONCarrying(head jsonHead, all []reader.Candidate) jsonCarrying {
	j := jsonCarrying{head, all[0].Carrier, make([]jsonCandidate, len(all))}
	for i, c := range all {
		j.Measured[i] = jsonCandidate{Name: c.Carrier, RTTMS: milliseconds(c.Found.RTT), Rate: math.Round(c.Found.Rate)}
		if c.Err != nil {
			j.Measured[i].Error = ErrorText(c.Err)
		}
	}
	return j
}

// confined is the event that lists what the sandbox restricts. Only --json has it: people need
// it when something is wrong.
const confined migration.Kind = "sandbox"

// jsonSandbox has the version of Landlock that is in force, or why none is, and what else
// the process has dropped.
type jsonSandbox struct {
	jsonHead
	Landlock     int       `json:"landlock"`
	Why          string    `json:"why,omitempty"`
	Scopes       []string  `json:"scopes,omitempty"`       // in which no process outside is reached
	NoNewPrivs   bool      `json:"no_new_privs,omitempty"` // and the ambient set is empty
	Capabilities *[]string `json:"capabilities,omitempty"` // that are left; absent if the process dropped none
}

func newJSONSandbox(head jsonHead, s sandbox.Status) jsonSandbox {
	out := jsonSandbox{jsonHead: head, Landlock: s.ABI, Why: s.Why, Scopes: s.Scopes, NoNewPrivs: s.Privileges}
	if s.Privileges {
		left := make([]string, len(s.Left))
		for i, c := range s.Left {
			left[i] = c.String()
		}
		out.Capabilities = &left
	}
	return out
}

// Events that ask the VMM, or answer its lines, and that the engine does not emit.
const (
	AskPause      migration.Kind = "pause"  // the guest is to be paused; Attempt
	AskResume     migration.Kind = "resume" // it is to be resumed; Attempt
	NotUnderstood migration.Kind = "not-understood"
)

// Ask asks the owner.
func (s *Observer) Ask(kind migration.Kind, a migration.Attempt) {
	s.add(stamped{at: time.Now(), Event: migration.Event{Kind: kind, Attempt: a}})
}

// NotUnderstood answers a line that is none of the words that are waited for.
func (s *Observer) NotUnderstood(line string, words []string) {
	s.add(stamped{at: time.Now(), Event: migration.Event{Kind: NotUnderstood, Text: line}, words: words})
}

// jsonAttempt is the fencing token.
type jsonAttempt struct {
	Migration string `json:"migration"`
	Epoch     uint64 `json:"epoch"`
}

func newJSONAttempt(a migration.Attempt) jsonAttempt { return jsonAttempt{a.Mig.String(), a.Epoch} }

// jsonReady asks the owner whether to commit.
type jsonReady struct {
	jsonHead
	DowntimeMS float64 `json:"downtime_ms"` // so far
}

// jsonNotUnderstood answers a line of the owner. Line is its beginning.
type jsonNotUnderstood struct {
	jsonHead
	Line  string   `json:"line"`
	Words []string `json:"words"`
}

// view shows events to the user.
type view interface {
	event(ev stamped)
	end(v Result) // after the last event
}

// quietView is --quiet.
type quietView struct{}

func (quietView) event(stamped) {}

func (quietView) end(Result) {}

// stamped is an event and when it happened.
type stamped struct {
	at time.Time
	migration.Event
	self    transport.PeerID   // of this side, for the event listening
	held    Scene              // of the devices that the process holds, for that event
	sandbox sandbox.Status     // for that event
	tried   []reader.Candidate // the carriers that were measured, for that event
	words   []string           // that would have been understood, for the event not-understood
}
