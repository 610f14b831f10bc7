package chaos

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/migpipe/migpipe/test/port"
)

// TestContinue kills a program at a point where only its journal knows how far it has
// come, with a device that somebody else keeps, and starts it again as a supervisor or
// a person would. It ends as if nothing had been.
func TestContinue(t *testing.T) {
	for _, c := range []struct {
		at  string
		say []string // at the second start
	}{
		{"source.did.append.commit", nil},
		{"source.did.append.commit", []string{"--continue"}},
		{"source.on.running", nil},
		{"destination.did.append.ready", nil},
		{"destination.did.append.ready", []string{"--continue"}},
		{"destination.did.append.accept", nil},
		{"destination.do.send.running", []string{"--continue"}},
	} {
		t.Run(c.at, func(t *testing.T) {
			t.Parallel() // they wait more than they work
			dir := t.TempDir()
			args := func(s side, where ...string) []string {
				device := "d=sim:mlx5?size=1MiB&keep=" + filepath.Join(dir, s.String()+".state")
				return slices.Concat(where, []string{"--json", "--device", device, "--peer", shared.ids[1-s], "--identity", s.key(),
					"--state-dir", filepath.Join(dir, s.String())}, shared.volatile)
			}
			points := map[side]string{fault{at: c.at}.side(): c.at + "=kill"}
			address := port.Own(t)
			to := []string{"--downtime-target", "10s", "--to", address}
			d := start(t, destination, shared.bin, points[destination], nil, args(destination, "--listen", address)...)
			d.await(t, "listening")
			s := start(t, source, shared.bin, points[source], nil, args(source, to...)...)
			if points[source] != "" {
				s.wait(t)
				s = start(t, source, shared.bin, "", nil, append(args(source, to...), c.say...)...)
			} else {
				d.wait(t)
				d = start(t, destination, shared.bin, "", nil, append(args(destination, "--listen", address), c.say...)...)
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
