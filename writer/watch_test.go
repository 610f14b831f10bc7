package writer

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/migpipe/migpipe/test/golden"
	"github.com/migpipe/migpipe/transport/handoff"
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
		for _, w := range words[1:] {
			key, value, _ := strings.Cut(w, "=")
			limit, ok := map[string]*time.Duration{"reconnect": &l.reconnect, "stall": &l.stall, "alarm": &l.readyAlarm, "lease": &l.readyLease}[key]
			if !ok {
				return nil, fmt.Errorf("unknown limit %q", key)
			}
			var err error
			if *limit, err = time.ParseDuration(value); err != nil {
				return nil, err
			}
		}
		return nil, nil
	}
	at, err := time.ParseDuration(words[0])
	if err != nil {
		return nil, err
	}
	now := time.Unix(1000, 0).Add(at)
	for _, w := range words[1:] {
		key, value, _ := strings.Cut(w, "=")
		if err := s.setFact(now, key, value); err != nil {
			return nil, err
		}
	}
	for _, a := range s.watch.tick(now, s.facts) {
		answers = append(answers, printWatchAction(a))
	}
	return answers, nil
}

// setFact changes one fact. A time without a value is now; "no" means that it has not come, or is
// false.
func (s *watchPlayer) setFact(now time.Time, key, value string) (err error) {
	f := &s.facts
	times := map[string]*time.Time{"lost": &f.lostAt, "heard": &f.heardAt, "welcomed": &f.times.welcomed, "resetting": &f.times.resetting, "cancelled": &f.times.cancelled}
	if when, ok := times[key]; ok {
		*when = now
		if value == "no" {
			*when = time.Time{}
		}
		return nil
	}
	flags := map[string]*bool{"connected": &f.connected, "local": &f.local, "heard-welcome": &f.heardWelcome, "missing": &f.missing, "ended": &f.ended,
		"owes": &f.owes, "hold-asked": &f.holdAsked, "asks-witness": &f.asksWitness}
	if flag, ok := flags[key]; ok {
		*flag = value != "no"
		return nil
	}
	switch key {
	case "phase":
		for p := handoff.DestIdle; p <= handoff.DestEnded; p++ {
			if p.String() == value {
				f.phase = p
				return nil
			}
		}
		return fmt.Errorf("no phase %q", value)
	case "lanes":
		f.dialled, err = strconv.Atoi(value)
	case "arrived":
		f.arrived, err = strconv.ParseUint(value, 10, 64)
	case "applied":
		f.applied, err = strconv.ParseUint(value, 10, 64)
	default:
		err = fmt.Errorf("unknown fact %q", key)
	}
	return err
}

func printWatchAction(a watchAction) string {
	switch a := a.(type) {
	case endAttempt:
		text := fmt.Sprintf("end by %T: %v", a.event, a.fault)
		if a.sourceAlone {
			text += "; the next source may come"
		}
		return text
	case loseConnection:
		return "lose the connection: " + a.err.Error()
	case endRunning:
		return "end, with running devices: " + a.warning
	case warnUser:
		return "warn: " + a.text
	case reportHeld:
		return "report the copy as held"
	case holdCopy:
		return "hold the copy"
	}
	panic(fmt.Sprintf("no text for %T", a))
}
