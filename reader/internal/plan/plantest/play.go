// Package plantest plays scenarios to a [plan.Plan]: texts with events at the margin, and the
// plan's answers indented below them.
package plantest

import (
	"cmp"
	"embed"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/migpipe/migpipe/reader/internal/plan"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
)

// Texts are the scenarios, embedded for binaries that run without a checkout.
//
//go:embed testdata/*.txt
var Texts embed.FS

// Stepper gives an event to the scenario's plan, and returns the plan's answer.
type Stepper func(s *Scenario, now time.Duration, ev plan.Event) ([]plan.Action, error)

// StepPlan is the Stepper of a plan without devices.
func StepPlan(s *Scenario, now time.Duration, ev plan.Event) ([]plan.Action, error) {
	return s.Plan.Step(now, ev), nil
}

// Scenario is a plan under test, and the state of its scenario.
type Scenario struct {
	Plan     *plan.Plan
	Features []vfio.Features // of its devices

	step   Stepper
	limits plan.Limits
	names  []string
	known  plan.Measured // so far
}

// Play gives the events of a text to a plan, and returns the text with the plan's answers.
func Play(text string, step Stepper) (string, error) {
	var out strings.Builder
	s := &Scenario{step: step, limits: defaults}
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
			return out.String(), fmt.Errorf("line %d: %q: %w", n+1, line, err)
		}
	}
	return out.String(), nil
}

// line plays one line that is no answer.
func (s *Scenario) line(out *strings.Builder, words []string) error {
	switch words[0] {
	case "limits":
		return s.readLimits(words[1:])
	case "devices":
		s.readDevices(words[1:])
		return nil
	}
	now, err := time.ParseDuration(words[0])
	if err != nil || len(words) < 2 || s.Plan == nil {
		return fmt.Errorf("want TIME EVENT, after devices: %v", err)
	}
	ev, err := s.readEvent(words[1], words[2:])
	if err != nil {
		return err
	}
	before := s.Plan.Phase()
	actions, err := s.step(s, now, ev)
	if s.Plan.Phase() != before {
		fmt.Fprintf(out, "    %v\n", s.Plan.Phase())
	}
	for _, a := range actions {
		fmt.Fprintf(out, "    -> %s\n", s.printAction(a))
	}
	return err
}

// readDevices reads "NAME[:precopy][:p2p]".
func (s *Scenario) readDevices(words []string) {
	for _, w := range words {
		parts := strings.Split(w, ":")
		s.names = append(s.names, parts[0])
		var f vfio.Features
		for _, p := range parts[1:] {
			f.PreCopy = f.PreCopy || p == "precopy"
			f.P2P = f.P2P || p == "p2p"
		}
		s.Features = append(s.Features, f)
	}
	n := len(s.Features)
	s.Plan = plan.New(s.limits, s.Features, nil)
	s.known = plan.Measured{ // until the scenario changes it
		Drained: make([]uint64, n), Applied: make([]uint64, n), Save: make([]float64, n), Load: make([]float64, n),
		Path: plan.Path{Chunk: 64 << 10, RTT: exactly(0)}, Stop: exactly(0), Start: exactly(0),
	}
	s.Plan.Step(0, &s.known)
}

func exactly(d time.Duration) migration.Span { return migration.Span{Took: d, Known: true} }

// defaults are the limits of the library.
var defaults = plan.Limits{Downtime: 300 * time.Millisecond, MaxPrecopy: 60 * time.Second, MaxRounds: 30}

// readLimits reads "[downtime=TIME] [precopy=TIME] [rounds=N] [timeout=TIME]
// [continue|force]".
func (s *Scenario) readLimits(words []string) (err error) {
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		switch key {
		case "downtime":
			s.limits.Downtime, err = time.ParseDuration(value)
		case "precopy":
			s.limits.MaxPrecopy, err = time.ParseDuration(value)
		case "timeout":
			s.limits.Timeout, err = time.ParseDuration(value)
		case "rounds":
			s.limits.MaxRounds, err = strconv.Atoi(value)
		case "continue":
			s.limits.OnLimit = plan.Continue
		case "force":
			s.limits.OnLimit = plan.Force
		default:
			err = fmt.Errorf("unknown limit %q", key)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Scenario) readEvent(name string, args []string) (plan.Event, error) {
	bare := map[string]plan.Event{
		"connected": plan.LanesOpened{}, "reached": plan.StatesReached{}, "warmed": plan.LanesWarmed{}, "paused": plan.GuestPaused{},
		"confirmed": plan.EstimatesConfirmed{}, "unpaused": plan.GuestResumed{}, "tick": plan.TimePassed{}, "cut": plan.ConnectionLost{},
	}
	if ev, ok := bare[name]; ok {
		return ev, nil
	}
	switch name {
	case "mended":
		away, err := time.ParseDuration(args[0])
		return plan.ConnectionRestored{Away: away}, err
	case "idle", "busy":
		return s.readPoll(name == "idle", args)
	case "size":
		return s.readSize(args[0])
	case "ended":
		device, err := s.device(args[0])
		return plan.StreamEnded{Device: device}, err
	}
	return &s.known, s.measure(name, args)
}

// readPoll reads "NAME at=BYTES [initial=BYTES] [dirty=BYTES] [reinit]".
func (s *Scenario) readPoll(idle bool, args []string) (ev plan.PrecopyPolled, err error) {
	ev.Idle = idle
	if ev.Device, err = s.device(args[0]); err != nil {
		return ev, err
	}
	for _, arg := range args[1:] {
		key, value, _ := strings.Cut(arg, "=")
		n, err := number(value)
		switch key {
		case "at":
			ev.Offset = n
		case "initial":
			ev.Pending.Initial = n
		case "dirty":
			ev.Pending.Dirty = n
		case "reinit":
			ev.Pending.Reinit, err = true, nil
		}
		if err != nil {
			return ev, err
		}
	}
	return ev, nil
}

// readSize reads "NAME=BYTES".
func (s *Scenario) readSize(arg string) (ev plan.SizePolled, err error) {
	name, value, _ := strings.Cut(arg, "=")
	if ev.Device, err = s.device(name); err == nil {
		ev.Bytes, err = number(value)
	}
	return ev, err
}

// measure reads "drained|applied NAME=BYTES ...", the bytes a second of "save|load NAME=BYTES ..."
// and "path ...". Applied bytes were drained.
func (s *Scenario) measure(name string, args []string) error {
	m := &s.known
	switch name {
	case "drained":
		return s.numbers(args, func(i int, n uint64) { m.Drained[i] = max(m.Drained[i], n) })
	case "applied":
		return s.numbers(args, func(i int, n uint64) { m.Applied[i], m.Drained[i] = n, max(m.Drained[i], n) })
	case "save":
		return s.numbers(args, func(i int, n uint64) { m.Save[i] = float64(n) })
	case "load":
		return s.numbers(args, func(i int, n uint64) { m.Load[i] = float64(n) })
	case "path":
		for i, f := range s.Features {
			if f.PreCopy { // its rates are known, and no stage waits for it
				m.Save[i], m.Load[i] = cmp.Or(m.Save[i], math.Inf(1)), cmp.Or(m.Load[i], math.Inf(1))
			}
		}
		return s.readPath(args)
	}
	return fmt.Errorf("unknown event %q", name)
}

// readPath reads "[goodput=BYTES] [offered=BYTES] [rtt=TIME] [stop=TIME] [start=TIME]
// [pause|decide|witness|accept|guest|journal=TIME|unknown]". offered is the goodput of a path that
// never was full.
func (s *Scenario) readPath(args []string) error {
	path := &s.known.Path
	steps := map[string]*migration.Step{"pause": &path.Steps.Pause, "decide": &path.Steps.Decide, "witness": &path.Steps.Witness,
		"accept": &path.Steps.Accept, "guest": &path.Steps.Guest, "journal": &path.Steps.Journal}
	spans := map[string]*migration.Span{"rtt": &path.RTT, "stop": &s.known.Stop, "start": &s.known.Start}
	for _, arg := range args {
		key, value, _ := strings.Cut(arg, "=")
		if key == "goodput" || key == "offered" {
			n, err := number(value)
			if err != nil {
				return err
			}
			path.Rate, path.Full = float64(n), key == "goodput"
			continue
		}
		var took time.Duration
		if value != "unknown" {
			var err error
			if took, err = time.ParseDuration(value); err != nil {
				return err
			}
		}
		switch {
		case steps[key] != nil:
			*steps[key] = migration.Step{Took: took, Unknown: value == "unknown"}
		case spans[key] != nil:
			*spans[key] = exactly(took)
		default:
			return fmt.Errorf("unknown %q", key)
		}
	}
	return nil
}

// numbers reads "NAME=BYTES ...".
func (s *Scenario) numbers(args []string, set func(device int, n uint64)) error {
	for _, arg := range args {
		name, value, _ := strings.Cut(arg, "=")
		device, err := s.device(name)
		if err != nil {
			return err
		}
		n, err := number(value)
		if err != nil {
			return err
		}
		set(device, n)
	}
	return nil
}

func (s *Scenario) device(name string) (int, error) {
	if i := slices.Index(s.names, name); i >= 0 {
		return i, nil
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

func (s *Scenario) printAction(a plan.Action) string {
	switch a := a.(type) {
	case plan.EnterStates:
		text := "enter"
		for _, m := range a.Moves {
			text += fmt.Sprintf(" %s=%v", s.names[m.Device], m.To)
		}
		return text
	case plan.WarmLanes:
		return "warm up"
	case plan.PauseGuest:
		return fmt.Sprintf("pause: %s (%s)", a.Why, printDowntime(a.Predicted))
	case plan.ConfirmEstimates:
		return "confirm"
	case plan.ResumeGuest:
		return "unpause"
	case plan.WarnUser:
		return "warn: " + a.Text
	case plan.EndStream:
		return "end " + s.names[a.Device]
	case plan.ReportDrained:
		return "all drained"
	case plan.EndAttempt:
		return "end: " + a.Cause.Error()
	}
	panic(fmt.Sprintf("no text for %T", a))
}

func printDowntime(f migration.Forecast) string {
	if !f.Downtime.Known {
		return "at least " + migration.RoundTime(f.Downtime.Took).String()
	}
	return migration.RoundTime(f.Downtime.Took).String()
}
