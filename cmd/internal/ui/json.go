package ui

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// progressEvery is the shortest time between two progress events.
const progressEvery = 200 * time.Millisecond

// jsonView writes one event per line. The shapes below are an interface that
// others build on: fields may be added, and none is ever renamed.
type jsonView struct {
	program  string
	side     string
	err, out io.Writer
	slow     func() bool // the reader is slow, and progress is dropped
	vital    bool        // the event is one of vital
	lost     bool        // an event could not be written
	start    time.Time
	progress time.Time // of the last such event
}

func newJSONView(program string, err, out io.Writer) *jsonView {
	slow := func() bool { return false }
	if o, ok := out.(*outlet); ok {
		slow = o.skip
	}
	return &jsonView{program: program, side: Scene{Sending: program == "mig-send"}.side(false), err: err, out: out, slow: slow, start: time.Now()}
}

// jsonHead begins every event. TMS is measured by the monotonic clock. The attempt is the one
// that the event is about, absent as long as there is none.
type jsonHead struct {
	Event string  `json:"event"`
	TMS   float64 `json:"t_ms"`
	Time  string  `json:"time"`
	Side  string  `json:"side"` // source or destination

	Migration string `json:"migration,omitempty"`
	Epoch     uint64 `json:"epoch,omitempty"`
}

type jsonListening struct {
	jsonHead
	Address string            `json:"address"`
	ID      *transport.PeerID `json:"id,omitempty"`
}

type jsonPeer struct {
	jsonHead
	ID       *transport.PeerID `json:"id,omitempty"`
	Software string            `json:"software"`
}

type jsonPhase struct {
	jsonHead
	Phase string `json:"phase"`
	Why   string `json:"why,omitempty"`
	*jsonStopForecast
}

// jsonPathLost is the event of a lost connection. The attempt continues: the source dials, and
// the destination waits. The event path-restored, which is a head and no more, ends that.
type jsonPathLost struct {
	jsonHead
	Why string `json:"why"`
}

type jsonWarning struct {
	jsonHead
	Text string `json:"text"`
}

// jsonHeld is the event of a process that holds devices, which end with it, until a signal.
type jsonHeld struct {
	jsonHead
	Devices []jsonName `json:"devices"`
	PID     int        `json:"pid"`
	Text    string     `json:"text"`
	Hints   []string   `json:"hints"`
}

// jsonAlarm is the event that the guest may run on both sides. Its attempt is the one that this
// side has recorded.
type jsonAlarm struct {
	jsonHead
	Text  string   `json:"text"`
	Hints []string `json:"hints"`
}

type jsonName struct {
	Name string `json:"name"`
}

type jsonProgress struct {
	jsonHead
	Goodput   float64        `json:"goodput_bytes_per_s,omitempty"` // of all devices, when the path is full
	RTTMS     float64        `json:"rtt_ms,omitempty"`
	Occupancy *jsonOccupancy `json:"occupancy,omitempty"` // in the last second or two
	Waiting   *jsonWaiting   `json:"waiting,omitempty"`
	Devices   []jsonSnapshot `json:"devices"`
}

// jsonWaiting means that pre-copy continues only because of the downtime target.
type jsonWaiting struct {
	For         string  `json:"for"` // downtime-target
	LimitMS     float64 `json:"limit_ms"`
	PredictedMS float64 `json:"predicted_downtime_ms"` // of a stop now
	Known       bool    `json:"predicted_known"`
}

func newJSONWaiting(w *migration.Waiting) *jsonWaiting {
	if w == nil {
		return nil
	}
	return &jsonWaiting{"downtime-target", milliseconds(w.Limit), milliseconds(w.Downtime.Took), w.Downtime.Known}
}

// jsonSnapshot has no remaining where there is no estimate, and no rate that is
// not known.
type jsonSnapshot struct {
	Name      string  `json:"name"`
	Phase     string  `json:"phase"`
	Bytes     uint64  `json:"bytes"`
	WireBytes uint64  `json:"wire_bytes"`
	Applied   uint64  `json:"applied_bytes"`
	Remaining *uint64 `json:"remaining_estimate,omitempty"`
	Window    uint64  `json:"window_bytes,omitempty"` // what may be read and not applied
	Save      float64 `json:"save_bytes_per_s,omitempty"`
	Wire      float64 `json:"wire_bytes_per_s,omitempty"`
	Load      float64 `json:"load_bytes_per_s,omitempty"`
}

type jsonDone struct {
	jsonHead
	Outcome    string            `json:"outcome"`
	Peer       *transport.PeerID `json:"peer,omitempty"`
	Exit       int               `json:"exit"`
	TotalMS    float64           `json:"total_ms"`
	DowntimeMS float64           `json:"downtime_ms"`
	CalledOff  float64           `json:"called_off_ms,omitempty"` // of stops before that
	*jsonStopForecast
	Off           *float64       `json:"prediction_error_percent,omitempty"` // how much longer the downtime was
	Stages        []jsonStage    `json:"stages"`
	Occupancy     *jsonOccupancy `json:"occupancy,omitempty"`      // until all was at the destination
	StopOccupancy *jsonOccupancy `json:"stop_occupancy,omitempty"` // of that, while the guest was paused
	Lanes         int            `json:"lanes"`
	Carrier       *jsonCarrier   `json:"carrier,omitempty"`
	Devices       []jsonDevice   `json:"devices"`
	// Copy is one at the destination that was not ended, since the way back has failed.
	Copy *jsonCopy `json:"copy_there,omitempty"`
	// GuestUnheard means that the VMM was asked to resume the guest, and has not confirmed it.
	GuestUnheard bool       `json:"guest_unheard,omitempty"`
	Error        *jsonError `json:"error,omitempty"`
	Warnings     []string   `json:"warnings"`
}

// jsonCopy is a complete copy at the destination, which may be the only one.
type jsonCopy struct {
	jsonAttempt
	Ready  bool `json:"ready"`            // the destination has reported it as complete
	Commit bool `json:"may_commit_there"` // mig-send resolve --commit-there
}

// jsonCarrier is what carries the lanes, as this side sees it.
type jsonCarrier struct {
	Name          string `json:"name"`
	GRO           bool   `json:"gro,omitempty"` // packets come joined
	ReceiveBuffer int    `json:"receive_buffer_bytes,omitempty"`
	SendBuffer    int    `json:"send_buffer_bytes,omitempty"`
}

func carriedBy(c transport.Carrier) *jsonCarrier {
	if c.Name == "" {
		return nil
	}
	return &jsonCarrier{c.Name, c.GRO, c.ReceiveBuffer, c.SendBuffer}
}

// jsonStopForecast is what the stop was expected to take when it was decided: at
// least that, where it is not known.
type jsonStopForecast struct {
	PredictedMS float64              `json:"predicted_downtime_ms"`
	Known       bool                 `json:"predicted_known"`
	Predicted   []jsonPredictedStage `json:"predicted_stages"`
}

func jsonForecast(f *migration.Forecast) *jsonStopForecast {
	if f == nil {
		return nil
	}
	p := predicted(f.Prediction)
	return &jsonStopForecast{milliseconds(f.Downtime.Took), f.Downtime.Known, p.Stages}
}

func jsonStages(stages []migration.Stage) []jsonStage {
	list := make([]jsonStage, len(stages))
	for i, s := range stages {
		list[i] = jsonStage{s.Name, milliseconds(s.Took)}
	}
	return list
}

type jsonStage struct {
	Name string  `json:"name"`
	MS   float64 `json:"ms"`
}

type jsonDevice struct {
	Name         string    `json:"name"`
	Bytes        uint64    `json:"bytes"`
	WireBytes    uint64    `json:"wire_bytes"`
	PrecopyBytes uint64    `json:"precopy_bytes"`
	Rounds       int       `json:"rounds"`
	Chunks       uint64    `json:"chunks"`
	Digest       string    `json:"digest,omitempty"`
	Path         string    `json:"path"`
	PathWhy      string    `json:"path_why,omitempty"`
	State        string    `json:"state"`
	Verified     *bool     `json:"verified,omitempty"` // only where the device can tell
	Stop         *jsonStop `json:"stop,omitempty"`
}

// jsonStop is one device's part of the stop, predicted and measured.
type jsonStop struct {
	Bytes     uint64               `json:"predicted_bytes"`
	Predicted []jsonPredictedStage `json:"predicted_stages"` // as if it were alone
	SaveMS    float64              `json:"save_ms"`
	LoadMS    float64              `json:"load_ms"`
}

type jsonError struct {
	Code   string   `json:"code"`
	Side   string   `json:"side"` // source or destination
	Device string   `json:"device,omitempty"`
	Offset uint64   `json:"offset"`
	Text   string   `json:"text"`
	Hints  []string `json:"hints,omitempty"`
}

func (j *jsonView) head(event string, at time.Time, a migration.Attempt) jsonHead {
	head := jsonHead{Event: event, TMS: milliseconds(at.Sub(j.start)), Time: at.UTC().Format(time.RFC3339Nano), Side: j.side}
	if a != (migration.Attempt{}) {
		head.Migration, head.Epoch = a.Mig.String(), a.Epoch
	}
	return head
}

// Known is nil for a carrier without identities.
func Known(id transport.PeerID) *transport.PeerID {
	if id == (transport.PeerID{}) {
		return nil
	}
	return &id
}

// milliseconds has a microsecond's precision: more would be noise.
func milliseconds(d time.Duration) float64 { return math.Round(float64(d)/1e3) / 1e3 }

// write reports once that events are lost. A reader that is gone does not end a migration: the
// exit code still has the outcome.
func (j *jsonView) write(event any) {
	var line bytes.Buffer
	events := json.NewEncoder(&line)
	events.SetEscapeHTML(false)
	err := events.Encode(event)
	if err == nil {
		err = put(j.out, line.Bytes(), j.vital)
	}
	if err != nil && !j.lost {
		j.lost = true
		fmt.Fprintf(j.err, "%s: warning: events are lost: %v\n", j.program, err)
	}
}

// vital are the events that a VMM or a person acts on, beside preflight and done. The
// others make room for them where the reader is slow.
var vital = map[migration.Kind]bool{
	migration.Listening: true, AskPause: true, migration.Ready: true, migration.Accepted: true, AskResume: true, held: true, migration.Alarm: true,
}

func (j *jsonView) event(ev stamped) {
	j.vital = vital[ev.Kind]
	head := j.head(string(ev.Kind), ev.at, ev.Attempt)
	switch ev.Kind {
	case migration.Listening:
		j.write(jsonListening{head, ev.Text, Known(ev.self)})
	case serving:
		j.write(jsonListening{head, ev.Text, nil})
	case migration.Peer:
		j.write(jsonPeer{head, Known(ev.Peer), ev.Text})
	case migration.Phase:
		j.write(jsonPhase{head, ev.Phase, ev.Text, jsonForecast(ev.Predicted)})
	case migration.Ready:
		j.write(jsonReady{head, milliseconds(ev.Downtime)})
	case migration.Accepted, AskPause, AskResume:
		j.write(head)
	case NotUnderstood:
		j.write(jsonNotUnderstood{head, fmt.Sprintf("%.80s", ev.Text), ev.words})
	case migration.Asked:
		j.asked(head, ev.Event)
	case migration.Refused:
		j.refused(head, ev.Event)
	case migration.Lost:
		j.write(jsonPathLost{head, lostText(ev.Event)})
	case migration.Restored:
		j.write(head)
	case migration.Warning:
		j.write(jsonWarning{head, ev.Text})
	case confined:
		j.write(newJSONSandbox(head, ev.sandbox))
	case carrying:
		j.write(newJSONCarrying(head, ev.tried))
	case migration.Alarm:
		j.write(jsonAlarm{head, alarmText(ev.Event), bothHints})
	case held:
		j.write(jsonHeld{head, jsonNames(ev.held.Kept), os.Getpid(), ev.Text, ev.held.holdHints()})
	case migration.Progress:
		if len(ev.Devices) == 0 || ev.at.Sub(j.progress) < progressEvery || j.slow() {
			return
		}
		j.progress = ev.at
		j.write(jsonProgress{head, math.Round(ev.Way.Goodput), milliseconds(ev.Way.RTT), newJSONOccupancy(ev.Occupancy), newJSONWaiting(ev.Waiting), jsonSnapshots(ev.Devices)})
	}
}

func jsonNames(names []string) []jsonName {
	list := make([]jsonName, len(names))
	for i, name := range names {
		list[i].Name = name
	}
	return list
}

func jsonSnapshots(devices []migration.Snapshot) []jsonSnapshot {
	list := make([]jsonSnapshot, len(devices))
	for i, d := range devices {
		list[i] = jsonSnapshot{Name: d.Name, Phase: d.Phase, Bytes: d.Bytes, WireBytes: d.Wire, Applied: d.Applied, Window: d.Window,
			Save: math.Round(d.Rates.Save), Wire: math.Round(d.Rates.Wire), Load: math.Round(d.Rates.Load)}
		if d.Known {
			list[i].Remaining = &d.Remaining
		}
	}
	return list
}

func (j *jsonView) end(v Result) {
	j.vital = true
	r := v.Report
	if v.Preflight != nil && v.Err == nil {
		j.preflight(v.Preflight)
	}
	done := jsonDone{
		jsonHead: j.head("done", time.Now(), v.Report.Attempt), Outcome: v.outcome(), Exit: v.Exit(),
		Peer: Known(r.Peer), TotalMS: milliseconds(r.Total), DowntimeMS: milliseconds(r.Downtime), CalledOff: milliseconds(r.CalledOff), Lanes: r.Lanes, Carrier: carriedBy(r.Carrier),
		jsonStopForecast: jsonForecast(r.Predicted),
		Occupancy:        newJSONOccupancy(r.Occupancy), StopOccupancy: newJSONOccupancy(r.StopOccupancy),
		Stages: jsonStages(r.Stages), Devices: []jsonDevice{}, Warnings: []string{},
	}
	if off, ok := r.PredictionError(); ok {
		percent := math.Round(1e3*off) / 10
		done.Off = &percent
	}
	done.GuestUnheard = r.GuestUnheard
	if r.CopyThere != nil {
		done.Copy = &jsonCopy{newJSONAttempt(r.Attempt), r.CopyThere.Ready, r.CopyThere.Rescue}
	}
	done.Error = v.jsonError()
	done.Warnings = append(done.Warnings, r.Warnings...)
	for i, d := range r.Devices {
		one := v.jsonDevice(d)
		if r.Predicted != nil && i < len(r.Predicted.Devices) {
			p := r.Predicted.Devices[i]
			one.Stop = &jsonStop{p.Bytes, predicted(p.Prediction).Stages, milliseconds(d.Save), milliseconds(d.Load)}
		}
		done.Devices = append(done.Devices, one)
	}
	j.write(done)
}

func (v Result) jsonDevice(d migration.Device) jsonDevice {
	out := jsonDevice{
		Name: d.Name, Bytes: d.Bytes, WireBytes: d.WireBytes, PrecopyBytes: d.PrecopyBytes,
		Rounds: d.Rounds, Chunks: d.Chunks,
		Path: d.Path, PathWhy: d.PathWhy, State: d.State,
	}
	if d.Digest != (migration.StreamDigest{}) {
		out.Digest = d.Digest.String()
	}
	if ok, known := v.Verified[d.Name]; known {
		out.Verified = &ok
	}
	return out
}

// jsonError is the cause with its place, nil where there is none.
func (v Result) jsonError() *jsonError {
	if v.Err == nil {
		return nil
	}
	code, remote := CodeOf(v.Err)
	e := &jsonError{Code: code.String(), Side: v.side(remote), Text: ErrorText(v.Err), Hints: v.Hints(v.Report.Outcome, v.Err)}
	if _, ok := errors.AsType[*Mistake](v.Err); ok {
		e.Code = "usage"
	}
	if f, ok := errors.AsType[*transport.Fault](v.Err); ok {
		e.Device, e.Offset = f.Device, f.Offset
	}
	return e
}

// side names where something happened.
func (s Scene) side(remote bool) string {
	if s.Sending != remote {
		return "source"
	}
	return "destination"
}

// jsonRefused is mig-recv's event about a source that it refused, or that ended before it sent
// anything. mig-recv waits for the next source.
type jsonRefused struct {
	jsonHead
	ID    *transport.PeerID `json:"id,omitempty"`
	Code  string            `json:"code"`
	Why   string            `json:"why"`
	Hints []string          `json:"hints,omitempty"`
	More  int               `json:"more,omitempty"` // refusals since the last event that had no event of their own
}

func (j *jsonView) refused(head jsonHead, ev migration.Event) {
	code, _ := CodeOf(ev.Err)
	j.write(jsonRefused{head, Known(ev.Peer), code.String(), ErrorText(ev.Err), refusedHints(ev.Err), ev.More})
}
