package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/migpipe/migpipe/internal/units"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// dryRunHelp is the part of mig-send's help about --dry-run.
const dryRunHelp = `With --dry-run it only asks. The waiting mig-recv checks identity, versions, names
and devices as it would for a migration, and goes on waiting; the round trip is
measured and, for a second at most, the rate of the path; and what a migration
would take at least is predicted. Both sides ask their witness. The prediction leaves
out the journals' records, for a dry run writes none. No device is touched on either
side. Exit status 0 then says that a migration would be accepted, any other why not:
also that the steps of a stop that no pre-copy shortens are over --downtime-target.

A migration itself measures a path that it has not filled before it stops a guest:
for a second at most the lanes carry padding (the phase "warm-up").`

// dryRun is the job of --dry-run. Its outcome is that nothing was migrated.
func (s *sendFlags) dryRun(end endpoint) job {
	found := &migration.Preflight{}
	return job{end: end, preflight: found, engine: func(ctx context.Context, devices []opened, show *show) (migration.Report, error) {
		err := s.startBroker(end, devices)
		if err == nil {
			err = s.confine(end, devices, show)
		}
		if err != nil {
			return migration.Report{Outcome: migration.Aborted}, err
		}
		*found, err = s.preflight(ctx, end, devices, show)
		return migration.Report{Outcome: migration.Aborted, Peer: found.Peer, Warnings: optional(found.Warning)}, err
	}}
}

// printPreflight writes the report of --dry-run for people.
func printPreflight(w io.Writer, v verdict) {
	if v.err != nil {
		fmt.Fprintln(w, "preflight: a migration would not begin; nothing was touched")
		return
	}
	p := v.preflight
	accepted := "preflight: a migration would be accepted"
	if p.Warning != "" {
		accepted += ", and may fail if the estimates are right"
	}
	fmt.Fprintln(w, accepted+"; nothing was touched")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer t.Flush()
	for _, row := range preflightFacts(p) {
		fmt.Fprintf(t, "  %s\t%s\n", row[0], row[1])
	}
	for _, warning := range v.report.Warnings {
		fmt.Fprintf(t, "  warning\t%s\n", oneLine(warning))
	}
	t.Flush()
	fmt.Fprintln(t, "\n  device\tdriver\tpre-copy\testimate\ttotal\tdowntime")
	for _, d := range p.Devices {
		fmt.Fprintf(t, "  %s\n", strings.Join(preflightColumns(d), "\t"))
	}
}

func preflightFacts(p *migration.Preflight) (rows [][2]string) {
	if p.Peer != (transport.PeerID{}) {
		rows = append(rows, [2]string{"peer", p.Peer.String()})
	}
	rate := "could not be measured"
	if p.Rate > 0 {
		rate = humanRate(p.Rate) + lanes(p.Lanes)
	}
	if p.Carrier.Name != "" {
		rows = append(rows, [2]string{"carrier", p.Carrier.Name})
	}
	rows = append(rows, [][2]string{
		{"software", fmt.Sprintf("%s, protocol %d", p.Software, p.Version)},
		{"terms", fmt.Sprintf("chunks of %s, codecs %s", units.FormatBytes(uint64(p.ChunkSize)), strings.Join(codecNames(p), " "))},
		{"round trip", fineTime(p.RTT)},
		{"path", rate},
		{"total", spanText(p.Total)},
		{"downtime", spanText(p.Downtime) + predictedParts(p.Prediction)},
	}...)
	return rows
}

func codecNames(p *migration.Preflight) []string {
	names := make([]string, len(p.Codecs))
	for i, c := range p.Codecs {
		names[i] = c.String()
	}
	return names
}

func preflightColumns(d migration.PreflightDevice) []string {
	driver, precopy, size := d.Driver, "no", "unknown"
	if driver == "" {
		driver = "unknown"
	}
	if d.PreCopy {
		precopy = "yes"
	}
	if d.Sized {
		size = humanBytes(d.Size)
	}
	return []string{d.Name, driver, precopy, size, spanText(d.Total), spanText(d.Downtime)}
}

// fineTime is humanTime with microseconds, which a round trip may take.
func fineTime(d time.Duration) string {
	if d < time.Millisecond {
		return fmt.Sprintf("%d us", d.Microseconds())
	}
	return humanTime(d)
}

// spanText says of a prediction that is not whole that it is a bound.
func spanText(s migration.Span) string {
	switch {
	case s.Known:
		return fineTime(s.Took)
	case s.Took <= 0:
		return "unknown"
	}
	return "at least " + fineTime(s.Took)
}

// predictedParts is the downtime by stage. A stage that is not known whole says so.
func predictedParts(p migration.Prediction) string {
	var parts []string
	for _, s := range p.Stages() {
		if s.Took >= time.Microsecond || !s.Known {
			parts = append(parts, s.Name+" "+spanText(s.Span))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return " = " + strings.Join(parts, " + ")
}

// jsonPreflight is the event of --dry-run where a migration would be accepted;
// where it would not, the done event says why.
type jsonPreflight struct {
	jsonHead
	ID        *transport.PeerID     `json:"id,omitempty"`
	Carrier   *jsonCarrier          `json:"carrier,omitempty"`
	Software  string                `json:"software"`
	Version   uint16                `json:"version"`
	ChunkSize int                   `json:"chunk_size"`
	Lanes     int                   `json:"lanes"`
	Codecs    []string              `json:"codecs"`
	RTTMS     float64               `json:"rtt_ms"`
	Rate      *float64              `json:"rate_bytes_per_s,omitempty"` // not where it could not be measured
	Probed    uint64                `json:"probed_bytes"`
	Predicted jsonPrediction        `json:"prediction"`
	Devices   []jsonPreflightDevice `json:"devices"`
}

type jsonPreflightDevice struct {
	Name      string         `json:"name"`
	Driver    string         `json:"driver,omitempty"`
	PreCopy   bool           `json:"pre_copy"`
	Size      *uint64        `json:"size_estimate,omitempty"`
	Predicted jsonPrediction `json:"prediction"`
}

type jsonPrediction struct {
	Total    jsonSpan             `json:"total"`
	Downtime jsonSpan             `json:"downtime"`
	PreCopy  jsonSpan             `json:"pre_copy"`
	Stages   []jsonPredictedStage `json:"stages"` // of the downtime, in order
}

type jsonPredictedStage struct {
	Name string `json:"name"`
	jsonSpan
}

// jsonSpan has ms only where all of it is known: nobody takes a bound for it.
type jsonSpan struct {
	MS      *float64 `json:"ms,omitempty"`
	AtLeast float64  `json:"at_least_ms"`
}

func (j *jsonView) preflight(p *migration.Preflight) {
	out := jsonPreflight{
		jsonHead: j.head("preflight", time.Now(), migration.Attempt{}), ID: known(p.Peer), Carrier: carriedBy(p.Carrier), Software: p.Software, Version: p.Version,
		ChunkSize: p.ChunkSize, Lanes: p.Lanes, Codecs: codecNames(p), RTTMS: milliseconds(p.RTT), Probed: p.Probed,
		Predicted: predicted(p.Prediction), Devices: []jsonPreflightDevice{},
	}
	if p.Rate > 0 {
		out.Rate = &p.Rate
	}
	for _, d := range p.Devices {
		one := jsonPreflightDevice{Name: d.Name, Driver: d.Driver, PreCopy: d.PreCopy, Predicted: predicted(d.Prediction)}
		if d.Sized {
			one.Size = &d.Size
		}
		out.Devices = append(out.Devices, one)
	}
	j.write(out)
}

func predicted(p migration.Prediction) jsonPrediction {
	out := jsonPrediction{Total: span(p.Total), Downtime: span(p.Downtime), PreCopy: span(p.Precopy)}
	for _, s := range p.Stages() {
		out.Stages = append(out.Stages, jsonPredictedStage{s.Name, span(s.Span)})
	}
	return out
}

func span(s migration.Span) jsonSpan {
	out := jsonSpan{AtLeast: milliseconds(s.Took)}
	if s.Known {
		out.MS = &out.AtLeast
	}
	return out
}

// jsonAsked is mig-recv's event about a preflight that it answered.
type jsonAsked struct {
	jsonHead
	ID       *transport.PeerID `json:"id,omitempty"`
	Software string            `json:"software"`
	Accepted bool              `json:"accepted"` // a migration would be
	Why      string            `json:"why,omitempty"`
}

func (j *jsonView) asked(head jsonHead, ev migration.Event) {
	out := jsonAsked{jsonHead: head, ID: known(ev.Peer), Software: ev.Text, Accepted: ev.Err == nil}
	if ev.Err != nil {
		out.Why = errorText(ev.Err)
	}
	j.write(out)
}

// askedText is the line about the same.
func askedText(ev migration.Event) string {
	who := ev.Text
	if ev.Peer != (transport.PeerID{}) {
		who = ev.Peer.Short() + ", which runs " + who
	}
	if ev.Err != nil {
		return "preflight of " + who + ": a migration would be refused: " + errorText(ev.Err)
	}
	return "preflight of " + who + ": a migration would be accepted"
}
