package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

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
		for _, scheme := range schemes {
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
	if got, err := defaultIdentity("send.key"); err != nil || got != "/x/migpipe/send.key" {
		t.Errorf("with XDG_CONFIG_HOME: %q, %v", got, err)
	}
	t.Setenv("XDG_CONFIG_HOME", "")
	t.Setenv("HOME", "/home/me")
	want := "/home/me/.config/migpipe/recv.key"
	if os.Geteuid() == 0 {
		want = "/etc/migpipe/recv.key"
	}
	if got, err := defaultIdentity("recv.key"); err != nil || got != want {
		t.Errorf("without: %q, %v, want %q", got, err, want)
	}
}

func TestCheckAddress(t *testing.T) {
	check := func(flag, given string) error {
		prefix, address := cutCarrier(given)
		return checkAddress(flag, prefix, address)
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

func TestReleaseOf(t *testing.T) {
	for _, tt := range [][3]string{
		{"v1.2.3", "0123456789ab", "v1.2.3 0123456789ab"},
		{"v0.0.0-20200102030405-0123456789ab+dirty", "0123456789ab", "v0.0.0-20200102030405-0123456789ab+dirty"},
		{"(devel)", "", "(devel)"},
	} {
		if got := releaseOf(tt[0], tt[1]); got != tt[2] {
			t.Errorf("%s at %q: %q, want %q", tt[0], tt[1], got, tt[2])
		}
	}
}

func TestInherited(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if inherited(int(f.Fd())) {
		t.Error("a file that this process opened counts as inherited")
	}
	if !inherited(1) {
		t.Error("stdout does not count as inherited")
	}
	if inherited(1 << 20) {
		t.Error("a descriptor that is not open counts as inherited")
	}
}

func TestCheckFD(t *testing.T) {
	tests := []struct {
		c    common
		n    int
		want bool
	}{
		{common{role: source}, 0, true},
		{common{role: source}, 1, false},
		{common{role: source}, 2, false},
		{common{role: sink}, 1, false},
		{common{role: sink, json: true}, 1, false},
		{common{role: sink, quiet: true}, 1, true},
		{common{role: sink, quiet: true}, 2, false},
		{common{role: sink}, 1 << 20, false},
	}
	for _, tt := range tests {
		if err := tt.c.checkFD("d", tt.n); (err == nil) != tt.want {
			t.Errorf("role %d, quiet %v, fd:%d: %v", tt.c.role, tt.c.quiet, tt.n, err)
		}
	}
}
