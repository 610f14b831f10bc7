package chaos

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/migpipe/migpipe/test/chaos/relay"
)

// named are the points that a migration passes when nothing goes wrong, in the order
// of each side, see internal/failpoint.
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
		"destination.on.started", "destination.do.send.running", "destination.did.send.running", "destination.on.fin",
		"destination.do.finish", "destination.did.finish",
	},
}

// after says whether a point comes at or behind another one of its side.
func after(s side, point, other string) bool {
	return slices.Index(named[s], point) >= slices.Index(named[s], other)
}

// owner is who has the device when a side was killed at a point, "" where that
// depends on what was on its way.
func owner(s side, point string) string {
	switch {
	case s == destination && !after(s, point, "destination.did.send.ready"):
		return "source runs"
	case s == destination:
		return ""
	case !after(s, point, "source.did.append.commit"):
		return "source runs"
	case !after(s, point, "source.did.append.done"):
		return "in doubt"
	}
	return "destination runs"
}

// atPoints are two cases for each point of each side: the program is killed there,
// or stands still for a moment.
func atPoints() (list []scenario) {
	for s, points := range named {
		for _, p := range points {
			list = append(list, scenario{name: "SIGKILL at " + p, faults: []fault{{at: p, do: kill}}, orphan: true, owner: owner(side(s), p)},
				scenario{name: "SIGSTOP at " + p, faults: []fault{{at: p, do: pause(300 * time.Millisecond)}}, want: [2]end{committed, committed}})
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

// drawn is a bad network with up to two faults at points of either side. That they
// are reached is not said: one may keep the other from it.
func drawn(seed uint64) scenario {
	r := rand.New(rand.NewPCG(seed, 2))
	ms := func(most int) time.Duration { return time.Duration(r.IntN(most)) * time.Millisecond }
	share := func(most float64) float64 { return most * r.Float64() * float64(r.IntN(2)) }
	sc := scenario{quick: true, orphan: true, flags: [2][]string{source: {"--max-precopy", "10s"}}, link: relay.Link{
		Loss: share(0.02), Duplicate: share(0.02), Corrupt: share(0.01), Reorder: share(0.05), Delay: ms(15), Jitter: ms(5)}}
	text := fmt.Sprintf("seed %d:", seed)
	for range r.IntN(3) {
		points := named[r.IntN(2)]
		p, d := points[r.IntN(len(points))], ms(3000)
		deeds := []struct {
			name string
			do   deed
		}{
			{"killed", kill}, {"its peer killed", killPeer}, {"SIGTERM", terminate}, {"another address", rebind},
			{"still for " + d.String(), pause(d)}, {"cut for " + d.String(), cut(d)}, {"cut one way for " + d.String(), cut(d, relay.Direction(r.IntN(2)))},
		}
		one := deeds[r.IntN(len(deeds))]
		sc.faults = append(sc.faults, fault{at: p, do: one.do, also: true})
		text += fmt.Sprintf(" %s at %s;", one.name, p)
	}
	sc.name = text
	return sc
}

// TestRandom runs cases that are drawn; a name has the seed that draws it again.
func TestRandom(t *testing.T) {
	for i := range *draws {
		sc := drawn(*seed + uint64(i))
		sc.test(t, *seed+uint64(i))
	}
}
