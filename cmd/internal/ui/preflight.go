package ui

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/migpipe/migpipe/internal/units"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// printPreflight writes the report of --dry-run for people.
func printPreflight(w io.Writer, v Result) {
	if v.Err != nil {
		fmt.Fprintln(w, "preflight: a migration would not begin; nothing was touched")
		return
	}
	p := v.Preflight
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
	for _, warning := range v.Report.Warnings {
		fmt.Fprintf(t, "  warning\t%s\n", OneLine(warning))
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
		size = HumanBytes(d.Size)
	}
	return []string{d.Name, driver, precopy, size, spanText(d.Total), spanText(d.Downtime)}
}

// jsonPreflight is the event of --dry-run if a migration would be accepted. If not, the done
// event has the reason.
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

// jsonSpan has ms only where the whole time is known: a reader must not take a bound for it.
type jsonSpan struct {
	MS      *float64 `json:"ms,omitempty"`
	AtLeast float64  `json:"at_least_ms"`
}

func (j *jsonView) preflight(p *migration.Preflight) {
	out := jsonPreflight{
		jsonHead: j.head("preflight", time.Now(), migration.Attempt{}), ID: Known(p.Peer), Carrier: carriedBy(p.Carrier), Software: p.Software, Version: p.Version,
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
	out := jsonAsked{jsonHead: head, ID: Known(ev.Peer), Software: ev.Text, Accepted: ev.Err == nil}
	if ev.Err != nil {
		out.Why = ErrorText(ev.Err)
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
		return "preflight of " + who + ": a migration would be refused: " + ErrorText(ev.Err)
	}
	return "preflight of " + who + ": a migration would be accepted"
}
