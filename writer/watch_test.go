package writer

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/migpipe/migpipe/transport/handoff"
)

var update = flag.Bool("update", false, "write the watch's answers into the scenarios")

// TestWatch plays every scenario of testdata/watch and compares what the watch answers, the
// indented lines, with those in the file. A line is a time and the facts that change then.
func TestWatch(t *testing.T) {
	files, err := filepath.Glob("testdata/watch/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := playWatch(t, string(text))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(text) {
				t.Errorf("the watch does\n%s\nthe scenario says\n%s", got, text)
			}
		})
	}
}

// watched is a watch under test, and what it is told.
type watched struct {
	watch watch
	facts facts
}

func playWatch(t *testing.T, text string) string {
	t.Helper()
	var out strings.Builder
	s := &watched{}
	s.facts.times = &timing{}
	for n, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if strings.HasPrefix(line, "    ") {
			continue // an answer
		}
		fmt.Fprintln(&out, line)
		words := strings.Fields(line)
		if len(words) == 0 || words[0] == "#" {
			continue
		}
		actions, err := s.line(words)
		if err != nil {
			t.Fatalf("line %d: %q: %v", n+1, line, err)
		}
		for _, a := range actions {
			fmt.Fprintf(&out, "    -> %s\n", printWatchAction(a))
		}
	}
	return out.String()
}

func (s *watched) line(words []string) ([]watchAction, error) {
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
		if err := s.fact(now, key, value); err != nil {
			return nil, err
		}
	}
	return s.watch.tick(now, s.facts), nil
}

// fact changes one. A time without a value is now; "no" is that it has not come, or is not so.
func (s *watched) fact(now time.Time, key, value string) (err error) {
	f := &s.facts
	times := map[string]*time.Time{"lost": &f.lostAt, "heard": &f.heardAt, "welcomed": &f.times.welcomed, "resetting": &f.times.resetting, "cancelled": &f.times.cancelled}
	if when, ok := times[key]; ok {
		*when = now
		if value == "no" {
			*when = time.Time{}
		}
		return nil
	}
	flags := map[string]*bool{"connected": &f.connected, "local": &f.local, "taken": &f.taken, "missing": &f.missing, "ended": &f.ended,
		"owes": &f.owes, "leaving": &f.leaving, "asks-witness": &f.asksWitness}
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
		if a.alone {
			text += "; the next source may come"
		}
		return text
	case loseConnection:
		return "lose the connection: " + a.err.Error()
	case endRunning:
		return "end, and run on: " + a.warning
	case warnUser:
		return "warn: " + a.text
	case reportHeld:
		return "the copy is held"
	case leaveCopy:
		return "leave the copy"
	}
	panic(fmt.Sprintf("no text for %T", a))
}
