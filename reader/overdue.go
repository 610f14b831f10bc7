package reader

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/migpipe/migpipe/transport/report"
)

// overdue tells, once, of a stop that is expected to be over the limit although it
// was not before: some driver takes its time for what nobody could see. It is told
// as soon as what it took so far, and what was predicted of the rest, say so: at the
// limit at the latest.
func (e *engine) overdue() {
	said, limit := e.out.Predicted, e.opts.DowntimeLimit
	if e.late || e.clock.paused.IsZero() || !e.clock.running.IsZero() || !e.clock.back.IsZero() || said.Downtime.Took > limit {
		return
	}
	stage, took, predicted, next := e.clock.stage(said.Prediction)
	expected := time.Since(e.clock.paused) + max(0, predicted-took) + next
	if expected < limit {
		return
	}
	e.late = true
	e.tell(report.Event{Kind: report.Warning, Text: fmt.Sprintf("the downtime is expected to be about %v, over the limit of %v: %s has taken %v so far, %s was predicted",
		round(expected), limit, stage, round(took), cmp.Or(timeText(predicted), "and nothing"))})
}

// timeText is a length of time, "" for none that is known.
func timeText(d time.Duration) string {
	if d <= 0 {
		return ""
	}
	return round(d).String()
}

// stage is the part of the stop that is under way, what it has taken, what it was
// predicted to take, and what those behind it were.
func (c *clock) stage(p report.Prediction) (name string, took, predicted, next time.Duration) {
	end := p.Commit.Took + p.Witness.Took + p.Accept.Took + p.Start.Took
	moving := p.Fill.Took + p.Save.Took + p.Wire.Took + p.Load.Took
	switch {
	case c.stopped.IsZero():
		return "stopping the devices", time.Since(c.paused), p.Stop.Took, moving + p.Decide.Took + end
	case c.ready.IsZero():
		return "moving their state", time.Since(c.stopped), moving, p.Decide.Took + end
	case c.decides && c.approved.IsZero():
		return "the approval of the switchover", time.Since(c.ready), p.Decide.Took, end
	}
	return behindCommit(p), time.Since(c.decided()), end, 0
}

// behindCommit names what the destination does before it answers COMMIT.
func behindCommit(p report.Prediction) string {
	var before []string
	if p.Witness != (report.Step{}) {
		before = append(before, "the witness")
	}
	if p.Accept != (report.Step{}) {
		before = append(before, "on-accept")
	}
	const start = "the start at the destination"
	if before == nil {
		return start
	}
	return strings.Join(before, ", ") + " or " + start
}
