package reader

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/migpipe/migpipe/reader/internal/plan"
	"github.com/migpipe/migpipe/test/golden"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
)

// TestWatch plays every scenario of testdata/watch and compares the watch's answers, the indented
// lines, with those in the file. Each other line is a time and the facts that change at it.
func TestWatch(t *testing.T) {
	golden.Scenarios(t, "testdata/watch/*.txt", func(t *testing.T, text string) string {
		s := &watchPlayer{}
		s.facts.times = &timing{}
		return golden.Play(t, text, s.line)
	})
}

// watchPlayer plays a scenario to a watch.
type watchPlayer struct {
	watch watch
	facts facts
}

func (s *watchPlayer) line(words []string) (answers []string, err error) {
	if words[0] == "limits" {
		l := &s.watch.limits
		return nil, each(words[1:], func(key, value string) (err error) {
			limit, ok := map[string]*time.Duration{"welcome": &l.welcome, "reconnect": &l.reconnect, "downtime": &l.downtime,
				"resume-after": &l.maxDowntime, "stall": &l.stall, "ask-back-after": &l.cancelAfter}[key]
			if !ok {
				return fmt.Errorf("unknown limit %q", key)
			}
			*limit, err = time.ParseDuration(value)
			return err
		})
	}
	at, err := time.ParseDuration(words[0])
	if err != nil {
		return nil, err
	}
	now := time.Unix(1000, 0).Add(at)
	if err := each(words[1:], func(key, value string) error { return s.setFact(now, key, value) }); err != nil {
		return nil, err
	}
	for _, a := range s.watch.tick(now, s.facts) {
		answers = append(answers, printWatchAction(a))
	}
	return answers, nil
}

// each splits words into KEY or KEY=VALUE.
func each(words []string, do func(key, value string) error) error {
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		if err := do(key, strings.ReplaceAll(value, "_", " ")); err != nil {
			return err
		}
	}
	return nil
}

// setFact changes one fact. A time without a value is now; "no" means that it has not come.
func (s *watchPlayer) setFact(now time.Time, key, value string) (err error) {
	f, t := &s.facts, s.facts.times
	times := map[string]*time.Time{"began": &t.began, "paused": &t.paused, "stopped": &t.stopped, "ready": &t.ready, "approved": &t.approved,
		"running": &t.running, "back": &t.back, "bare": &f.noLaneSince, "lost": &f.lostAt, "cancelled": &f.cancelledAt}
	if when, ok := times[key]; ok {
		*when = now
		if value == "no" {
			*when = time.Time{}
		}
		if key == "stopped" {
			s.watch.noteStopped(now)
		}
		return nil
	}
	flags := map[string]*bool{"witness": &f.witness, "empty": &f.empty, "sole": &f.sole}
	if flag, ok := flags[key]; ok {
		*flag = value != "no"
		return nil
	}
	switch key {
	case "phase":
		return named(value, &f.phase, handoff.SourceEnded)
	case "plan":
		return named(value, &f.plan, plan.Ended)
	case "moved":
		f.moved, err = strconv.ParseUint(value, 10, 64)
	case "slowest":
		f.slowest, f.offset = value, f.moved
	case "by":
		f.lossCause = errors.New(value)
	case "refusal":
		f.refusal = &transport.Fault{Code: transport.CodeBusy, Remote: true, Err: errors.New(value)}
	case "doubt-for":
		f.doubtLimit, err = time.ParseDuration(value)
	case "predicted": // as the time of the stop alone; a lower bound ends with a +
		value, bound := strings.CutSuffix(value, "+")
		none, stop := migration.Span{Known: true}, migration.Span{Known: !bound}
		stop.Took, err = time.ParseDuration(value)
		f.predicted = &migration.Forecast{Prediction: migration.Prediction{Stop: stop, Fill: none, Save: none, Wire: none, Load: none, Commit: none, Start: none, Downtime: stop}}
	default:
		err = fmt.Errorf("unknown fact %q", key)
	}
	return err
}

// named finds the phase with a name.
func named[P interface {
	~uint8
	fmt.Stringer
}](name string, to *P, last P) error {
	for p := P(0); p <= last; p++ {
		if p.String() == name {
			*to = p
			return nil
		}
	}
	return fmt.Errorf("no phase %q", name)
}

func printWatchAction(a watchAction) string {
	switch a := a.(type) {
	case endAttempt:
		return fmt.Sprintf("end by %T: %v", a.event, a.fault)
	case notifyHandoff:
		return fmt.Sprintf("hand-off: %T%+v", a.event, a.event)
	case warnUser:
		if a.lasting {
			return "warn, and report: " + a.text
		}
		return "warn: " + a.text
	}
	panic(fmt.Sprintf("no text for %T", a))
}

// heardEvent finds the events for the hand-off in the answers of the watch.
var heardEvent = regexp.MustCompile(`-> (?:hand-off: |end by )handoff\.(\w+)`)

// TestWatchActions checks that the watch decides nothing that needs a device, a journal or a
// connection: it gives the hand-off no message. The explorer of package handoff gives each of these
// events to the source at any time at which the watch may.
func TestWatchActions(t *testing.T) {
	text, err := filepath.Glob("testdata/watch/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	heard := map[string]bool{}
	for _, file := range text {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.SplitSeq(string(b), "\n") {
			if m := heardEvent.FindStringSubmatch(line); m != nil {
				heard[m[1]] = true
			}
		}
	}
	want := []string{"Failed", "Halted", "Interrupt", "Overdue", "Resumed", "Unreachable"}
	if got := slices.Sorted(maps.Keys(heard)); !slices.Equal(got, want) {
		t.Errorf("the scenarios have %v, want %v", got, want)
	}
}
