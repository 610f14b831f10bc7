package migrate

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/test/port"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/transport/report"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/file"
	"github.com/migpipe/migpipe/vfio/sim"
	"github.com/migpipe/migpipe/writer"
)

// receiving is what a process of its own is to receive. It is this test's binary, and
// told so by the environment.
type receiving struct {
	Listen, Key, Peer string
	State             string
	Devices           map[string]string // NAME to a file's path, or a simulated device's model
	Memory, ChunkSize int
	Recover           transport.MigID
	KillAt            int64 // of the bytes that all files were given, 0 for never
}

const receivingVar = "MIGPIPE_TEST_RECEIVE"

// TestReceivingProcess is no test but the process.
func TestReceivingProcess(t *testing.T) {
	spec := os.Getenv(receivingVar)
	if spec == "" {
		t.Skip("it is run by others")
	}
	var r receiving
	if err := json.Unmarshal([]byte(spec), &r); err != nil {
		t.Fatal(err)
	}
	say := func(kind, text string) { fmt.Printf("\x00%s %s\n", kind, text) }
	id, err := transport.LoadIdentity(r.Key)
	if err != nil {
		t.Fatal(err)
	}
	peer, err := transport.ParseID(r.Peer)
	if err != nil {
		t.Fatal(err)
	}
	l, err := transport.ListenQUIC(r.Listen, transport.Pinned{Identity: id, Peers: []transport.ID{peer}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	o := &writer.Options{Memory: r.Memory, ChunkSize: r.ChunkSize, Journals: func(mig transport.MigID, existing bool) (handoff.Journal, error) {
		return journal.Open(r.State, journal.Options{Role: journal.Destination, Mig: mig, Existing: existing, Volatile: true})
	}}
	o.Recover = r.Recover
	o.Observe = func(ev report.Event) {
		if ev.Kind == report.Warning {
			say("warning", ev.Text)
		}
	}
	var sinks []writer.Sink
	var given atomic.Int64
	for name, url := range r.Devices {
		s := writer.Sink{Name: name}
		if filepath.IsAbs(url) {
			f, err := file.NewSink(url, nil)
			if err != nil {
				t.Fatal(err)
			}
			s.Device = &mortal{f, &given, r.KillAt}
		} else if s.Device, err = sim.OpenURL(url); err != nil {
			t.Fatal(err)
		}
		defer s.Device.Close()
		sinks = append(sinks, s)
	}
	say("listening", l.Addr().String())
	out, err := writer.Receive(context.Background(), l, sinks, o)
	say("done", fmt.Sprintf("%v %v %v", out.Outcome, out.Warnings, err))
}

// mortal is a file that ends its process when it was given so many bytes.
type mortal struct {
	*file.Sink
	given *atomic.Int64
	at    int64
}

func (m *mortal) Keep(id string, note []byte) (vfio.Durable, error) {
	d, err := m.Sink.Keep(id, note)
	return m.wrap(d), err
}

func (m *mortal) Resume(id string) (vfio.Durable, uint64, []byte, error) {
	d, offset, note, err := m.Sink.Resume(id)
	return m.wrap(d), offset, note, err
}

func (m *mortal) wrap(d vfio.Durable) vfio.Durable {
	if d == nil {
		return nil
	}
	return &mortalStream{d, m}
}

type mortalStream struct {
	vfio.Durable
	*mortal
}

func (s *mortalStream) Write(p []byte) (int, error) {
	n, err := s.Durable.Write(p)
	if s.given.Add(int64(n)) >= s.at && s.at > 0 {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	return n, err
}

func (s *mortalStream) Close() error { return s.Durable.Close() }

// child is such a process.
type child struct {
	cmd    *exec.Cmd
	said   chan [2]string
	log    strings.Builder
	errors bytes.Buffer
}

func startReceiving(t *testing.T, r receiving) *child {
	t.Helper()
	spec, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	c := &child{cmd: exec.Command(os.Args[0], "-test.run=^TestReceivingProcess$"), said: make(chan [2]string, 100)}
	c.cmd.Env = append(os.Environ(), receivingVar+"="+string(spec))
	c.cmd.Stderr = &c.errors
	out, err := c.cmd.StdoutPipe()
	if err == nil {
		err = c.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	go func() { // ends with the process
		defer close(c.said)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if line, ok := strings.CutPrefix(lines.Text(), "\x00"); ok {
				kind, text, _ := strings.Cut(line, " ")
				c.said <- [2]string{kind, text}
			} else {
				c.log.WriteString(lines.Text() + "\n")
			}
		}
		c.cmd.Wait()
	}()
	t.Cleanup(func() {
		c.cmd.Process.Kill()
		for range c.said {
		}
	})
	return c
}

// String is what else it has said.
func (c *child) String() string { return c.log.String() + c.errors.String() }

// await returns what the process says of that kind, "" if it has ended before.
func (c *child) await(t *testing.T, kind string) string {
	t.Helper()
	for {
		select {
		case said, ok := <-c.said:
			if !ok {
				return ""
			}
			t.Logf("destination: %s %s", said[0], said[1])
			if said[0] == kind {
				return said[1]
			}
		case <-time.After(2 * patience):
			t.Fatalf("the destination does not say %q: %s", kind, c)
		}
	}
}

// partial is a migration of files to a process that is killed.
type partial struct {
	*testing.T
	dir     string
	r       receiving
	source  *transport.Identity
	dest    transport.ID
	content map[string][]byte
	sources []reader.Source
	send    reader.Options
}

func newPartial(t *testing.T, sizes map[string]int) *partial {
	leavesNothing(t)
	p := &partial{T: t, dir: t.TempDir(), content: map[string][]byte{}}
	id, err := transport.LoadIdentity(filepath.Join(p.dir, "recv.key"))
	if err == nil {
		p.source, err = transport.NewIdentity()
	}
	if err != nil {
		t.Fatal(err)
	}
	p.dest = id.ID()
	p.r = receiving{Listen: port.Own(t), Key: filepath.Join(p.dir, "recv.key"), Peer: p.source.ID().String(), State: p.dir, Devices: map[string]string{}}
	for name, size := range sizes {
		b := make([]byte, size)
		rand.NewChaCha8([32]byte{byte(size)}).Read(b)
		path := filepath.Join(p.dir, name+".source")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		d, err := file.NewSource(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		p.content[name], p.r.Devices[name] = b, filepath.Join(p.dir, name+".state")
		p.sources = append(p.sources, reader.Source{Name: name, Device: d})
	}
	p.send = reader.Options{DowntimeLimit: patience, MaxDowntime: 2 * patience, Attempt: transport.Attempt{Mig: transport.NewMigID(), Epoch: 1}}
	return p
}

// start starts the destination, always at one address.
func (p *partial) start(killAt int) *child {
	p.Helper()
	p.r.KillAt = int64(killAt)
	c := startReceiving(p.T, p.r)
	if c.await(p.T, "listening") == "" {
		p.Fatalf("the destination does not start: %s", c)
	}
	return c
}

func (p *partial) sendAll() chan side {
	done := make(chan side, 1)
	go func() {
		r, err := reader.Send(p.Context(), &transport.QUICDialer{Addr: p.r.Listen, Credentials: transport.Pinned{Identity: p.source, Peers: []transport.ID{p.dest}}}, p.sources, &p.send)
		done <- side{r, err}
	}()
	return done
}

// arrived checks that all files are there, and nothing beside.
func (p *partial) arrived() {
	p.Helper()
	for name, want := range p.content {
		got, err := os.ReadFile(p.r.Devices[name])
		if err != nil || !bytes.Equal(got, want) {
			p.Errorf("%s has %d bytes, of %d (%v)", name, len(got), len(want), err)
		}
	}
	p.nothingLeft()
}

func (p *partial) nothingLeft() {
	p.Helper()
	if left, _ := filepath.Glob(filepath.Join(p.dir, ".*")); len(left) > 0 {
		p.Errorf("left behind: %v", left)
	}
}

// recorded is what the destination has recorded.
func (p *partial) recorded() string {
	names, _ := recorded(p.T, p.dir, p.send.Attempt.Mig, journal.Destination)
	return strings.Join(names, " ")
}

const wentOn = "NONE OPEN READY ACCEPT RUNNING DONE"

// TestGoesOnAfterAKill: a destination that was killed in the middle of files goes on
// with what was durable, when it is started again; whoever of both sides has little
// memory. Nothing of it is recorded, for nothing new is promised.
func TestGoesOnAfterAKill(t *testing.T) {
	const chunk = 64 << 10
	for _, c := range []struct {
		name         string
		sizes        map[string]int
		source, dest int // memory
		lanes        int
		kills        []int
		recover      bool
	}{
		{name: "one file", sizes: map[string]int{"a": 24 << 20}, source: 8 << 20, dest: 8 << 20, lanes: 2, kills: []int{12 << 20}},
		{name: "told to go on", sizes: map[string]int{"a": 24 << 20}, source: 8 << 20, dest: 8 << 20, lanes: 2, kills: []int{12 << 20}, recover: true},
		{name: "killed at once", sizes: map[string]int{"a": 8 << 20}, source: 4 << 20, dest: 4 << 20, lanes: 2, kills: []int{1}},
		{name: "killed at the end", sizes: map[string]int{"a": 8 << 20}, source: 4 << 20, dest: 4 << 20, lanes: 2, kills: []int{8 << 20}},
		{name: "three files, killed three times", sizes: map[string]int{"a": 3 << 20, "b": 12 << 20, "c": 100}, source: 8 << 20, dest: 4 << 20, lanes: 4, kills: []int{4 << 20, 2 << 20, 3 << 20}},
		{name: "a source with two chunks", sizes: map[string]int{"a": 8 << 20}, source: 2 * chunk, dest: 8 << 20, lanes: 1, kills: []int{4 << 20}},
		{name: "a destination with two chunks", sizes: map[string]int{"a": 8 << 20}, source: 8 << 20, dest: 2 * chunk, lanes: 1, kills: []int{4 << 20}},
		{name: "two chunks each", sizes: map[string]int{"a": 4 << 20}, source: 2 * chunk, dest: 2 * chunk, lanes: 1, kills: []int{2 << 20}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPartial(t, c.sizes)
			p.send.Memory, p.send.ChunkSize, p.send.Lanes = c.source, chunk, c.lanes
			p.r.Memory, p.r.ChunkSize = c.dest, chunk
			d := p.start(c.kills[0])
			sent := p.sendAll()
			for _, at := range append(c.kills[1:], 0) {
				d.await(t, "done") // which it does not say
				if c.recover {
					p.r.Recover = p.send.Attempt.Mig
				}
				d = p.start(at)
			}
			s := <-sent
			if text := d.await(t, "done"); !strings.HasPrefix(text, "committed") || s.err != nil {
				t.Fatalf("source: %v (%v); destination: %s %s", s.report.Outcome, s.err, text, d)
			}
			p.arrived()
			if got := p.recorded(); got != wentOn {
				t.Errorf("recorded: %s", got)
			}
			for _, d := range s.report.Devices {
				if d.Bytes != uint64(len(p.content[d.Name])) {
					t.Errorf("%+v", d)
				}
			}
		})
	}
}

// TestDoesNotGoOn: where a part cannot be gone on with, the source is told so, has its
// devices back, and the next attempt begins anew; nothing is left of the first.
func TestDoesNotGoOn(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(p *partial)
	}{
		{"it was removed", func(p *partial) {
			left, _ := filepath.Glob(filepath.Join(p.dir, ".*.resumable"))
			if len(left) != 2 {
				p.Errorf("left by the crash: %v", left)
			}
			for _, path := range left[:1] {
				os.Remove(path)
			}
		}},
		{"the devices have other names", func(p *partial) {
			p.r.Devices["a"], p.r.Devices["b"] = p.r.Devices["b"], p.r.Devices["a"]
		}},
		{"one is another kind of device", func(p *partial) { p.r.Devices["b"] = "mlx5?size=1MiB" }},
		{"there is less memory", func(p *partial) { p.r.Memory, p.r.ChunkSize = 32<<10, 16<<10 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPartial(t, map[string]int{"a": 4 << 20, "b": 4 << 20})
			p.send.Memory, p.send.ChunkSize, p.send.Lanes = 4<<20, 64<<10, 2
			p.r.Memory, p.r.ChunkSize = 4<<20, 64<<10
			j := handoff.NewMemory()
			p.send.Journal = j
			d := p.start(4 << 20)
			sent := p.sendAll()
			d.await(t, "done")
			before := p.r
			before.Devices = maps.Clone(p.r.Devices)
			c.spoil(p)
			d = p.start(0)
			if s := <-sent; s.report.Outcome != handoff.Rolledback || s.err == nil || !strings.Contains(s.err.Error(), "started again") {
				t.Errorf("source: %v (%v)", s.report.Outcome, s.err)
			}
			if got := p.recorded(); got != "NONE OPEN ABORTED" {
				t.Errorf("recorded: %s", got)
			}
			d.cmd.Process.Kill()
			d.await(t, "done")
			p.r = before
			d = p.start(0)
			p.send.Attempt.Epoch++
			s := <-p.sendAll()
			if text := d.await(t, "done"); !strings.HasPrefix(text, "committed") || s.err != nil {
				t.Fatalf("source: %v (%v); destination: %s %s", s.report.Outcome, s.err, text, d)
			}
			p.arrived()
		})
	}
}

// TestNextAttemptAfterAKill: a source that did not wait opens the next attempt, and what
// the destination has kept of the one before is gone.
func TestNextAttemptAfterAKill(t *testing.T) {
	p := newPartial(t, map[string]int{"a": 8 << 20})
	p.send.Memory, p.send.ChunkSize = 4<<20, 64<<10
	p.r.Memory, p.r.ChunkSize = 4<<20, 64<<10
	p.send.ReconnectLimit = time.Second
	d := p.start(4 << 20)
	sent := p.sendAll()
	d.await(t, "done")
	if s := <-sent; s.report.Outcome != handoff.Rolledback {
		t.Fatalf("%v (%v)", s.report.Outcome, s.err)
	}
	d = p.start(0)
	p.send.Attempt.Epoch++
	s := <-p.sendAll()
	if text := d.await(t, "done"); !strings.HasPrefix(text, "committed") || s.err != nil {
		t.Fatalf("source: %v (%v); destination: %s %s", s.report.Outcome, s.err, text, d)
	}
	p.arrived()
	if got := p.recorded(); got != "NONE OPEN OPEN READY ACCEPT RUNNING DONE" {
		t.Errorf("recorded: %s", got)
	}
}
