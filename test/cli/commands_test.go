package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/migpipe/migpipe/test/port"
)

// patience bounds every wait of a script.
const patience = 60 * time.Second

// commands are the commands of scripts besides testscript's own.
var commands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	"start":   cmdStart,
	"finish":  cmdFinish,
	"exits":   cmdExits,
	"signal":  cmdSignal,
	"port":    cmdPort,
	"address": cmdAddress,
	"scrape":  cmdScrape,
	"await":   cmdAwait,
	"field":   cmdField,
	"random":  cmdRandom,
	"only":    cmdOnly,
	"certify": cmdCertify,
	"journal": cmdJournal,
	"resolve": cmdResolve,
	"drops":   cmdDrops,

	"migration": cmdMigration,
}

// processes is the key of a script's running programs, by name.
type processes struct{}

type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

func running(ts *testscript.TestScript) map[string]*process {
	return ts.Value(processes{}).(map[string]*process)
}

func killAll(list map[string]*process) {
	for _, p := range list {
		p.cmd.Process.Kill()
		<-p.done
	}
}

// cmdStart is "start NAME COMMAND...": run it with stdout in NAME.out and stderr in NAME.err.
func cmdStart(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: start NAME COMMAND...")
	}
	name := args[0]
	path := args[1]
	if p, err := exec.LookPath(bin + "/" + path); err == nil {
		path = p
	}
	p := &process{cmd: exec.Command(path, args[2:]...), done: make(chan struct{})}
	p.cmd.Dir = ts.MkAbs(".")
	for _, v := range []string{"PATH", "HOME", "TMPDIR", "XDG_CONFIG_HOME", "STATE_DIRECTORY"} {
		p.cmd.Env = append(p.cmd.Env, v+"="+ts.Getenv(v))
	}
	p.cmd.Stdout, p.cmd.Stderr = create(ts, name+".out"), create(ts, name+".err")
	ts.Check(p.cmd.Start())
	running(ts)[name] = p
	go func() { p.err = p.cmd.Wait(); close(p.done) }() // the process ends it
}

func create(ts *testscript.TestScript, name string) *os.File {
	f, err := os.Create(ts.MkAbs(name))
	ts.Check(err)
	ts.Defer(func() { f.Close() })
	return f
}

// cmdFinish is "finish NAME EXIT": wait for its end and compare its exit code.
func cmdFinish(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: finish NAME EXIT")
	}
	name := args[0]
	p := running(ts)[name]
	if p == nil {
		ts.Fatalf("nothing runs as %s", name)
	}
	select {
	case <-p.done:
	case <-time.After(patience):
		ts.Fatalf("%s still runs; %s", name, told(ts, name))
	}
	delete(running(ts), name)
	if got := p.cmd.ProcessState.ExitCode(); strconv.Itoa(got) != args[1] {
		ts.Fatalf("%s: exit %d (%v), want %s; %s", name, got, p.cmd.ProcessState, args[1], told(ts, name))
	}
	if p.cmd.ProcessState.Exited() {
		ts.Check(checkEvents(ts.ReadFile(name+".out"), filepath.Base(p.cmd.Path), p.cmd.ProcessState.ExitCode()))
	}
}

func told(ts *testscript.TestScript, name string) string {
	return fmt.Sprintf("stdout:\n%s\nstderr:\n%s", ts.ReadFile(name+".out"), ts.ReadFile(name+".err"))
}

// cmdExits is "exits EXIT COMMAND...": start and finish in one, as "run".
func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits EXIT COMMAND...")
	}
	cmdStart(ts, false, append([]string{"run"}, args[1:]...))
	cmdFinish(ts, false, []string{"run", args[0]})
}

var signals = map[string]os.Signal{
	"INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "HUP": syscall.SIGHUP, "KILL": syscall.SIGKILL, "STOP": syscall.SIGSTOP,
}

// cmdSignal is "signal NAME INT|TERM|HUP|KILL|STOP".
func cmdSignal(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 || signals[args[1]] == nil || running(ts)[args[0]] == nil {
		ts.Fatalf("usage: signal NAME INT|TERM|HUP|KILL|STOP")
	}
	ts.Check(running(ts)[args[0]].cmd.Process.Signal(signals[args[1]]))
}

// wait tries until it succeeds, the program has ended, or patience is over.
func wait(ts *testscript.TestScript, name string, try func() error) {
	deadline := time.Now().Add(patience)
	for {
		err := try()
		if err == nil {
			return
		}
		p := running(ts)[name]
		ended := p == nil
		if !ended {
			select {
			case <-p.done:
				ended = try() != nil
			default:
			}
		}
		if ended || time.Now().After(deadline) {
			ts.Fatalf("%v; %s", err, told(ts, name))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// cmdPort is "port VAR": set a variable to an address that several programs may listen at,
// one after the other.
func cmdPort(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: port VAR")
	}
	addr, release, err := port.Take()
	ts.Check(err)
	ts.Defer(release)
	ts.Setenv(args[0], addr)
}

// cmdAddress is "address NAME VAR [EVENT]": wait until a program with --json listens, or
// reports another address by an event of that name. Set a variable to it.
func cmdAddress(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || len(args) > 3 {
		ts.Fatalf("usage: address NAME VAR [EVENT]")
	}
	kind := append(args, "listening")[2]
	wait(ts, args[0], func() error {
		for line := range strings.Lines(ts.ReadFile(args[0] + ".out")) {
			var ev struct{ Event, Address string }
			if !strings.HasSuffix(line, "\n") {
				break
			} else if err := json.Unmarshal([]byte(line), &ev); err != nil {
				ts.Fatalf("an event is %q: %v", line, err)
			}
			if ev.Event == kind {
				ts.Setenv(args[1], ev.Address)
				return nil
			}
		}
		return fmt.Errorf("no event %q yet", kind)
	})
}

// cmdScrape is "scrape NAME ADDRESS PATTERN": request a running program's metrics until a
// line of them begins with the pattern, and write them to NAME.metrics.
func cmdScrape(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: scrape NAME ADDRESS PATTERN")
	}
	pattern := regexp.MustCompile("(?m)^" + args[2])
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			if path, ok := strings.CutPrefix(args[1], "unix:"); ok {
				network, address = "unix", ts.MkAbs(path)
			}
			return new(net.Dialer).DialContext(ctx, network, address)
		}}}
	host := args[1]
	if strings.HasPrefix(host, "unix:") {
		host = "metrics"
	}
	wait(ts, args[0], func() error {
		answer, err := client.Get("http://" + host + "/metrics")
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err == nil && !pattern.Match(text) {
			err = fmt.Errorf("no %q in %s", args[2], text)
		}
		if err == nil {
			err = os.WriteFile(ts.MkAbs(args[0]+".metrics"), text, 0o600)
		}
		return err
	})
}

// cmdAwait is "await NAME out|err PATTERN": wait until its output has a match, as for grep.
func cmdAwait(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: await NAME out|err PATTERN")
	}
	pattern, err := regexp.Compile("(?m)" + args[2])
	ts.Check(err)
	wait(ts, args[0], func() error {
		if !pattern.MatchString(ts.ReadFile(args[0] + "." + args[1])) {
			return fmt.Errorf("no %q yet", args[2])
		}
		return nil
	})
}

// cmdField is "field FILE PATH VALUE": the last line of FILE is a done event
// in which PATH, as devices.0.bytes, is VALUE. With "!" there is no such field.
func cmdField(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 && (!neg || len(args) != 2) {
		ts.Fatalf("usage: field FILE PATH VALUE, ! field FILE PATH")
	}
	lines := strings.Split(strings.TrimSpace(ts.ReadFile(args[0])), "\n")
	last := lines[len(lines)-1]
	var event map[string]any
	d := json.NewDecoder(strings.NewReader(last))
	d.UseNumber()
	if err := d.Decode(&event); err != nil || event["event"] != "done" {
		ts.Fatalf("%s does not end with a done event but %q: %v", args[0], last, err)
	}
	got, ok := dig(event, strings.Split(args[1], "."))
	switch {
	case neg && ok:
		ts.Fatalf("%s is %v", args[1], got)
	case !neg && fmt.Sprint(got) != args[2]:
		ts.Fatalf("%s is %v, want %s, in %s", args[1], got, args[2], last)
	}
}

func dig(v any, path []string) (any, bool) {
	for _, key := range path {
		switch in := v.(type) {
		case map[string]any:
			next, ok := in[key]
			if !ok {
				return nil, false
			}
			v = next
		case []any:
			i, err := strconv.Atoi(key)
			if err != nil || i >= len(in) {
				return nil, false
			}
			v = in[i]
		}
	}
	return v, true
}

// cmdRandom is "random FILE BYTES".
func cmdRandom(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: random FILE BYTES")
	}
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	content := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(n)}).Read(content)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), content, 0o600))
}

// cmdOnly is "only DIR NAME...": the directory has these files and no other.
func cmdOnly(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: only DIR NAME...")
	}
	entries, err := os.ReadDir(ts.MkAbs(args[0]))
	ts.Check(err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	slices.Sort(args[1:])
	if !slices.Equal(names, args[1:]) {
		ts.Fatalf("%s has %q, want %q", args[0], names, args[1:])
	}
}

// TestReadmeExternal runs the commands of the README about a VMM that decides.
func TestReadmeExternal(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	ran := false
	for _, block := range regexp.MustCompile("(?ms)^```sh\n(.*?)^```").FindAllStringSubmatch(string(text), -1) {
		if !strings.Contains(block[1], "--commit external") {
			continue
		}
		ran = true
		cmd := exec.CommandContext(t.Context(), "sh", "-ec", block[1])
		cmd.Dir = t.TempDir()
		cmd.Env = append(os.Environ(), "PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		if n := strings.Count(string(out), `"event":"done"`); err != nil || n != 2 || strings.Count(string(out), `"outcome":"committed"`) != n {
			t.Errorf("%v\n%s", err, out)
		}
	}
	if !ran {
		t.Error("README.md has no such commands: this test has lost its object")
	}
}
