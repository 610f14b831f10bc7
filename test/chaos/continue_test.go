package chaos

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/migpipe/migpipe/test/port"
)

// TestContinue kills a program at a point where only its journal has the progress, while
// another process holds the device. It starts the program again with --continue. The
// migration commits.
func TestContinue(t *testing.T) {
	for _, at := range []string{
		"source.did.append.commit", "source.on.running",
		"destination.did.append.ready", "destination.did.append.accept", "destination.do.send.running",
	} {
		t.Run(at, func(t *testing.T) {
			t.Parallel() // they wait more than they work
			dir := t.TempDir()
			args := func(s side, where ...string) []string {
				device := "d=sim:mlx5?size=1MiB&keep=" + filepath.Join(dir, s.String()+".state")
				return slices.Concat(where, []string{"--json", "--device", device, "--peer", shared.ids[1-s], "--identity", s.key(),
					"--state-dir", filepath.Join(dir, s.String())}, shared.volatile)
			}
			points := map[side]string{fault{at: at}.side(): at + "=kill"}
			address := port.Own(t)
			to := []string{"--downtime-target", "10s", "--to", address}
			d := start(t, destination, shared.bin, points[destination], nil, args(destination, "--listen", address)...)
			d.await(t, "listening")
			s := start(t, source, shared.bin, points[source], nil, args(source, to...)...)
			if points[source] != "" {
				s.wait(t)
				s = start(t, source, shared.bin, "", nil, append(args(source, to...), "--continue")...)
			} else {
				d.wait(t)
				d = start(t, destination, shared.bin, "", nil, append(args(destination, "--listen", address), "--continue")...)
			}
			s.wait(t)
			d.wait(t)
			for _, p := range []*process{s, d} {
				if done := p.find("done"); p.exit() != 0 || done == nil || done.Outcome != "committed" {
					t.Errorf("not committed: %v", p)
				}
			}
			if done := d.find("done"); done == nil || len(done.Devices) != 1 || done.Devices[0].State != "RUNNING" || done.Devices[0].Verified == nil || !*done.Devices[0].Verified {
				t.Errorf("the destination's device does not run the source's state: %v", d)
			}
		})
	}
}
