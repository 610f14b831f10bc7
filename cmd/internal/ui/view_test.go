package ui

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/migpipe/migpipe/cmd/internal/sandbox"
	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/test/golden"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/transport/migration"
)

func TestReport(t *testing.T) {
	for name, v := range verdicts {
		var b bytes.Buffer
		printReport(&b, v())
		golden.Compare(t, "report-"+name+".txt", b.String())
	}
}

func TestDoneEvent(t *testing.T) {
	for name, v := range verdicts {
		var b bytes.Buffer
		newJSONView("mig-recv", io.Discard, &b).end(v())
		lines := bytes.Split(bytes.TrimSpace(b.Bytes()), []byte("\n"))
		golden.Compare(t, "done-"+name+".json", stable(t, lines[len(lines)-1]))
	}
}

// stable indents a done event and takes the clocks out of it.
func stable(t *testing.T, line []byte) string {
	t.Helper()
	var head jsonHead
	if err := json.Unmarshal(line, &head); err != nil {
		t.Fatal(err)
	}
	if _, err := time.Parse(time.RFC3339Nano, head.Time); err != nil {
		t.Error(err)
	}
	var text bytes.Buffer
	if err := json.Indent(&text, clocks.ReplaceAll(line, []byte(`"t_ms":0,"time":""`)), "", "  "); err != nil {
		t.Fatal(err)
	}
	return text.String() + "\n"
}

var clocks = regexp.MustCompile(`"t_ms":[0-9.]+,"time":"[^"]+"`)

// events are what a migration of one device may tell, 100 ms apart.
func events() []stamped {
	at := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	list := []migration.Event{
		{Kind: migration.Listening, Text: "127.0.0.1:7000"},
		{Kind: migration.Progress},
		{Kind: migration.Peer, Text: "mig-send 1.0"},
		{Kind: migration.Phase, Phase: migration.Stop, Text: "no device has PRE_COPY"},
		{Kind: migration.Warning, Text: "<odd>"},
		{Kind: migration.Asked, Peer: peerID, Text: "mig-send 1.0"},
		{Kind: migration.Asked, Text: "mig-send 1.0", Err: &transport.Fault{Code: transport.CodeBusy, Device: "nic0", Err: errors.New("it is in PRE_COPY")}},
	}
	list = append(list,
		migration.Event{Kind: migration.Refused, Peer: peerID, Attempt: migration.Attempt{Mig: migration.ID{1}, Epoch: 2}, More: 3, Err: &transport.Fault{Code: transport.CodeDevices, Err: errors.New("the source has device a, the destination b")}},
		migration.Event{Kind: migration.Lost, Text: "transport: receive: transport: the connection is lost: timeout: no recent network activity"},
		migration.Event{Kind: migration.Restored})
	for i := range uint64(41) {
		s := migration.Snapshot{Name: "nic0", Phase: "stop-copy", Bytes: i << 20, Wire: i << 19, Applied: i << 20}
		var full migration.Occupancy
		if i > 2 {
			full = migration.Occupancy{Queue: 0.833, Flight: 0.0625, Bottleneck: migration.BoundNetwork}
			s.Rates = migration.Rates{Save: 20 << 20, Wire: 5 << 20, Load: 30 << 20}
		}
		if i > 0 {
			s.Remaining, s.Known = (40-i)<<20, true
		}
		list = append(list, migration.Event{Kind: migration.Progress, Devices: []migration.Snapshot{s}, Way: migration.Way{Goodput: 10 << 20, RTT: time.Millisecond}, Occupancy: full})
	}
	out := make([]stamped, len(list))
	for i, ev := range list {
		out[i] = stamped{at: at.Add(time.Duration(i) * 100 * time.Millisecond), Event: ev}
	}
	out[0].self = peerID
	return out
}

func TestJSONEvents(t *testing.T) {
	var b bytes.Buffer
	j := newJSONView("mig-recv", io.Discard, &b)
	list := events()
	j.start = list[0].at
	for _, ev := range list[:17] {
		j.event(ev)
	}
	golden.Compare(t, "events.jsonl", b.String())
}

// TestSandboxEvent: what is in force is for those who read events, and for no one
// else.
func TestSandboxEvent(t *testing.T) {
	for want, status := range map[string]sandbox.Status{
		`"landlock":7}`:                   {ABI: 7},
		`"landlock":0,"why":"no kernel"}`: {Why: "no kernel"},
	} {
		ev := stamped{at: time.Now(), Event: migration.Event{Kind: confined}, sandbox: status}
		var b, people bytes.Buffer
		newJSONView("mig-recv", io.Discard, &b).event(ev)
		if got := b.String(); !strings.HasPrefix(got, `{"event":"sandbox",`) || !strings.HasSuffix(got, want+"\n") {
			t.Errorf("%s, want %s", got, want)
		}
		newLineView("mig-recv", &people, &people).event(ev)
		newBarView("mig-recv", &people, &people).event(ev)
		if people.Len() > 0 {
			t.Errorf("people are told %q", people.String())
		}
	}
}

func TestJSONProgressIsRare(t *testing.T) {
	var b bytes.Buffer
	j := newJSONView("mig-recv", io.Discard, &b)
	ev := events()[14]
	for range 1000 {
		ev.at = ev.at.Add(time.Millisecond)
		j.event(ev)
	}
	if n := strings.Count(b.String(), "\n"); n != 5 {
		t.Errorf("%d progress events in a second, want 5", n)
	}
}

// full is an output that takes nothing.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space") }

func TestJSONSaysOnceThatEventsAreLost(t *testing.T) {
	var b bytes.Buffer
	j := newJSONView("mig-recv", &b, full{})
	for _, ev := range events() {
		j.event(ev)
	}
	j.end(committed())
	if want := "mig-recv: warning: events are lost: no space\n"; b.String() != want {
		t.Errorf("said %q, want %q", b.String(), want)
	}
}

func TestLines(t *testing.T) {
	var err, out bytes.Buffer
	l := newLineView("mig-recv", &err, &out)
	for _, ev := range events() {
		l.event(ev)
	}
	l.end(committed())
	golden.Compare(t, "lines.txt", err.String())
	golden.Compare(t, "report-committed.txt", out.String())
}

func TestLinesSayThatNothingMoves(t *testing.T) {
	var err bytes.Buffer
	l := newLineView("mig-send", &err, io.Discard)
	start := time.Now()
	s := migration.Snapshot{Name: "nic0", Phase: migration.PreCopy, Bytes: 1 << 20}
	for i := range 8 {
		l.event(stamped{at: start.Add(time.Duration(i) * time.Second), Event: migration.Event{Kind: migration.Progress, Devices: []migration.Snapshot{s}}})
	}
	want := "mig-send: nic0 pre-copy, 1.0 MiB, no data for 3 s\nmig-send: nic0 pre-copy, 1.0 MiB, no data for 6 s\n"
	if err.String() != want {
		t.Errorf("said %q, want %q", err.String(), want)
	}
}

// TestLinesEnd: a device with nothing left to send has one line.
func TestLinesEnd(t *testing.T) {
	var err bytes.Buffer
	l := newLineView("mig-send", &err, io.Discard)
	s := migration.Snapshot{Name: "nic0", Phase: migration.Commit, Bytes: 1 << 20}
	for i := range 60 {
		l.event(stamped{at: time.Unix(int64(i), 0), Event: migration.Event{Kind: migration.Progress, Devices: []migration.Snapshot{s}}})
	}
	if want := "mig-send: nic0 commit, 1.0 MiB\n"; err.String() != want {
		t.Errorf("said %q, want %q", err.String(), want)
	}
}

// TestMeterOfNextAttempt: what a source sends that was started again is another stream, of
// which nothing has ended.
func TestMeterOfNextAttempt(t *testing.T) {
	m, at := meters{}, time.Now()
	for i, d := range []migration.Snapshot{
		{Phase: migration.StopCopy, Bytes: 1 << 20, Remaining: 1, Known: true},
		{Phase: migration.StopCopy, Bytes: 1 << 21},
		{Phase: migration.PreCopy},
		{Phase: migration.PreCopy, Bytes: 1 << 20},
	} {
		s := m.read(at.Add(time.Duration(i)*time.Second), []migration.Snapshot{d})[0]
		if want := i == 1; s.ended != want || i == 3 && s.rate != 1<<20 {
			t.Errorf("%d: ended %v, want %v, at %v bytes a second", i, s.ended, want, s.rate)
		}
	}
}

// TestBars only sees that bars of every outcome end: what they look like is
// for eyes, on a terminal.
func TestBars(t *testing.T) {
	for name, v := range verdicts {
		var err, out bytes.Buffer
		b := newBarView("mig-recv", &err, &out)
		for _, ev := range events() {
			b.event(ev)
		}
		b.end(v())
		if !strings.Contains(err.String(), "mig-recv: listening on 127.0.0.1:7000\n") {
			t.Errorf("%s: no line about listening in %q", name, err.String())
		}
	}
}

// TestRowFits narrows a row step by step: the bar, the rate, the amount.
func TestRowFits(t *testing.T) {
	r := &row{names: 4, part: 0.5}
	r.set(status{Snapshot: migration.Snapshot{Name: "nic0", Phase: migration.PreCopy, Bytes: 10 << 20, Remaining: 30 << 20, Known: true}, rate: 10 << 20})
	for width, want := range map[int]string{
		120: "nic0 pre-copy  [=====-----------------] 10.0 MiB of ~40.0 MiB  10.0 MiB/s   ~30.0 MiB left, ETA ~3s",
		95:  "nic0 pre-copy  [===----------] 10.0 MiB of ~40.0 MiB  10.0 MiB/s   ~30.0 MiB left, ETA ~3s",
		80:  "nic0 pre-copy  [==---------] 10.0 MiB of ~40.0 MiB  ~30.0 MiB left, ETA ~3s",
		60:  "nic0 pre-copy  [===-----------] ~30.0 MiB left, ETA ~3s",
		40:  "nic0 pre-copy   ~30.0 MiB left, ETA ~3s",
	} {
		got := r.text(width)
		if got != want || len(got) > width {
			t.Errorf("%d columns: %q, want %q", width, got, want)
		}
	}
}

// TestBarFillsAtTheEnd: a bar is full when its device has ended and not before,
// and a rollback leaves it where it was.
func TestBarFillsAtTheEnd(t *testing.T) {
	m := meters{}
	r := &row{part: 0.5}
	for _, step := range []struct {
		phase            string
		bytes, remaining uint64
		known            bool
		want             string
	}{
		{migration.PreCopy, 0, 0, false, "[====----]"},
		{migration.PreCopy, 10, 30, true, "[==------]"},
		{migration.Stop, 10, 0, false, "[==------]"},
		{migration.StopCopy, 30, 10, true, "[======--]"},
		{migration.StopCopy, 40, 0, true, "[=======-]"},
		{migration.StopCopy, 40, 0, false, "[========]"},
		{migration.Commit, 40, 0, false, "[========]"},
	} {
		s := migration.Snapshot{Name: "a", Phase: step.phase, Bytes: step.bytes, Remaining: step.remaining, Known: step.known}
		r.set(m.read(time.Now(), []migration.Snapshot{s})[0])
		if got := r.bar(10); got != step.want {
			t.Errorf("%+v: %s", step, got)
		}
	}
	r.part = 0.5
	r.set(status{Snapshot: migration.Snapshot{Phase: "aborted", Bytes: 40}})
	if got := r.bar(10); got != "[====----]" {
		t.Errorf("aborted: %s", got)
	}
}

func TestShowKeepsOrderAndNewestProgress(t *testing.T) {
	got := new(recorder)
	s := &Observer{view: got, to: outlets{newOutlet("stdout", io.Discard), newOutlet("stderr", io.Discard)}, wake: make(chan struct{}, 1), done: make(chan struct{})}
	for i := range 1000 {
		s.Observe(migration.Event{Kind: migration.Progress, Text: fmt.Sprint(i)})
	}
	s.Observe(migration.Event{Kind: migration.Phase, Phase: migration.Commit})
	go s.tell()
	if exit := s.End(committed()); exit != exitCommitted {
		t.Errorf("exit %d", exit)
	}
	if want := "999 commit end"; strings.Join(*got, " ") != want {
		t.Errorf("told %q, want %q", *got, want)
	}
}

// TestShowRepeatsFewOfTheTurnedAway warns of each second's first, and keeps the
// first few of those for the report.
func TestShowRepeatsFewOfTheTurnedAway(t *testing.T) {
	got := new(lastWord)
	s := &Observer{view: got, to: outlets{newOutlet("stdout", io.Discard), newOutlet("stderr", io.Discard)}, wake: make(chan struct{}, 1), done: make(chan struct{})}
	for i := range 10 {
		s.warned = time.Time{}
		s.Refused(fmt.Errorf("peer %d", i))
		s.Refused(errors.New("too soon"))
	}
	go s.tell()
	s.End(failed(errors.New("x")))
	want := []string{"turned a peer away: peer 0", "turned a peer away: peer 1", "turned a peer away: peer 2", "turned a peer away: peer 3"}
	if len(got.recorder) != 10 || !slices.Equal(got.verdict.Report.Warnings, want) {
		t.Errorf("told %q, the report has %q", got.recorder, got.verdict.Report.Warnings)
	}
}

// recorder is a view that remembers.
type recorder []string

func (r *recorder) event(ev stamped) { *r = append(*r, ev.Text+ev.Phase) }
func (r *recorder) end(Result)       { *r = append(*r, "end") }

// lastWord remembers how it ended as well.
type lastWord struct {
	recorder
	verdict Result
}

func (l *lastWord) end(v Result) { l.verdict = v }

// TestWaiting: while nothing but the downtime limit is waited for, that is what every view
// shows, and not when a rest would be sent that grows all the while.
func TestWaiting(t *testing.T) {
	at := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	show := func(v view, w *migration.Waiting) {
		for i := range uint64(40) {
			d := migration.Snapshot{Name: "nic0", Phase: migration.PreCopy, Bytes: i << 20, Remaining: 9 << 30, Known: true}
			v.event(stamped{at: at.Add(time.Duration(i) * 100 * time.Millisecond), Event: migration.Event{Kind: migration.Progress, Devices: []migration.Snapshot{d}, Waiting: w}})
		}
	}
	waiting := &migration.Waiting{Limit: 300 * time.Millisecond, Downtime: migration.Span{Took: 1200 * time.Millisecond, Known: true}}
	var lines, events bytes.Buffer
	show(newLineView("mig-send", &lines, &lines), waiting)
	if got := lines.String(); !strings.Contains(got, "mig-send: waiting for the downtime limit of 300ms: a stop now would take 1.20 s") || strings.Contains(got, "ETA") {
		t.Errorf("lines:\n%s", got)
	}
	show(newJSONView("mig-send", io.Discard, &events), waiting)
	if want := `"waiting":{"for":"downtime-target","limit_ms":300,"predicted_downtime_ms":1200,"predicted_known":true}`; !strings.Contains(events.String(), want) {
		t.Errorf("events:\n%s", events.String())
	}
	lines.Reset()
	events.Reset()
	show(newLineView("mig-send", &lines, &lines), nil)
	show(newJSONView("mig-send", io.Discard, &events), nil)
	if got := lines.String() + events.String(); strings.Contains(got, "waiting") || !strings.Contains(got, "ETA") {
		t.Errorf("otherwise:\n%s", got)
	}
}

// TestCarrierEvent: people read which carrier was chosen and what was found of each;
// programs get the figures, where there are some.
func TestCarrierEvent(t *testing.T) {
	of := func(carrier string, rtt time.Duration, rate float64, err error) reader.Candidate {
		return reader.Candidate{Carrier: carrier, Found: migration.Preflight{RTT: rtt, Rate: rate}, Err: err}
	}
	nobody := &transport.Fault{Code: transport.CodeNetwork, Err: transport.ErrUnreachable}
	for _, c := range []struct {
		all          []reader.Candidate
		text, events string
	}{
		{
			[]reader.Candidate{of("tls", 100*time.Microsecond, 1<<30, nil), of("quic", 2*time.Millisecond, 512<<20, nil)},
			"carrier: tls (tls: 1.0 GiB/s, 100 us; quic: 512.0 MiB/s, 2.0 ms)",
			`"chosen":"tls","measured":[{"name":"tls","rtt_ms":0.1,"rate_bytes_per_s":1073741824},{"name":"quic","rtt_ms":2,"rate_bytes_per_s":536870912}]`,
		},
		{
			[]reader.Candidate{of("quic", 50*time.Millisecond, 0, nil)},
			"carrier: quic (quic: 50.0 ms)",
			`"chosen":"quic","measured":[{"name":"quic","rtt_ms":50}]`,
		},
		{
			[]reader.Candidate{of("tls", 0, 0, errors.New("no room")), of("quic", 0, 0, nobody)},
			"carrier: tls (tls: no room; quic: nobody answers)",
			`"chosen":"tls","measured":[{"name":"tls","error":"no room"},{"name":"quic","error":"the peer cannot be reached"}]`,
		},
	} {
		show := &Observer{}
		show.Carrying(c.all)
		var events, lines, bars bytes.Buffer
		newJSONView("mig-send", io.Discard, &events).event(show.queue[0])
		newLineView("mig-send", &lines, io.Discard).event(show.queue[0])
		newBarView("mig-send", &bars, io.Discard).event(show.queue[0])
		if got := events.String(); !json.Valid([]byte(got)) || !strings.HasPrefix(got, `{"event":"carrier",`) || !strings.HasSuffix(got, c.events+"}\n") {
			t.Errorf("%s, want %s", got, c.events)
		}
		for _, got := range []string{lines.String(), bars.String()} {
			if got != "mig-send: "+c.text+"\n" {
				t.Errorf("%q, want %q", got, c.text)
			}
		}
	}
}

// BenchmarkProgress is how long each view takes to tell of two devices, which happens
// several times a second while they move.
func BenchmarkProgress(b *testing.B) {
	events := underWay(journal.Source)
	progress := events[len(events)-1]
	for name, v := range map[string]view{
		"json":  newJSONView("mig-send", io.Discard, io.Discard),
		"lines": newLineView("mig-send", io.Discard, io.Discard),
		"bars":  newBarView("mig-send", io.Discard, io.Discard),
	} {
		b.Run(name, func(b *testing.B) {
			ev := stamped{at: time.Now(), Event: progress}
			for b.Loop() {
				ev.at = ev.at.Add(linesEvery) // the longest that any of them is silent
				v.event(ev)
			}
		})
	}
}

// BenchmarkScrape is one answer to Prometheus, with the metrics of Go and of the process.
func BenchmarkScrape(b *testing.B) {
	handler := metricsHandler(newRegistry(journal.Source, notedBy(underWay(journal.Source)...)))
	request := httptest.NewRequest("GET", "/metrics", nil)
	for b.Loop() {
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, request)
		if answer.Code != 200 {
			b.Fatalf("%d %s", answer.Code, answer.Body)
		}
	}
}

// BenchmarkNote is the cost of metrics for a migration without a scraper.
func BenchmarkNote(b *testing.B) {
	events := underWay(journal.Source)
	l := new(latest)
	for b.Loop() {
		l.note(events[len(events)-1])
	}
}
