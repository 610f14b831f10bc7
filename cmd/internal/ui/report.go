package ui

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// headlines say what each outcome means for the devices.
var headlines = map[migration.Outcome]string{
	migration.Committed:  "committed: the devices run at the destination",
	migration.Aborted:    "aborted: the devices stay with the source",
	migration.InDoubt:    "IN DOUBT: neither side may be started before the other was asked",
	migration.NeedsReset: "needs-reset: a device of this side could not be brought back",
}

// printReport writes the report for people. A run that ended before the engine started has
// only errors, which are not part of the report.
func printReport(w io.Writer, v Result) {
	if !v.Started {
		return
	}
	if v.Preflight != nil {
		printPreflight(w, v)
		return
	}
	r := v.Report
	fmt.Fprintln(w, v.headline())
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer t.Flush()
	for _, row := range v.facts() {
		fmt.Fprintf(t, "  %s\t%s\n", row[0], row[1])
	}
	t.Flush()
	if v.Bytes() > 0 {
		fmt.Fprintln(t, "\n  device\tbytes\twire\tratio\tpre-copied\tdigest\tpath")
		for _, d := range r.Devices {
			fmt.Fprintf(t, "  %s\n", strings.Join(v.columns(d), "\t"))
		}
	}
}

// headline is the first line of the report. It differs for a destination without a source.
func (v Result) headline() string {
	r := v.Report
	if r.Outcome == migration.Aborted && !v.Sending && r.Attempt == (migration.Attempt{}) {
		return "aborted: no source was heard, and no device was touched"
	}
	return headlines[r.Outcome]
}

// facts are the lines about the whole run.
func (v Result) facts() [][2]string {
	r := v.Report
	var rows [][2]string
	add := func(name, text string) {
		if text != "" {
			rows = append(rows, [2]string{name, text})
		}
	}
	if r.Attempt != (migration.Attempt{}) {
		add("migration", fmt.Sprintf("%v, attempt %d, seen from the %s", r.Attempt.Mig, r.Attempt.Epoch, v.side(false)))
	}
	if r.Outcome == migration.NeedsReset {
		add("next", "reset the device, or restart its VM, before it is used again")
	}
	if v.There != nil {
		add("copy", v.There.text())
	}
	if r.GuestUnheard {
		add("guest", "it was to be resumed, and nothing says that it runs: look at it")
	}
	if r.Peer != (transport.PeerID{}) {
		add("peer", r.Peer.String())
	}
	if r.Total > 0 {
		add("total", HumanTime(r.Total))
	}
	if r.Downtime > 0 {
		add("downtime", HumanTime(r.Downtime)+split(r.Stages))
	}
	if text := occupancyText(r.StopOccupancy); text != "" {
		add("stages", "while stopped: "+text)
	} else if text := occupancyText(r.Occupancy); text != "" {
		add("stages", text)
	}
	if r.CalledOff > 0 {
		add("called off", HumanTime(r.CalledOff)+" the guest stood still before that, in stops that were called off")
	}
	if r.Predicted != nil {
		add("predicted", predictedText(r)+predictedParts(r.Predicted.Prediction)+miss(r))
	}
	if r.Total > 0 && v.Bytes() > 0 {
		add("rate", humanRate(float64(v.Bytes())/r.Total.Seconds())+lanes(r.Lanes)+carrier(r.Lanes, r.Carrier))
	}
	add("verified", v.verifiedNames(true))
	for _, warning := range r.Warnings {
		add("warning", OneLine(warning))
	}
	return rows
}

// split is the downtime by stage.
func split(stages []migration.Stage) string {
	var parts []string
	for _, s := range stages {
		if s.Took >= time.Microsecond {
			parts = append(parts, s.Name+" "+fineTime(s.Took))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return " = " + strings.Join(parts, " + ")
}

// predictedText is the downtime as it was predicted. A bound that the downtime has not reached
// was no bound: it is a sum of estimates.
func predictedText(r migration.Report) string {
	said := r.Predicted.Downtime
	if _, ok := r.PredictionError(); ok && !said.Known {
		return "about " + fineTime(said.Took) + " or more"
	}
	return spanText(said)
}

// miss is how far the prediction was off, where there is something to compare.
func miss(r migration.Report) string {
	off, ok := r.PredictionError()
	if !ok {
		return ""
	}
	how := "more"
	if off < 0 {
		how = "less"
	}
	return fmt.Sprintf("; it took %.0f %% %s", math.Abs(100*off), how)
}

// carrier follows what lanes gives.
func carrier(lanes int, c transport.Carrier) string {
	switch {
	case lanes == 0 || c.Name == "":
		return ""
	case c.GRO:
		return " of " + c.Name + ", GRO"
	}
	return " of " + c.Name
}

func lanes(n int) string {
	switch n {
	case 0:
		return ""
	case 1:
		return " over 1 lane"
	}
	return fmt.Sprintf(" over %d lanes", n)
}

// Bytes are those of all streams.
func (v Result) Bytes() (n uint64) {
	for _, d := range v.Report.Devices {
		n += d.Bytes
	}
	return n
}

// verifiedNames lists the devices that hold the state of their source, or that do not.
func (v Result) verifiedNames(ok bool) string {
	var names []string
	for _, d := range v.Report.Devices {
		if is, known := v.Verified[d.Name]; known && is == ok {
			names = append(names, d.Name)
		}
	}
	return strings.Join(names, ", ")
}

// columns are a device's row in the table.
func (v Result) columns(d migration.Device) []string {
	ratio, digest, precopied := "-", "-", "-"
	if d.WireBytes > 0 {
		ratio = fmt.Sprintf("%.2f", float64(d.Bytes)/float64(d.WireBytes))
	}
	if d.Digest != (migration.StreamDigest{}) {
		digest = d.Digest.String()[:12]
	}
	if v.Sending { // the destination cannot tell
		precopied = HumanBytes(d.PrecopyBytes)
	}
	path := cmp.Or(d.Path, "-")
	if d.PathWhy != "" {
		path += " (" + d.PathWhy + ")"
	}
	return []string{
		d.Name, HumanBytes(d.Bytes), HumanBytes(d.WireBytes), ratio,
		precopied, digest, path,
	}
}
