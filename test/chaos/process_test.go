package chaos

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds every wait for a program.
const patience = 2 * time.Minute

// event is a line of JSON that a program prints; done has the most fields.
type event struct {
	at int64 // when it was heard, by CLOCK_MONOTONIC

	Event, Phase, Text, Address, Outcome string
	Time                                 time.Time // by the wall clock
	Exit                                 int
	DowntimeMS                           float64 `json:"downtime_ms"`
	Error                                *struct{ Code, Side, Text string }
	Warnings                             []string
	Devices                              []struct {
		Name, Digest, State string
		Bytes               uint64
		Verified            *bool
	}
}

// process is a program that runs, or has run.
type process struct {
	side    side
	cmd     *exec.Cmd
	started int64       // by CLOCK_MONOTONIC, in ns, as are the device logs
	exited  int64       // 0 while it runs
	killed  atomic.Bool // by the test
	again   bool        // in the place of one that was killed
	stderr  bytes.Buffer

	mu     sync.Mutex
	events []event
	news   chan struct{} // closed when there are more events
	peak   uint64        // bytes resident at the most, as last seen
	done   chan struct{}
}

func monotonic() int64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		panic(err)
	}
	return now.Nano()
}

// start runs a program with its failpoints, through another command if by is not empty.
func start(t *testing.T, s side, bin, points string, by []string, args ...string) *process {
	t.Helper()
	line := slices.Concat(by, []string{s.program(bin)}, args)
	p := &process{side: s, cmd: exec.Command(line[0], line[1:]...), news: make(chan struct{}), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), "MIGPIPE_FAILPOINTS="+points)
	p.cmd.Stderr = &p.stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	out, err := p.cmd.StdoutPipe()
	if err == nil {
		p.started = monotonic()
		err = p.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() { // ends with the program
		defer close(read)
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			p.say(t, lines.Bytes())
		}
	}()
	go func() { // ends with the program
		<-read
		p.cmd.Wait()
		p.exited = monotonic()
		close(p.done)
	}()
	go p.weigh()
	t.Cleanup(func() { p.kill(); <-p.done })
	return p
}

func (p *process) say(t *testing.T, line []byte) {
	e := event{at: monotonic()}
	if err := json.Unmarshal(line, &e); err != nil {
		t.Errorf("%v printed %q: %v", p.side, line, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.events = append(p.events, e)
	close(p.news)
	p.news = make(chan struct{})
}

// weigh measures the memory of the program until it ends. The kernel's own account of it
// (wait4) includes the pages of this process at the fork.
func (p *process) weigh() {
	for ; p.runs(); time.Sleep(10 * time.Millisecond) {
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
		_, peak, _ := strings.Cut(string(status), "VmHWM:")
		peak, _, ok := strings.Cut(peak, "kB")
		if n, err := strconv.ParseUint(strings.TrimSpace(peak), 10, 64); ok && err == nil {
			p.mu.Lock()
			p.peak = n << 10
			p.mu.Unlock()
		}
	}
}

func (p *process) runs() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// stopped reports whether the program has stopped itself.
func (p *process) stopped() bool {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	i := bytes.LastIndexByte(stat, ')')
	return i > 0 && bytes.HasPrefix(stat[i:], []byte(") T"))
}

func (p *process) signal(s syscall.Signal) { p.cmd.Process.Signal(s) }

func (p *process) kill() {
	if p.runs() {
		p.killed.Store(true)
		p.signal(syscall.SIGKILL)
	}
}

// told gives what the program has said.
func (p *process) told() []event {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.events
}

// find returns the first event of a kind, nil if there is none yet.
func (p *process) find(kind string) *event {
	for _, e := range p.told() {
		if e.Event == kind {
			return &e
		}
	}
	return nil
}

// says reports whether it has warned of something.
func (p *process) says(text string) bool {
	return slices.ContainsFunc(p.told(), func(e event) bool {
		return strings.Contains(e.Text, text) || e.Error != nil && strings.Contains(e.Error.Text, text) || strings.Contains(strings.Join(e.Warnings, " "), text)
	})
}

// engaged reports whether a destination serves a source that it did not refuse, or
// continues the migration of an earlier process.
func (p *process) engaged() bool {
	engaged := false
	for _, e := range p.told() {
		engaged = (engaged || e.Event == "peer" || strings.Contains(e.Text, "continuing migration")) && !strings.Contains(e.Text, "a source was turned away")
	}
	return engaged
}

// await waits for an event, and fails if the program ends before it.
func (p *process) await(t *testing.T, kind string) event {
	t.Helper()
	timeout := time.After(patience)
	for {
		p.mu.Lock()
		news := p.news
		p.mu.Unlock()
		if e := p.find(kind); e != nil {
			return *e
		}
		select {
		case <-news:
		case <-p.done:
			if e := p.find(kind); e != nil {
				return *e
			}
			t.Fatalf("%v ended without the event %q: %v", p.side, kind, p)
		case <-timeout:
			t.Fatalf("%v does not say %q: %v", p.side, kind, p)
		}
	}
}

// wait waits for the end.
func (p *process) wait(t *testing.T) {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		t.Fatalf("%v does not end: %v", p.side, p)
	}
}

func (p *process) exit() int { return p.cmd.ProcessState.ExitCode() }

// String is what a person needs to know about the process when a case fails.
func (p *process) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v, %v", p.cmd.Args, p.cmd.ProcessState)
	for _, e := range p.told() {
		if e.Event != "progress" {
			fmt.Fprintf(&b, "\n  %s %s%s%s", e.Event, e.Phase, e.Text, e.Outcome)
			if e.Error != nil {
				fmt.Fprintf(&b, " %+v", *e.Error)
			}
		}
	}
	if !p.runs() {
		fmt.Fprintf(&b, "\n%s", &p.stderr)
	}
	return b.String()
}
