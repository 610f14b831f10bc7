package cli

import (
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/migpipe/migpipe/cmd/internal/input"
	"github.com/migpipe/migpipe/test/golden"
	"github.com/migpipe/migpipe/vfio/sim"
)

func roots() []*cobra.Command { return []*cobra.Command{newSend().root, newRecv().root} }

func TestManPages(t *testing.T) {
	for _, root := range roots() {
		golden.Compare(t, root.Name()+".1", string(manPage(root)))
	}
}

func TestHelpFitsTerminals(t *testing.T) {
	for _, root := range roots() {
		for i, line := range strings.Split(root.Long+"\n"+root.Example, "\n") {
			if len(line) > 100 {
				t.Errorf("%s: line %d has %d characters: %s", root.Name(), i, len(line), line)
			}
		}
	}
}

func TestHelpNamesEveryScheme(t *testing.T) {
	for _, root := range roots() {
		for _, scheme := range input.Schemes {
			if !strings.Contains(root.Long, "\n  "+scheme+":") {
				t.Errorf("%s --help does not show the scheme %s", root.Name(), scheme)
			}
		}
	}
}

// TestSimTopic holds the topic against what the simulation itself says it
// knows.
func TestSimTopic(t *testing.T) {
	text := simTopic().Long
	for _, p := range sim.Profiles() {
		if !strings.Contains(text, "\n  "+p.Name+" ") {
			t.Errorf("the profile %s is missing", p.Name)
		}
	}
	for url, mark := range map[string]string{"mlx5?x=1": "=", "mlx5?fault=x": "@"} {
		_, _, err := sim.Parse(url)
		_, list, ok := strings.Cut(err.Error(), "known are ")
		if !ok {
			_, list, ok = strings.Cut(err.Error(), "KIND one of ")
		}
		if !ok {
			t.Fatalf("the error lists nothing: %v", err)
		}
		for word := range strings.SplitSeq(list, ", ") {
			if !strings.Contains(text, "\n  "+word+mark) {
				t.Errorf("%s is missing", word)
			}
		}
	}
	if _, o, err := sim.Parse("mlx5?fault=set@STOP_COPY:EBUSY&fault=set@RUNNING-STOP&content=text&dirty=20MiB/s&seed=1&version=1"); err != nil || len(o.Faults) != 2 {
		t.Errorf("the topic's syntax: %v", err)
	}
}

func TestDefaultIdentity(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", "/x")
	if got, err := input.DefaultIdentity("send.key"); err != nil || got != "/x/migpipe/send.key" {
		t.Errorf("with XDG_CONFIG_HOME: %q, %v", got, err)
	}
	t.Setenv("XDG_CONFIG_HOME", "")
	t.Setenv("HOME", "/home/me")
	want := "/home/me/.config/migpipe/recv.key"
	if os.Geteuid() == 0 {
		want = "/etc/migpipe/recv.key"
	}
	if got, err := input.DefaultIdentity("recv.key"); err != nil || got != want {
		t.Errorf("without: %q, %v, want %q", got, err, want)
	}
}

func TestCheckAddress(t *testing.T) {
	check := func(flag, given string) error {
		prefix, address := input.CutCarrier(given)
		return input.CheckAddress(flag, prefix, address)
	}
	for _, address := range []string{"127.0.0.1:0", "[::1]:7000", "host.example:65535", ":7000", "unix:/run/mig", "unix:rel", "tls://127.0.0.1:0", "tls://[::1]:7000", "auto:127.0.0.1:0", "auto:host.example:7000"} {
		if err := check("--listen", address); err != nil {
			t.Errorf("%q: %v", address, err)
		}
	}
	for _, address := range []string{"", "host", "host:", "host:http", "host:65536", "::1:7000", "unix:", "host:0",
		"tls://", "tls://host", "tls://host:0", "tls://unix:/run/mig", "tls://fd:3", "tls:host:7000",
		"auto:", "auto:host", "auto:7000", "auto:host:0", "auto:unix:/run/mig", "auto:fd:3", "auto:tls://host:7000"} {
		if err := check("--to", address); err == nil {
			t.Errorf("%q was accepted", address)
		}
	}
}
