package cli

import (
	"flag"
	"fmt"
	"testing"
)

var flat = flag.Int("flat", 2, "GiB of the state that may need no more memory than 1 GiB does; zeros, and up to 8 that are random")

// collected is what a state that is longer may need beside: the heap is first
// collected when it has 40 MiB, which 1 GiB does not fill.
const collected = 40 << 20

// TestMemoryIsFlat moves a small and a large state and holds the memory that each
// program needed for them against each other.
func TestMemoryIsFlat(t *testing.T) {
	if testing.Short() || raceEnabled() {
		t.Skip("moves gigabytes and measures memory: not with -short or -race")
	}
	for content, most := range map[string]int{"zero": *flat, "random": min(*flat, 8)} {
		t.Run(content, func(t *testing.T) {
			t.Setenv("XDG_CONFIG_HOME", t.TempDir())
			sendSmall, recvSmall := moveSim(t, 1, content)
			send, recv := moveSim(t, most, content)
			if send > sendSmall+collected || recv > recvSmall+collected {
				t.Errorf("%d GiB needed %d MiB at the source and %d MiB at the destination, 1 GiB %d and %d",
					most, send>>20, recv>>20, sendSmall>>20, recvSmall>>20)
			}
		})
	}
}

// moveSim moves a simulated device and gives the memory that it took on each side.
// The migration is recorded, as it would be.
func moveSim(t *testing.T, gib int, content string) (send, recv int64) {
	r := command(t, "mig-recv", "--json", "--state-dir", t.TempDir(), "--listen", "127.0.0.1:0", "--peer", identity(t, "mig-send"), "--device", "d=sim:vgpu")
	address := listen(t, r)
	s := command(t, "mig-send", "-q", "--max-precopy", "10m", "--state-dir", t.TempDir(), "--to", address, "--peer", identity(t, "mig-recv"),
		"--device", fmt.Sprintf("d=sim:vgpu?size=%dGiB&content=%s", gib, content))
	if err := s.Run(); err != nil {
		t.Errorf("mig-send: %v", err)
	}
	if err := r.Wait(); err != nil {
		t.Errorf("mig-recv: %v", err)
	}
	send, recv = peak(t, s), peak(t, r)
	t.Logf("%d GiB of %s: mig-send %d MiB, mig-recv %d MiB", gib, content, send>>20, recv>>20)
	return send, recv
}
