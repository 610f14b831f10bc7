package chaos

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/migpipe/migpipe/test/chaos/relay"
)

// named are the points that a migration without faults passes, in the order of each side,
// see internal/failpoint.
var named = [2][]string{
	{
		"source.on.begin", "source.do.append.open", "source.did.append.open", "source.do.sendhello", "source.did.sendhello",
		"source.on.welcome", "source.did.read", "source.did.read@20", "source.did.stop", "source.on.drained", "source.on.ready",
		"source.do.append.commit", "source.did.append.commit", "source.do.send.commit", "source.did.send.commit",
		"source.on.running", "source.do.append.done", "source.did.append.done", "source.do.send.fin", "source.did.send.fin",
		"source.do.release", "source.do.finish", "source.did.finish",
	},
	{
		"destination.on.offered", "destination.do.append.open", "destination.did.append.open", "destination.do.sendwelcome",
		"destination.did.sendwelcome", "destination.did.write", "destination.did.write@20", "destination.on.loaded",
		"destination.do.append.ready", "destination.did.append.ready", "destination.do.send.ready", "destination.did.send.ready",
		"destination.on.commit", "destination.do.append.accept", "destination.did.append.accept", "destination.do.start",
		"destination.on.started", "destination.do.send.running", "destination.did.send.running", "destination.did.append.running",
		"destination.on.fin", "destination.do.finish", "destination.did.finish",
	},
}

// after reports whether a point is at or behind another one of its side.
func after(s side, point, other string) bool {
	return slices.Index(named[s], point) >= slices.Index(named[s], other)
}

// owner is the side that has the device after a side's program was killed at a point and
// started again, "" if that depends on the messages in flight. It is the hand-off's matrix
// of failures, with one exception: a source that was killed before COMMIT returns its
// device to RUNNING and tries again, unless its device is new and the destination has a
// whole copy.
func owner(s side, point string, host bool) string {
	const ready, accepted, running = "destination.did.append.ready", "destination.did.append.accept", "destination.did.append.running"
	switch {
	case s == source && host && point == "source.on.drained": // READY may be on its way
		return ""
	case s == source && host && after(s, point, "source.on.ready") && !after(s, point, "source.did.append.commit"):
		return "source runs"
	case s == source:
		return "destination runs"
	case !after(s, point, "destination.did.append.open"): // the source says HELLO again
		return "destination runs"
	case !after(s, point, ready), host && !after(s, point, accepted):
		return "source runs"
	case !host, after(s, point, running):
		return "destination runs"
	case after(s, point, "destination.did.send.running"):
		return ""
	}
	return "in doubt" // it was accepted, and is LOST
}

// atPoints are three cases for each point of each side. The program is paused for a
// moment; it is killed and started again, with a device that is kept; or its host is
// lost, and the device with it.
func atPoints() (list []scenario) {
	flags := [2][]string{source: {"--doubt-for", "4s"}}
	for s, points := range named {
		for _, p := range points {
			list = append(list,
				scenario{name: "SIGSTOP at " + p, faults: []fault{{at: p, do: pause(300 * time.Millisecond)}}, want: [2]end{committed, committed}},
				scenario{name: "restart at " + p, kept: true, flags: flags, faults: []fault{{at: p, do: restarts(0)}}, owner: owner(side(s), p, false)},
				scenario{name: "reboot at " + p, kept: true, flags: flags, faults: []fault{{at: p, do: reboots(0)}}, owner: owner(side(s), p, true)})
		}
	}
	return list
}

// TestPoints stops and kills each program at each point, or at some that are drawn.
func TestPoints(t *testing.T) {
	list := atPoints()
	random := rand.New(rand.NewPCG(*seed, 1))
	for range quickPoints {
		list[random.IntN(len(list))].quick = true
	}
	for i := range list {
		list[i].test(t, *seed)
	}
}

// quickPoints is how many of them CI runs, at most.
const quickPoints = 8

// drawn is a bad network with up to three faults at points of either side, and devices
// that may be kept. A point need not be reached: one fault may prevent the other.
func drawn(seed uint64) scenario {
	r := rand.New(rand.NewPCG(seed, 2))
	ms := func(most int) time.Duration { return time.Duration(r.IntN(most)) * time.Millisecond }
	share := func(most float64) float64 { return most * r.Float64() * float64(r.IntN(2)) }
	sc := scenario{quick: true, kept: r.IntN(2) == 0, flags: [2][]string{source: {"--max-precopy", "10s", "--doubt-for", "12s"}}, link: relay.Link{
		Loss: share(0.02), Duplicate: share(0.02), Corrupt: share(0.01), Reorder: share(0.05), Delay: ms(15), Jitter: ms(5)}}
	text := fmt.Sprintf("seed %d:", seed)
	if sc.kept {
		text += " kept;"
	}
	for range r.IntN(4) {
		points := named[r.IntN(2)]
		p, d, soon := points[r.IntN(len(points))], ms(6000), ms(1500)
		actions := []struct {
			name string
			do   action
		}{
			{"restarted after " + soon.String(), restarts(soon)}, {"rebooted in " + soon.String(), reboots(soon)},
			{"its peer restarted after " + soon.String(), toPeer(restarts(soon))}, {"its peer rebooted in " + soon.String(), toPeer(reboots(soon))},
			{"SIGTERM", terminate}, {"another address", rebind}, {"still for " + d.String(), pause(d)},
			{"cut for " + d.String(), cut(d)}, {"cut one way for " + d.String(), cut(d, relay.Direction(r.IntN(2)))},
			{"restarted in a cut of " + d.String(), each(cut(d), restarts(soon))}, {"its peer rebooted in a cut of " + d.String(), each(cut(d), toPeer(reboots(soon)))},
		}
		one := actions[r.IntN(len(actions))]
		sc.faults = append(sc.faults, fault{at: p, do: one.do, also: true})
		text += fmt.Sprintf(" %s at %s;", one.name, p)
	}
	sc.name = text
	return sc
}

// TestRandom runs random cases. The name of a case has its seed.
func TestRandom(t *testing.T) {
	for i := range *draws {
		sc := drawn(*seed + uint64(i))
		sc.test(t, *seed+uint64(i))
	}
}
