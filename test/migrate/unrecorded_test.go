package migrate

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
)

// failing is a journal on a disk that fails at one record, and at every later one.
type failing struct {
	*handoff.Memory
	at  handoff.Record
	bad *bool
}

func (f failing) Append(e handoff.Entry) error {
	if *f.bad = *f.bad || e.Record == f.at; *f.bad {
		return fmt.Errorf("fdatasync: %w", syscall.EIO)
	}
	return f.Memory.Append(e)
}

// says reports whether a side's error, or one of its warnings, has a text.
func (s side) says(text string) bool {
	return s.err != nil && strings.Contains(s.err.Error(), text) ||
		slices.ContainsFunc(s.report.Warnings, func(w string) bool { return strings.Contains(w, text) })
}

// TestUnrecorded: if a journal fails to take a record, its side names it. That holds at each
// record, for each outcome, and even if the migration fails for another cause.
func TestUnrecorded(t *testing.T) {
	for _, c := range []struct {
		at        handoff.Record
		source    bool // the journal is the source's
		cancelled bool // an earlier cause
		outcome   migration.Outcome
	}{
		{at: handoff.Open, source: true, outcome: migration.Aborted},
		{at: handoff.Commit, source: true, outcome: migration.Aborted},
		{at: handoff.Done, source: true, outcome: migration.Committed},
		{at: handoff.Owner, source: true, cancelled: true, outcome: migration.Aborted},
		{at: handoff.Open, outcome: migration.Aborted},
		{at: handoff.Ready, outcome: migration.Aborted},
		{at: handoff.Accept, outcome: migration.InDoubt},
		{at: handoff.Running, outcome: migration.Committed},
		{at: handoff.Done, outcome: migration.Committed},
		{at: handoff.Aborted, cancelled: true, outcome: migration.Aborted},
	} {
		name := fmt.Sprintf("destination %v", c.at)
		if c.source {
			name = fmt.Sprintf("source %v", c.at)
		}
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, pipe)
				p.add(t, "d0", nic, nic)
				p.lonely = true
				j := failing{handoff.NewMemory(), c.at, new(bool)}
				if c.source {
					p.send.Journal = j
				} else {
					p.receive.Journals = always(j)
				}
				switch {
				case c.cancelled && c.source:
					p.send.Observe = when(migration.Stop, 0, p.cancelSend)
				case c.cancelled:
					p.receive.Observe = when(migration.StopCopy, 0, p.cancelReceive)
				}
				s, r := p.run(t)
				failed := r
				if c.source {
					failed = s
				}
				if failed.report.Outcome != c.outcome || !failed.says(fmt.Sprintf("journal %v: fdatasync: input/output error", c.at)) {
					t.Errorf("%v: %v, warnings %q", failed.report.Outcome, failed.err, failed.report.Warnings)
				}
				if c.cancelled && !failed.says("cancel") {
					t.Errorf("%v, warnings %q: the first cause is missing", failed.err, failed.report.Warnings)
				}
			})
		})
	}
}
