package handoff

import (
	"fmt"
	"strings"
	"testing"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/test/golden"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// A scenario is a text: at the margin an event for the source (S) or the
// destination (D), indented below it what the machine makes of it. "scenario"
// starts over, "#" begins a comment. Run with -update after a change, and read
// the difference: it is the change of behaviour.
func TestScenarios(t *testing.T) { golden.Scenarios(t, "testdata/*.txt", play) }

// stage holds both machines and their journals.
type stage struct {
	s          Source
	d          Dest
	sLog, dLog Entry
	out        strings.Builder
}

func newStage() *stage {
	a := attempt(1)
	return &stage{
		s: NewSource(a, sourceJournal), sLog: Entry{Record: Owner, Attempt: a, Journal: sourceJournal},
		d: NewDest(destJournal), dLog: Entry{Journal: destJournal},
	}
}

func play(t *testing.T, text string) string {
	var out strings.Builder
	st := newStage()
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		switch {
		case strings.HasPrefix(line, " "), strings.HasPrefix(line, "\t"):
			continue // of the last run
		case strings.HasPrefix(line, "scenario"):
			st = newStage()
		}
		out.WriteString(line + "\n")
		if strings.HasPrefix(line, "S ") || strings.HasPrefix(line, "D ") {
			st.play(t, line)
			out.WriteString(st.out.String())
			st.out.Reset()
		}
	}
	return out.String()
}

func (st *stage) play(t *testing.T, line string) {
	line, refuses := strings.CutSuffix(line, ", journal refuses")
	side, what, _ := strings.Cut(line, " ")
	switch {
	case what == "restart" && side == "S":
		s, actions := RestartSource(st.sLog)
		st.source(s, actions, false)
	case strings.HasPrefix(what, "restart"):
		d, actions := RestartDest(st.dLog, map[string]Holding{"restart": Nothing, "restart, copy kept": Whole, "restart, running": Executing}[what])
		st.dest(d, actions, false)
	case what == "has a witness":
		st.s.Witness = worldWitness
	case what == "holds nothing any more":
		st.s.Empty = true
	case what == "has an owner who decides":
		st.s.External = true
	case what == "is forced":
		st.decided(t, side, Force)
	case what == "is told to commit there":
		st.decided(t, side, CommitThere)
	case what == "loses its journal":
		st.d, st.dLog = NewDest(otherJournal), Entry{Journal: otherJournal}
	case side == "S":
		s, actions := takeSource(st.s, parseEvent(t, what, st.s.Attempt))
		st.source(s, actions, refuses)
	default:
		d, actions := takeDest(st.d, parseEvent(t, what, st.d.Attempt))
		st.dest(d, actions, refuses)
	}
}

// decided is what a person has written into a journal, from which the next process goes on.
func (st *stage) decided(t *testing.T, side string, decide func(Entry, string) (Entry, bool)) {
	log := map[string]*Entry{"S": &st.sLog, "D": &st.dLog}[side]
	decided, ok := decide(*log, "root on there: the other host burned down")
	if !ok {
		t.Fatalf("%v is no record to be decided from", log.Record)
	}
	*log = decided
	fmt.Fprintf(&st.out, "      %s\n", printAction(Append{decided}))
}

func (st *stage) source(s Source, actions []SourceAction, refuses bool) {
	fmt.Fprintf(&st.out, "    %v %v -> %v %v\n", st.s.Phase, st.s.Record, s.Phase, s.Record)
	st.s = s
	if st.act(mixed(actions), refuses, &st.sLog) {
		s, actions = st.s.Step(Unrecorded{})
		st.source(s, actions, true)
	}
}

func (st *stage) dest(d Dest, actions []DestAction, refuses bool) {
	fmt.Fprintf(&st.out, "    %v %v -> %v %v\n", st.d.Phase, st.d.Record, d.Phase, d.Record)
	st.d = d
	if st.act(mixed(actions), refuses, &st.dLog) {
		d, actions = st.d.Step(Unrecorded{})
		st.dest(d, actions, true)
	}
}

// act prints the actions, and reports whether the journal refused one of them.
func (st *stage) act(actions []Action, refuses bool, log *Entry) bool {
	for _, a := range actions {
		rec, ok := a.(Append)
		if ok && refuses {
			fmt.Fprintf(&st.out, "      %s: refused\n", printAction(a))
			return true
		}
		if ok {
			*log = rec.Entry
		}
		fmt.Fprintf(&st.out, "      %s\n", printAction(a))
	}
	return false
}

func printAction(a Action) string {
	switch a := a.(type) {
	case Append:
		text := fmt.Sprintf("append %v(%d)", a.Entry.Record, a.Entry.Attempt.Epoch)
		if a.Entry.Sole {
			text += ", the copy there may be the only one"
		}
		return text
	case Send:
		return "send " + printMessage(a.Message)
	case Finish:
		return fmt.Sprintf("finish: %v", a.Outcome)
	case AskApproval:
		return "ask the owner"
	case AskWitness:
		return "ask the witness"
	case Resume:
		if a.Reverted {
			return "resume, from COMMIT"
		}
	case SendHello:
		return "send HELLO"
	case SendWelcome:
		return "send WELCOME"
	}
	return strings.ToLower(strings.TrimPrefix(fmt.Sprintf("%T", a), "handoff."))
}

func printMessage(m wire.Message) string {
	text := fmt.Sprintf("%v(%d)", m.Type(), m.About().Epoch)
	switch m := m.(type) {
	case *wire.Declined:
		text += fmt.Sprintf(" %v: %s", m.Code, m.Text)
	case *wire.Abort:
		text += fmt.Sprintf(" %v: %s", m.Code, m.Text)
	case *wire.NotStarted:
		text += ": " + m.Text
	case *wire.Status:
		text += fmt.Sprintf(" record=%s max-epoch=%d", m.Record, m.MaxEpoch)
		if m.Text != "" {
			text += ": " + m.Text
		}
	}
	return text
}

// parseEvent reads "COMMIT", "COMMIT epoch=2 journal=other" or "loaded".
func parseEvent(t *testing.T, text string, at migration.Attempt) Event {
	words := strings.Fields(text)
	journal, digest := destJournal, worldDigest
	for _, w := range words[1:] {
		switch w {
		case "journal=other":
			journal = otherJournal
		case "digest=other":
			digest = migration.StreamDigest{}
		case "epoch=1", "epoch=2":
			at = attempt(uint64(w[len(w)-1] - '0'))
		case "mig=other":
			at.Mig = migration.ID{9}
		}
	}
	if ev := messageEvent(words[0], at, journal, digest); ev != nil {
		return ev
	}
	if ev := localEvent(strings.Join(words, " "), at, digest); ev != nil {
		return ev
	}
	t.Fatalf("unknown event %q", text)
	return nil
}

func messageEvent(name string, at migration.Attempt, journal migration.JournalID, digest migration.StreamDigest) Event {
	switch name {
	case "WELCOME":
		return &wire.Welcome{Attempt: at, Journal: journal}
	case "READY":
		return &wire.Ready{Attempt: at, Journal: journal, Digest: digest}
	case "COMMIT":
		return &wire.Commit{Attempt: at, Journal: journal, Digest: digest}
	case "RUNNING":
		return &wire.Running{Attempt: at, Journal: journal}
	case "DECLINED":
		return &wire.Declined{Attempt: at, Journal: journal, Code: transport.CodeDevice}
	case "NOT_STARTED":
		return &wire.NotStarted{Attempt: at, Journal: journal}
	case "CANCEL":
		return &wire.Cancel{Attempt: at}
	case "ABORT":
		return &wire.Abort{Attempt: at, Code: transport.CodeDevice}
	case "FIN":
		return &wire.Fin{Attempt: at}
	case "QUERY":
		return &wire.Query{Attempt: at}
	case "FORCED": // STATUS
		return &wire.Status{Attempt: at, Journal: journal, Record: name, MaxEpoch: at.Epoch + 1}
	case "LOST": // STATUS too
		return &wire.Status{Attempt: at, Journal: journal, Record: name, MaxEpoch: at.Epoch}
	}
	return nil
}

func localEvent(text string, at migration.Attempt, digest migration.StreamDigest) Event {
	failed := Failed{Code: transport.CodeDevice, Device: "net0", Offset: 4096, Text: "input/output error"}
	name, detail, _ := strings.Cut(text, " ")
	switch name {
	case "begin":
		return Begin{}
	case "offered":
		o := Offered{Attempt: attempt(max(1, at.Epoch))}
		if detail == "witness" {
			o.Witness = worldWitness
		}
		return o
	case "approved":
		return Approved{}
	case "overdue":
		return Overdue{}
	case "witnessed":
		return Witnessed{map[string]Side{"source": SourceSide, "destination": DestSide, "nobody": 0}[detail]}
	case "refused":
		return Refused{attempt(max(1, at.Epoch)), Failed{Code: transport.CodeIncompatible, Text: "another driver"}, detail == "no record"}
	case "drained":
		return Drained{digest}
	case "loaded":
		return Loaded{digest}
	case "failed":
		return failed
	case "lost":
		return Unreachable{}
	case "reached":
		return Reached{}
	case "interrupt":
		return Interrupt{}
	case "leave":
		return Leave{}
	case "halted":
		return Halted{Failed: detail == "not"}
	case "resumed":
		return Resumed{map[string]Return{"": Back, "but the guest": Unheard, "none": NoneRan, "some": SomeRan}[detail]}
	case "reset":
		return WasReset{Failed: detail == "not"}
	case "started":
		return Started{TookNS: 1000}
	case "not-started":
		return NotStarted{Copy: map[string]Copy{"kept": Kept, "dropped": Dropped, "unclear": Unclear}[detail], Text: "no start"}
	}
	return nil
}
