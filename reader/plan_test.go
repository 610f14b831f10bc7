package reader

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/migpipe/migpipe/vfio"
)

var update = flag.Bool("update", false, "write the plan's answers into the scenarios")

// TestPlan plays every scenario of testdata/plan and compares the plan's
// answers, the indented lines, with those in the file.
func TestPlan(t *testing.T) {
	files, err := filepath.Glob("testdata/plan/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(text))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(text) {
				t.Errorf("the plan does\n%s\nthe scenario says\n%s", got, text)
			}
		})
	}
}

// scenario is a plan under test and the names of its devices.
type scenario struct {
	plan  plan
	names []string
}

// play feeds a scenario's events to a plan and returns its text with the
// plan's answers.
func play(t *testing.T, text string) string {
	t.Helper()
	var out strings.Builder
	s := &scenario{}
	for n, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if strings.HasPrefix(line, "    ") {
			continue // an answer
		}
		fmt.Fprintln(&out, line)
		words := strings.Fields(line)
		if len(words) == 0 || words[0] == "#" {
			continue
		}
		if err := s.line(&out, words); err != nil {
			t.Fatalf("line %d: %q: %v", n+1, line, err)
		}
	}
	return out.String()
}

func (s *scenario) line(out *strings.Builder, words []string) error {
	if words[0] == "devices" {
		return s.devices(words[1:])
	}
	now, err := time.ParseDuration(words[0])
	if err != nil || len(words) < 2 {
		return fmt.Errorf("want TIME EVENT: %v", err)
	}
	ev, err := s.event(words[1], words[2:])
	if err != nil {
		return err
	}
	before := s.plan.phase
	actions := s.plan.step(now, ev)
	if s.plan.phase != before {
		fmt.Fprintf(out, "    %v\n", s.plan.phase)
	}
	for _, a := range actions {
		fmt.Fprintf(out, "    -> %s\n", s.action(a))
	}
	return nil
}

// devices reads "NAME[:precopy][:p2p]".
func (s *scenario) devices(words []string) error {
	var features []vfio.Features
	for _, w := range words {
		parts := strings.Split(w, ":")
		s.names = append(s.names, parts[0])
		var f vfio.Features
		for _, p := range parts[1:] {
			f.PreCopy = f.PreCopy || p == "precopy"
			f.P2P = f.P2P || p == "p2p"
		}
		features = append(features, f)
	}
	s.plan = newPlan(limits{downtime: 300 * time.Millisecond, maxPrecopy: 60 * time.Second, maxRounds: 30}, features)
	return nil
}

func (s *scenario) event(name string, args []string) (any, error) {
	switch name {
	case "connected":
		return connected{}, nil
	case "reached":
		return reached{}, nil
	case "paused":
		return paused{}, nil
	case "tick":
		return ticked{}, nil
	case "idle":
		return s.idle(args)
	case "applied":
		return s.applied(args)
	case "ended":
		device, err := s.device(args[0])
		return ended{device}, err
	}
	return nil, fmt.Errorf("unknown event %q", name)
}

// idle reads "NAME at=BYTES [initial=BYTES] [dirty=BYTES] [reinit]".
func (s *scenario) idle(args []string) (ev wasIdle, err error) {
	if ev.device, err = s.device(args[0]); err != nil {
		return ev, err
	}
	for _, arg := range args[1:] {
		key, value, _ := strings.Cut(arg, "=")
		n, err := number(value)
		switch key {
		case "at":
			ev.offset = n
		case "initial":
			ev.pending.Initial = n
		case "dirty":
			ev.pending.Dirty = n
		case "reinit":
			ev.pending.Reinit, err = true, nil
		}
		if err != nil {
			return ev, err
		}
	}
	return ev, nil
}

// applied reads "NAME=BYTES ..."; devices left out stay where they were.
func (s *scenario) applied(args []string) (ev applied, err error) {
	for _, d := range s.plan.devices {
		ev.at = append(ev.at, d.applied)
	}
	for _, arg := range args {
		name, value, _ := strings.Cut(arg, "=")
		device, err := s.device(name)
		if err != nil {
			return ev, err
		}
		if ev.at[device], err = number(value); err != nil {
			return ev, err
		}
	}
	return ev, nil
}

func (s *scenario) device(name string) (int, error) {
	for i, n := range s.names {
		if n == name {
			return i, nil
		}
	}
	return 0, fmt.Errorf("unknown device %q", name)
}

// number reads bytes, with K, M or G for powers of 1024.
func number(s string) (uint64, error) {
	shift := map[byte]int{'K': 10, 'M': 20, 'G': 30}
	if s == "" {
		return 0, fmt.Errorf("no number")
	}
	by := shift[s[len(s)-1]]
	if by > 0 {
		s = s[:len(s)-1]
	}
	n, err := strconv.ParseUint(s, 10, 64)
	return n << by, err
}

func (s *scenario) action(a any) string {
	switch a := a.(type) {
	case enter:
		text := "enter"
		for _, m := range a.moves {
			text += fmt.Sprintf(" %s=%v", s.names[m.device], m.to)
		}
		return text
	case pause:
		return "pause: " + s.plan.because
	case endStream:
		return "end " + s.names[a.device]
	case allDrained:
		return "all drained"
	case giveUp:
		return "give up: " + a.why
	}
	return fmt.Sprintf("%#v", a)
}
