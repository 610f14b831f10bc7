package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/migpipe/migpipe/bench/internal/record"
	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio/sim"
	"github.com/migpipe/migpipe/writer"
)

// journals is the cost of durable journals in a switchover: READY, COMMIT and ACCEPT are each
// on disk before the side proceeds. The state that moves beside them is tiny.
type journals struct {
	Skipped string    `json:"skipped,omitempty"`
	Without []float64 `json:"without_ms,omitempty"`
	With    []float64 `json:"with_ms,omitempty"` // on both sides
}

// stops migrates in turns without and with journals, which are below dir.
func (s *scenario) stops(ctx context.Context, dir string, progress io.Writer) (*journals, error) {
	if err := journal.Check(dir, false); err != nil {
		return &journals{Skipped: err.Error()}, nil
	}
	dir, err := os.MkdirTemp(dir, "journals-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	fmt.Fprintf(progress, "bench: %d stops without and with journals\n", s.Stops)
	j := &journals{}
	for i := range s.Stops {
		var ms [2]float64
		for turn := range ms {
			way := (i + turn) % len(ms) // neither is always the first of a pair
			if ms[way], err = s.stopWith(ctx, way == 1, dir); err != nil {
				return nil, fmt.Errorf("journals: %w", err)
			}
		}
		j.Without, j.With = append(j.Without, ms[0]), append(j.With, ms[1])
	}
	return j, nil
}

// stopWith is a switchover with journals on both sides, or without.
func (s *scenario) stopWith(ctx context.Context, journals bool, dir string) (ms float64, err error) {
	if !journals {
		return s.stop(ctx, &reader.Options{}, &writer.Options{})
	}
	attempt := migration.Attempt{Mig: migration.NewID(), Epoch: 1}
	open := func(role journal.Role) (*journal.Journal, error) {
		return journal.Open(dir, journal.Options{Role: role, Mig: attempt.Mig})
	}
	source, err1 := open(journal.Source)
	destination, err2 := open(journal.Destination)
	if err := errors.Join(err1, err2); err != nil {
		return 0, err
	}
	defer source.Close()
	defer destination.Close()
	return s.stop(ctx, &reader.Options{Attempt: attempt, Journal: source},
		&writer.Options{Journals: func(migration.ID, bool) (handoff.Journal, error) { return destination, nil }})
}

// stop migrates 96 bytes, and returns the time from the pause of the guest to RUNNING at the
// destination.
func (s *scenario) stop(ctx context.Context, send *reader.Options, receive *writer.Options) (ms float64, err error) {
	dialer, listener, err := carriers[s.Carrier]()
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	source, err1 := sim.Open("mtty", nil)
	sink, err2 := sim.Open("mtty", nil)
	if err := errors.Join(err1, err2); err != nil {
		return 0, err
	}
	defer source.Close()
	defer sink.Close()
	send.OnLimit, send.DowntimeTarget = reader.Force, downtimeLimit
	report, err := migrate(ctx, dialer, listener, []reader.Source{{Name: "d0", Device: source}}, []writer.Target{{Name: "d0", Device: sink}}, send, receive)
	if err == nil {
		err = sink.Verify()
	}
	return 1e3 * report.Downtime.Seconds(), err
}

const journalsHead = "durable journals         ms: median [min..max]"

// table is the printed table. The cost is computed for each pair: other load affects both of
// its measurements.
func (j *journals) table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s\n", journalsHead)
	if j.Skipped != "" {
		return b.String() + "SKIP: " + j.Skipped + "\n"
	}
	var cost []float64
	for i := range j.With {
		cost = append(cost, j.With[i]-j.Without[i])
	}
	for i, samples := range [][]float64{j.Without, j.With, cost} {
		fmt.Fprintf(&b, "%-22s  %22s\n", journalRows[i], record.SpreadOf(samples).Text(2))
	}
	return b.String()
}

var journalRows = []string{"none", "on both sides", "cost, pair by pair"}
