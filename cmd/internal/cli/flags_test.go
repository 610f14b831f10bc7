package cli

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/migpipe/migpipe/cmd/internal/input"
	"github.com/migpipe/migpipe/cmd/internal/ui"
	"github.com/migpipe/migpipe/transport/journal"
)

// TestCertificateName: the zone of an address is in no certificate.
func TestCertificateName(t *testing.T) {
	for host, want := range map[string]string{
		"dest.example": "dest.example", "192.0.2.7": "192.0.2.7", "2001:db8::7": "2001:db8::7", "fe80::7%eth0": "fe80::7",
	} {
		if got := input.CertificateName(host); got != want {
			t.Errorf("the certificate of %s has to name %s, want %s", host, got, want)
		}
	}
}

// TestSocketsNeedLittle: the directory of a socket, which may be one that holds keys, is
// neither read nor written once the socket is there.
func TestSocketsNeedLittle(t *testing.T) {
	t.Setenv("STATE_DIRECTORY", "")
	for role, want := range map[journal.Role][]string{journal.Source: {"m"}, journal.Destination: {"m", "."}} {
		c := &common{Side: input.Side{Role: role}, metrics: ui.Metrics{Address: "unix:m/s"}}
		n := c.needs(input.Endpoint{Address: "unix:s"}, nil)
		if len(n.Write) > 0 || !slices.Equal(n.Remove, want) {
			t.Errorf("role %v needs %+v, want to remove from %q", role, n, want)
		}
	}
}

// TestTimers holds the table of timers in PROTOCOL.md against the flags.
func TestTimers(t *testing.T) {
	text, err := os.ReadFile("../../../transport/PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), "\n## Timers\n")
	section, _, _ := strings.Cut(after, "\n## ")
	sides := map[string]*pflag.FlagSet{"source": newSend().root.Flags(), "destination": newRecv().root.Flags()}
	said := map[string][]string{}
	row := regexp.MustCompile(`(?m)^\| (source|destination|both) \| --(\S+) \| (\S+) \|`)
	for _, r := range row.FindAllStringSubmatch(section, -1) {
		for side, flags := range sides {
			if r[1] != side && r[1] != "both" {
				continue
			}
			said[side] = append(said[side], r[2])
			f := flags.Lookup(r[2])
			if f == nil {
				t.Errorf("the %s has no --%s", side, r[2])
				continue
			}
			if value := f.DefValue; value != r[3] && !(r[3] == "none" && value == "") && !strings.Contains(f.Usage, "default "+r[3]) {
				t.Errorf("--%s of the %s is %s by default, and %s in PROTOCOL.md", r[2], side, value, r[3])
			}
		}
	}
	// Those bound what comes before the stop, or what is kept when all is over.
	others := []string{"downtime-target", "max-precopy", "abort-after", "expire-state-after"}
	for side, flags := range sides {
		flags.VisitAll(func(f *pflag.Flag) {
			if f.Value.Type() == "duration" && !slices.Contains(said[side], f.Name) && !slices.Contains(others, f.Name) {
				t.Errorf("PROTOCOL.md has no --%s of the %s", f.Name, side)
			}
		})
	}
}
