package cli

import (
	"slices"
	"testing"
)

// TestSocketsNeedLittle: the folder of a socket, which may be one that holds keys, is
// neither read nor written once the socket is there.
func TestSocketsNeedLittle(t *testing.T) {
	t.Setenv("STATE_DIRECTORY", "")
	for role, want := range map[role][]string{source: {"m"}, sink: {"m", "."}} {
		c := &common{role: role, metrics: metricsFlag{address: "unix:m/s"}}
		n := c.needs(endpoint{address: "unix:s"}, nil)
		if len(n.Write) > 0 || !slices.Equal(n.Remove, want) {
			t.Errorf("role %v needs %+v, want to remove from %q", role, n, want)
		}
	}
}
