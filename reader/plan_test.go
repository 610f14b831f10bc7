package reader

import (
	"cmp"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/migpipe/migpipe/transport/report"
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
			got := play(t, string(text), planAlone)
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

// stepper tells a plan of an event and gives its answer.
type stepper func(p *plan, now time.Duration, ev any) ([]any, error)

// planAlone is the plan without devices.
func planAlone(p *plan, now time.Duration, ev any) ([]any, error) { return p.step(now, ev), nil }

// scenario is a plan under test and the names of its devices.
type scenario struct {
	step   stepper
	plan   plan
	limits limits
	names  []string
}

// play feeds a scenario's events to a plan and returns its text with the
// plan's answers.
func play(t *testing.T, text string, step stepper) string {
	t.Helper()
	var out strings.Builder
	s := &scenario{step: step}
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
	switch words[0] {
	case "limits":
		return s.limit(words[1:])
	case "devices":
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
	actions, err := s.step(&s.plan, now, ev)
	if s.plan.phase != before {
		fmt.Fprintf(out, "    %v\n", s.plan.phase)
	}
	for _, a := range actions {
		fmt.Fprintf(out, "    -> %s\n", s.action(a))
	}
	return err
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
	if s.limits == (limits{}) {
		s.limits = defaults
	}
	s.plan = newPlan(s.limits, features)
	s.plan.stopping, s.plan.starting = known(0), known(0) // until the scenario says more
	s.plan.path = path{chunk: 64 << 10, rtt: known(0)}
	return nil
}

// defaults are those of the library.
var defaults = limits{downtime: 300 * time.Millisecond, maxPrecopy: 60 * time.Second, maxRounds: 30}

// limit reads "[downtime=TIME] [precopy=TIME] [rounds=N] [timeout=TIME]
// [continue|force]".
func (s *scenario) limit(words []string) (err error) {
	s.limits = defaults
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		switch key {
		case "downtime":
			s.limits.downtime, err = time.ParseDuration(value)
		case "precopy":
			s.limits.maxPrecopy, err = time.ParseDuration(value)
		case "timeout":
			s.limits.timeout, err = time.ParseDuration(value)
		case "rounds":
			s.limits.maxRounds, err = strconv.Atoi(value)
		case "continue":
			s.limits.onLimit = Continue
		case "force":
			s.limits.onLimit = Force
		default:
			err = fmt.Errorf("unknown limit %q", key)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *scenario) event(name string, args []string) (any, error) {
	switch name {
	case "connected":
		return connected{}, nil
	case "reached":
		return reached{}, nil
	case "warmed":
		return warmed{}, nil
	case "paused":
		return paused{}, nil
	case "confirmed":
		return confirmed{}, nil
	case "unpaused":
		return unpaused{}, nil
	case "tick":
		return ticked{}, nil
	case "cut":
		return cut{}, nil
	case "mended":
		away, err := time.ParseDuration(args[0])
		return mended{away}, err
	case "idle", "busy":
		return s.poll(name == "idle", args)
	case "size":
		return s.size(args[0])
	case "drained", "applied":
		at, err := s.moved(name, args)
		ev := s.figures()
		ev.moved = at
		return &ev, err
	case "path", "save", "load":
		ev, err := s.measured(name, args)
		return &ev, err
	case "ended":
		device, err := s.device(args[0])
		return ended{device}, err
	}
	return nil, fmt.Errorf("unknown event %q", name)
}

// poll reads "NAME at=BYTES [initial=BYTES] [dirty=BYTES] [reinit]".
func (s *scenario) poll(idle bool, args []string) (ev polled, err error) {
	ev.idle = idle
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

// size reads "NAME=BYTES".
func (s *scenario) size(arg string) (ev sized, err error) {
	name, value, _ := strings.Cut(arg, "=")
	if ev.device, err = s.device(name); err == nil {
		ev.bytes, err = number(value)
	}
	return ev, err
}

// moved reads "NAME=BYTES ..."; devices left out stay where they were. What was
// applied was drained.
func (s *scenario) moved(name string, args []string) (ev moved, err error) {
	at, err := s.numbers(args, func(d planDevice) uint64 {
		if name == "drained" {
			return d.drained
		}
		return d.applied
	})
	for i, d := range s.plan.devices {
		ev.drained, ev.applied = append(ev.drained, max(d.drained, at[i])), append(ev.applied, d.applied)
		if name == "applied" {
			ev.applied[i] = at[i]
		}
	}
	return ev, err
}

// measured reads the bytes a second of "path goodput=BYTES [rtt=TIME] [stop=TIME]
// [start=TIME] [pause|decide|witness|accept|guest|journal=TIME|unknown]" (offered=BYTES of a path that was never full) and of "save NAME=BYTES ..." and "load NAME=BYTES ...".
func (s *scenario) measured(name string, args []string) (ev measured, err error) {
	ev = s.figures()
	if name == "path" {
		for i, d := range s.plan.devices {
			if d.features.PreCopy { // its rates were seen, and are not what anything waits for
				ev.save[i], ev.load[i] = cmp.Or(ev.save[i], math.Inf(1)), cmp.Or(ev.load[i], math.Inf(1))
			}
		}
		return ev, s.path(&ev, args)
	}
	rates, err := s.numbers(args, func(planDevice) uint64 { return 0 })
	for i, r := range rates {
		if name == "save" && r > 0 {
			ev.save[i] = float64(r)
		} else if r > 0 {
			ev.load[i] = float64(r)
		}
	}
	return ev, err
}

// figures is what was measured so far.
func (s *scenario) figures() (ev measured) {
	ev.path, ev.stop, ev.start = s.plan.path, s.plan.stopping, s.plan.starting
	for _, d := range s.plan.devices {
		ev.drained, ev.applied = append(ev.drained, d.drained), append(ev.applied, d.applied)
		ev.save, ev.load = append(ev.save, d.save), append(ev.load, d.load)
	}
	return ev
}

func (s *scenario) path(ev *measured, args []string) error {
	for _, arg := range args {
		key, value, _ := strings.Cut(arg, "=")
		if key == "goodput" || key == "offered" {
			n, err := number(value)
			if err != nil {
				return err
			}
			ev.path.rate, ev.path.full = float64(n), key == "goodput"
			continue
		}
		var d time.Duration
		var err error
		if value != "unknown" {
			d, err = time.ParseDuration(value)
		}
		if err != nil {
			return err
		}
		switch key {
		case "pause":
			ev.path.steps.pause = report.Step{Took: d, Unknown: value == "unknown"}
		case "decide":
			ev.path.steps.decide = report.Step{Took: d, Unknown: value == "unknown"}
		case "witness":
			ev.path.steps.witness = report.Step{Took: d, Unknown: value == "unknown"}
		case "accept":
			ev.path.steps.accept = report.Step{Took: d, Unknown: value == "unknown"}
		case "guest":
			ev.path.steps.guest = report.Step{Took: d, Unknown: value == "unknown"}
		case "journal":
			ev.path.steps.journal = report.Step{Took: d, Unknown: value == "unknown"}
		case "rtt":
			ev.path.rtt = known(d)
		case "stop":
			ev.stop = known(d)
		case "start":
			ev.start = known(d)
		default:
			return fmt.Errorf("unknown %q", key)
		}
	}
	return nil
}

// numbers reads "NAME=BYTES ..."; devices left out have what else says.
func (s *scenario) numbers(args []string, other func(planDevice) uint64) (at []uint64, err error) {
	for _, d := range s.plan.devices {
		at = append(at, other(d))
	}
	for _, arg := range args {
		name, value, _ := strings.Cut(arg, "=")
		device, err := s.device(name)
		if err != nil {
			return at, err
		}
		if at[device], err = number(value); err != nil {
			return at, err
		}
	}
	return at, nil
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
	case warmUp:
		return "warm up"
	case pause:
		return fmt.Sprintf("pause: %s (%s)", s.plan.because, figure(s.plan.prediction))
	case confirm:
		return "confirm"
	case unpause:
		return "unpause"
	case warn:
		return "warn: " + a.text
	case endStream:
		return "end " + s.names[a.device]
	case allDrained:
		return "all drained"
	case giveUp:
		return "give up: " + a.cause.Error()
	}
	return fmt.Sprintf("%#v", a)
}

func figure(f report.Forecast) string {
	if !f.Downtime.Known {
		return "at least " + round(f.Downtime.Took).String()
	}
	return round(f.Downtime.Took).String()
}
