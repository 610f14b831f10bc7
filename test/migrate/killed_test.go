package migrate

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
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
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/file"
	"github.com/migpipe/migpipe/vfio/sim"
	"github.com/migpipe/migpipe/writer"
)

// receiving configures the destination in a process of its own. That process runs this
// test's binary, and gets the configuration by its environment.
type receiving struct {
	Listen, Key, Peer string
	State             string
	Devices           map[string]string // NAME to a file's path, or a simulated device's model
	Memory, ChunkSize int
	Recover           migration.ID
	KillAt            int64 // when all files have got so many bytes, 0 for never
	KillStart         bool  // when a device is to run
}

const receivingVar = "MIGPIPE_TEST_RECEIVE"

// TestReceivingProcess is not a test but the main function of that process.
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
	peer, err := transport.ParsePeerID(r.Peer)
	if err != nil {
		t.Fatal(err)
	}
	l, err := transport.ListenQUIC(r.Listen, transport.Pinned{Identity: id, Peers: []transport.PeerID{peer}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	o := &writer.Options{Memory: r.Memory, ChunkSize: r.ChunkSize, Journals: func(mig migration.ID, existing bool) (handoff.Journal, error) {
		return journal.Open(r.State, journal.Options{Role: journal.Destination, Mig: mig, Existing: existing, Volatile: true})
	}}
	o.Continue = r.Recover
	o.Observe = func(ev migration.Event) {
		if ev.Kind == migration.Warning {
			say("warning", ev.Text)
		}
	}
	var sinks []writer.Target
	var given atomic.Int64
	for name, url := range r.Devices {
		s := writer.Target{Name: name}
		if filepath.IsAbs(url) {
			f, err := file.NewDestination(url, nil)
			if err != nil {
				t.Fatal(err)
			}
			s.Device = &mortal{f, &given, r.KillAt, r.KillStart}
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

// mortal is a file that ends its process after so many bytes, or at its start.
type mortal struct {
	*file.Destination
	given *atomic.Int64
	at    int64
	start bool
}

func (m *mortal) Persist(id string) (vfio.Persistent, error) {
	s, err := m.Destination.Persist(id)
	if err != nil {
		return nil, err
	}
	return &mortalStream{s, m}, nil
}

func (m *mortal) SetState(to vfio.State) (vfio.Stream, error) {
	if to == vfio.Running && m.start {
		die()
	}
	return m.Destination.SetState(to)
}

type mortalStream struct {
	vfio.Persistent
	mortal *mortal
}

func (s *mortalStream) Write(p []byte) (int, error) {
	n, err := s.Persistent.Write(p)
	if s.mortal.given.Add(int64(n)) >= s.mortal.at && s.mortal.at > 0 {
		die()
	}
	return n, err
}

func die() {
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// child is a receiving process.
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

// String is the rest of its output.
func (c *child) String() string { return c.log.String() + c.errors.String() }

// await returns the next line of that kind, "" if the process has ended before.
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

// fileMigration is a migration of files to a process of its own.
type fileMigration struct {
	*testing.T
	dir     string
	r       receiving
	source  *transport.Identity
	dest    transport.PeerID
	content map[string][]byte
	sources []reader.Source
	send    reader.Options
}

func newFileMigration(t *testing.T, sizes map[string]int) *fileMigration {
	leavesNothing(t)
	p := &fileMigration{T: t, dir: t.TempDir(), content: map[string][]byte{}}
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
	p.send = reader.Options{DowntimeTarget: patience, ResumeAfter: 2 * patience, Attempt: migration.Attempt{Mig: migration.NewID(), Epoch: 1}}
	return p
}

// start starts the destination, always at one address.
func (p *fileMigration) start() *child {
	p.Helper()
	c := startReceiving(p.T, p.r)
	if c.await(p.T, "listening") == "" {
		p.Fatalf("the destination does not start: %s", c)
	}
	return c
}

func (p *fileMigration) sendAll() chan side {
	done := make(chan side, 1)
	go func() {
		r, err := reader.Send(p.Context(), &transport.QUICDialer{Addr: p.r.Listen, Credentials: transport.Pinned{Identity: p.source, Peers: []transport.PeerID{p.dest}}}, p.sources, &p.send)
		done <- side{r, err}
	}()
	return done
}

// arrived checks that all files are there, and no others.
func (p *fileMigration) arrived() {
	p.Helper()
	for name, want := range p.content {
		got, err := os.ReadFile(p.r.Devices[name])
		if err != nil || !bytes.Equal(got, want) {
			p.Errorf("%s has %d bytes, of %d (%v)", name, len(got), len(want), err)
		}
	}
	p.nothingLeft()
}

func (p *fileMigration) nothingLeft() {
	p.Helper()
	if left, _ := filepath.Glob(filepath.Join(p.dir, ".*")); len(left) > 0 {
		p.Errorf("left behind: %v", left)
	}
}

// recorded lists the destination's records.
func (p *fileMigration) recorded() string {
	names, _ := recorded(p.T, p.dir, p.send.Attempt.Mig, journal.Destination)
	return strings.Join(names, " ")
}

// killed waits for the end of a destination, and starts it again without a fault.
func (p *fileMigration) killed(d *child) *child {
	p.Helper()
	if text := d.await(p.T, "done"); text != "" {
		p.Errorf("the destination was to be killed, and has ended: %s", text)
	}
	p.r.KillAt, p.r.KillStart = 0, false
	return p.start()
}

// TestKilledWhileLoading: a destination that is killed in the middle of files leaves nothing
// of them. Its source returns its devices to RUNNING, by the next process's report or at its
// own limit. The next attempt begins with the first byte.
func TestKilledWhileLoading(t *testing.T) {
	for _, c := range []struct {
		name  string
		at    int64 // of 8 MiB
		limit time.Duration
	}{
		{"at once", 1, 0},
		{"in the middle", 4 << 20, 0},
		{"by the last byte", 8 << 20, 0},
		{"the source does not wait", 4 << 20, time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newFileMigration(t, map[string]int{"a": 3 << 20, "b": 5 << 20})
			p.send.Memory, p.send.ChunkSize, p.send.Lanes, p.send.ReconnectFor = 4<<20, 64<<10, 2, c.limit
			p.r.Memory, p.r.ChunkSize, p.r.KillAt = 4<<20, 64<<10, c.at
			p.send.Journal = handoff.NewMemory()
			d := p.start()
			sent := p.sendAll()
			if c.limit > 0 {
				d.await(t, "done")
				if s := <-sent; s.report.Outcome != migration.Aborted {
					t.Fatalf("%v (%v)", s.report.Outcome, s.err)
				}
				p.r.KillAt = 0
				d = p.start()
			} else {
				d = p.killed(d)
				if s := <-sent; s.report.Outcome != migration.Aborted || s.err == nil || !strings.Contains(s.err.Error(), "started again") {
					t.Fatalf("%v (%v)", s.report.Outcome, s.err)
				}
			}
			p.nothingLeft()
			for name := range p.content {
				if _, err := os.Lstat(p.r.Devices[name]); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s: %v", name, err)
				}
			}
			p.send.Attempt.Epoch++
			s := <-p.sendAll()
			if text := d.await(t, "done"); !strings.HasPrefix(text, "committed") || s.err != nil {
				t.Fatalf("source: %v (%v); destination: %s %s", s.report.Outcome, s.err, text, d)
			}
			p.arrived()
		})
	}
}

// TestKilledAtTheStart: a complete copy outlives the process that has loaded it. The next
// process resumes it, by its options or when the source asks. The source sends nothing again.
func TestKilledAtTheStart(t *testing.T) {
	for name, told := range map[string]bool{"told to": true, "when the source asks": false} {
		t.Run(name, func(t *testing.T) {
			p := newFileMigration(t, map[string]int{"a": 3 << 20, "b": 100})
			p.r.KillStart = true
			d := p.start()
			sent := p.sendAll()
			if told {
				p.r.Recover = p.send.Attempt.Mig
			}
			d = p.killed(d)
			s := <-sent
			if text := d.await(t, "done"); !strings.HasPrefix(text, "committed") || s.err != nil {
				t.Fatalf("source: %v (%v); destination: %s %s", s.report.Outcome, s.err, text, d)
			}
			p.arrived()
			if got := p.recorded(); got != "NONE OPEN READY ACCEPT RUNNING DONE" {
				t.Errorf("recorded: %s", got)
			}
		})
	}
}
