package cli

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
)

// toldEvent has the fields of an event that these checks read.
type toldEvent struct {
	Event     string `json:"event"`
	Side      string `json:"side"`
	Migration string `json:"migration"`
	Epoch     uint64 `json:"epoch"`

	Goodput   float64   `json:"goodput_bytes_per_s"`
	Occupancy *struct{} `json:"occupancy"`
	Devices   []struct {
		Phase string  `json:"phase"`
		Save  float64 `json:"save_bytes_per_s"`
		Wire  float64 `json:"wire_bytes_per_s"`
		Load  float64 `json:"load_bytes_per_s"`
	} `json:"devices"`

	Outcome    string   `json:"outcome"`
	Exit       int      `json:"exit"`
	TotalMS    float64  `json:"total_ms"`
	DowntimeMS float64  `json:"downtime_ms"`
	Known      *bool    `json:"predicted_known"`
	Off        *float64 `json:"prediction_error_percent"`
	Predicted  []struct {
		Name string   `json:"name"`
		MS   *float64 `json:"ms"`
	} `json:"predicted_stages"`
	Stages []struct {
		MS float64 `json:"ms"`
	} `json:"stages"`
	Error *struct {
		Code  string   `json:"code"`
		Hints []string `json:"hints"`
	} `json:"error"`
}

// checkEvents compares all events of a program with --json with each other: no number and no
// word may contradict another, or the exit code. It ignores output without events.
func checkEvents(out, program string, exit int) error {
	side := map[string]string{"mig-send": "source", "mig-recv": "destination"}[program]
	if side == "" || !strings.HasPrefix(out, `{"event":`) {
		return nil
	}
	var known toldEvent // the last event that named a migration
	for line := range strings.Lines(out) {
		var ev toldEvent
		if err := json.Unmarshal([]byte(line), &ev); err != nil {
			return fmt.Errorf("an event is %q: %w", line, err)
		}
		err := ev.check(side, exit, known)
		if err != nil {
			return fmt.Errorf("%w: %s", err, line)
		}
		known = ev
		if ev.Event == "refused" {
			known.Migration = ""
		}
	}
	if known.Event != "done" {
		return fmt.Errorf("the last event is %q", known.Event)
	}
	return nil
}

func (ev toldEvent) check(side string, exit int, before toldEvent) error {
	switch {
	case ev.Side != side:
		return fmt.Errorf("the side is %q, not %q", ev.Side, side)
	case ev.Migration == "" && ev.Epoch != 0, ev.Epoch == 0 && ev.Migration != "" && ev.Outcome != "in-doubt": // a journal that cannot be read has no epoch
		return fmt.Errorf("half of an attempt")
	case before.Migration != "" && ev.Migration == "" && ev.Event != "refused" && ev.Event != "preflight":
		return fmt.Errorf("the migration is not named any more")
	case ev.Event == "progress":
		return ev.checkProgress()
	case ev.Event == "done":
		return ev.checkDone(exit)
	}
	return nil
}

func (ev toldEvent) checkProgress() error {
	for _, d := range ev.Devices {
		still := slices.Contains([]string{"connect", "commit", "running", "rollback"}, d.Phase)
		if still && d.Save+d.Wire+d.Load+ev.Goodput > 0 {
			return fmt.Errorf("a rate while nothing moves")
		}
		if still && ev.Occupancy != nil {
			return fmt.Errorf("stages are full while nothing moves")
		}
	}
	return nil
}

func (ev toldEvent) checkDone(exit int) error {
	const rounding = 0.001
	sum := 0.0
	for _, s := range ev.Stages {
		sum += s.MS
	}
	all := !slices.ContainsFunc(ev.Predicted, func(s struct {
		Name string   `json:"name"`
		MS   *float64 `json:"ms"`
	}) bool {
		return s.MS == nil
	})
	switch {
	case ev.Exit != exit:
		return fmt.Errorf("the exit code is %d", exit)
	case (exit == 0) != (ev.Outcome == "committed" || ev.Outcome == "preflight" && ev.Error == nil):
		return fmt.Errorf("exit %d of outcome %s", exit, ev.Outcome)
	case (exit == 11) != (ev.Outcome == "in-doubt"):
		return fmt.Errorf("exit %d of outcome %s", exit, ev.Outcome)
	case (exit == 0) != (ev.Error == nil):
		return fmt.Errorf("exit %d, and an error: %v", exit, ev.Error != nil)
	case ev.Error != nil && len(ev.Error.Hints) == 0 && ev.Error.Code != "cancelled" && ev.Error.Code != "usage":
		return fmt.Errorf("an error without a hint")
	case ev.TotalMS < ev.DowntimeMS:
		return fmt.Errorf("the total is less than the downtime")
	case len(ev.Stages) > 0 && math.Abs(sum-ev.DowntimeMS) > rounding*float64(len(ev.Stages)+1):
		return fmt.Errorf("the stages are %v ms, and the downtime is not", sum)
	case ev.Known != nil && *ev.Known != all:
		return fmt.Errorf("the downtime is known: %v, and all of its stages: %v", *ev.Known, all)
	case ev.Off != nil && ev.Outcome != "committed":
		return fmt.Errorf("a prediction of what did not happen is compared")
	}
	return nil
}
