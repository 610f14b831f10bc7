package chaos

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/migpipe/migpipe/test/chaos/relay"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/journal"
)

// What rows wait for.
const (
	needsResume   = "reconnect and resume"
	needsRecovery = "recovery after a restart"
	needsRescue   = "the rescue after a loss of the source's host"
)

// A device without pre-copy, whose stop takes two seconds, and where it goes.
const (
	slowStop   = "sim:xe?size=8MiB&save=4MiB/s&content=random"
	slowStopTo = "sim:xe"
)

// rows are the cases of the hand-off's table, by its numbers. Several may be of one
// row, and what is todo is listed at the end of every run.
var rows = []scenario{
	{row: 1, name: "the destination is unreachable at the start", quick: true,
		before: func(w *world) { w.now[destination].kill() },
		want:   [2]end{aborted(4), killed}, after: neverStoppedWithin(5 * time.Second)},
	{row: 2, name: "the source is not allowed at the destination", quick: true, orphan: true,
		wrong: [2]bool{destination: true}, want: [2]end{aborted(6), aborted(9)}, after: turnedAway},
	{row: 2, name: "the destination has another key", orphan: true,
		wrong: [2]bool{source: true}, want: [2]end{aborted(6), aborted(9)}, after: neverStopped},
	{row: 3, name: "a client without certificate, whose handshake succeeds", quick: true,
		before: withoutCertificate, want: [2]end{committed, committed}},
	{row: 5, name: "protocol versions that have nothing in common", quick: true,
		urls: played, play: otherVersion, want: [2]end{destination: aborted(7)}},
	{row: 6, name: "another driver", quick: true,
		urls: [2]string{destination: "sim:qat"}, want: [2]end{aborted(7), aborted(7)}, after: neverStopped},
	{row: 6, name: "other migration flags",
		urls: [2]string{destination: "sim:xe"}, want: [2]end{aborted(7), aborted(7)}, after: neverStopped},
	{row: 7, name: "the destination's device is busy", quick: true,
		urls: [2]string{destination: "sim:mlx5?fault=set@STOP-RESUMING:EBUSY"}, want: [2]end{aborted(5), aborted(3)}, after: neverStopped},
	{row: 8, name: "a second mig-send for the same migration", quick: true,
		faults: []fault{{at: "source.did.read@8", do: secondSender}}, want: [2]end{committed, committed}},
	{row: 10, name: "a second source at a destination that has one", quick: true,
		faults: []fault{{at: "source.did.read@8", do: secondSource}}, want: [2]end{committed, committed}},

	{row: 11, name: "0.1 % loss", link: relay.Link{Loss: 0.001}, want: [2]end{committed, committed}},
	{row: 11, name: "1 % loss", quick: true, link: relay.Link{Loss: 0.01}, want: [2]end{committed, committed}, after: lost},
	{row: 11, name: "1 % loss, 20 ms round trip", link: relay.Link{Loss: 0.01, Delay: 10 * time.Millisecond}, want: [2]end{committed, committed}, after: lost},
	{row: 11, name: "5 % loss, 20 ms round trip", link: relay.Link{Loss: 0.05, Delay: 10 * time.Millisecond}, want: [2]end{committed, committed}, after: lost},
	{row: 13, name: "5 % reordered, 1 % twice", quick: true, link: relay.Link{Reorder: 0.05, Duplicate: 0.01}, want: [2]end{committed, committed}},
	{row: 13, name: "1 % spoilt on the wire", quick: true, link: relay.Link{Corrupt: 0.01}, want: [2]end{committed, committed}},
	{row: 13, name: "2 MiB/s, 10 ms with 10 ms of jitter", link: relay.Link{Rate: 2 << 20, Delay: 5 * time.Millisecond, Jitter: 10 * time.Millisecond}, want: [2]end{committed, committed}},

	{row: 15, name: "a bit that is turned over after decryption", quick: true,
		spec: [2]string{destination: "destination.decoded=flip@5"}, want: [2]end{aborted(8), aborted(8)}},
	{row: 17, name: "an END that says more than came", quick: true,
		urls: played, play: truncated, want: [2]end{destination: aborted(8)}},

	{row: 18, name: "a cut of 1 s in pre-copy", quick: true,
		faults: []fault{{at: "source.did.read@8", do: cut(time.Second)}}, want: [2]end{committed, committed}},
	{row: 18, name: "a cut of 4 s in pre-copy", todo: needsResume,
		faults: []fault{{at: "source.did.read@8", do: cut(4 * time.Second)}}, want: [2]end{committed, committed}},
	{row: 20, name: "a cut of 1 s in stop-copy", quick: true, urls: [2]string{slowStop, slowStopTo},
		faults: []fault{{at: "source.did.stop", do: cut(time.Second)}}, want: [2]end{committed, committed}, after: downtimeOver(time.Second)},
	{row: 20, name: "a cut of 4 s in stop-copy", urls: [2]string{slowStop, slowStopTo}, todo: needsResume,
		faults: []fault{{at: "source.did.stop", do: cut(4 * time.Second)}}, want: [2]end{committed, committed}, after: downtimeOver(4 * time.Second)},
	{row: 21, name: "a cut for good in stop-copy", quick: true, urls: [2]string{slowStop, slowStopTo},
		faults: []fault{{at: "source.did.stop", do: cut(0)}}, want: [2]end{aborted(4), aborted(4)}, after: backWithin(10 * time.Second)},
	{row: 22, name: "a cut of 1 s between END and READY", quick: true,
		faults: []fault{{at: "destination.do.send.ready", do: cut(time.Second)}}, want: [2]end{committed, committed}},
	{row: 22, name: "a cut of 4 s between END and READY", todo: needsResume,
		faults: []fault{{at: "destination.do.send.ready", do: cut(4 * time.Second)}}, want: [2]end{committed, committed}},
	{row: 24, name: "COMMIT is lost in a cut of 1 s", quick: true,
		faults: []fault{{at: "source.do.send.commit", do: cut(time.Second)}}, want: [2]end{committed, committed}},
	{row: 24, name: "COMMIT is lost in a cut of 4 s", todo: needsResume,
		faults: []fault{{at: "source.do.send.commit", do: cut(4 * time.Second)}}, want: [2]end{committed, committed}},
	{row: 25, name: "RUNNING is lost in a cut of 1 s", quick: true,
		faults: []fault{{at: "destination.do.send.running", do: cut(time.Second, relay.Down)}}, want: [2]end{committed, committed}},
	{row: 25, name: "RUNNING is lost in a cut of 4 s", todo: needsResume,
		faults: []fault{{at: "destination.do.send.running", do: cut(4 * time.Second)}}, want: [2]end{committed, committed}},
	{row: 26, name: "cut for good when COMMIT was journaled", quick: true,
		faults: []fault{{at: "source.did.append.commit", do: cut(0)}}, want: [2]end{held, whatever}, after: notStarted},
	{row: 26, name: "cut when COMMIT was journaled, and healed: one runs", todo: needsRecovery,
		faults: []fault{{at: "source.did.append.commit", do: cut(0)}}, owner: "source runs"},
	{row: 27, name: "cut for good when COMMIT was journaled, with a witness", quick: true, witness: true, orphan: true,
		faults: []fault{{at: "source.did.append.commit", do: cut(0)}}, owner: "source runs"},
	{row: 28, name: "cut for good when ACCEPT was journaled", quick: true,
		faults: []fault{{at: "destination.did.append.accept", do: cut(0)}}, want: [2]end{held, committed}},
	{row: 28, name: "cut when ACCEPT was journaled, and healed: DONE", todo: needsRecovery,
		faults: []fault{{at: "destination.did.append.accept", do: cut(0)}}, owner: "destination runs"},
	{row: 29, name: "COMMIT of an old attempt", quick: true,
		urls: played, play: replay, want: [2]end{destination: aborted(9)}},

	{row: 31, name: "SIGTERM to mig-send before WELCOME",
		faults: []fault{{at: "source.did.sendhello", do: terminate}}, want: [2]end{aborted(9), aborted(9)}, after: neverStopped},
	{row: 31, name: "SIGTERM to mig-send in pre-copy", quick: true,
		faults: []fault{{at: "source.did.read@8", do: terminate}}, want: [2]end{aborted(9), aborted(9)}, after: neverStopped},
	{row: 31, name: "SIGTERM to mig-send in stop-copy", quick: true, urls: [2]string{slowStop, slowStopTo},
		faults: []fault{{at: "source.did.read@3", do: terminate}}, want: [2]end{aborted(9), aborted(9)}, after: backWithin(2 * time.Second)},
	{row: 31, name: "SIGTERM to mig-send after END",
		faults: []fault{{at: "source.on.drained", do: terminate}}, want: [2]end{whatever, whatever}},
	{row: 31, name: "SIGTERM to mig-recv in pre-copy",
		faults: []fault{{at: "destination.did.write@8", do: terminate}}, want: [2]end{aborted(9), aborted(9)}, after: neverStopped},
	{row: 31, name: "SIGTERM to mig-recv before READY",
		faults: []fault{{at: "destination.on.loaded", do: terminate}}, want: [2]end{whatever, whatever}},
	{row: 32, name: "SIGTERM to mig-send after COMMIT", quick: true,
		faults: []fault{{at: "source.did.send.commit", do: terminate}}, want: [2]end{committed, committed}},
	{row: 32, name: "SIGTERM to mig-send after COMMIT was journaled",
		faults: []fault{{at: "source.do.send.commit", do: terminate}}, want: [2]end{committed, committed}},
	{row: 32, name: "SIGTERM to mig-recv after ACCEPT was journaled",
		faults: []fault{{at: "destination.did.append.accept", do: terminate}}, want: [2]end{committed, committed}},

	{row: 33, name: "mig-send killed in pre-copy", quick: true,
		faults: []fault{{at: "source.did.read@8", do: kill}}, want: [2]end{killed, whatever}},
	{row: 34, name: "mig-send killed in stop-copy", quick: true, urls: [2]string{slowStop, slowStopTo},
		faults: []fault{{at: "source.did.read@3", do: kill}}, want: [2]end{killed, whatever}},
	{row: 35, name: "mig-send killed after COMMIT was journaled, and restarted: one runs", todo: needsRecovery,
		faults: []fault{{at: "source.did.append.commit", do: kill}}, want: [2]end{killed, whatever}, owner: "source runs"},
	{row: 37, name: "mig-recv killed while it loads: told by the idle timeout", quick: true,
		faults: []fault{{at: "destination.did.write@8", do: kill}}, want: [2]end{aborted(4), killed}, after: toldWithin(2200 * time.Millisecond)},
	{row: 37, name: "mig-recv killed while it loads, and restarted: told by its reset", quick: true,
		faults: []fault{{at: "destination.did.write@8", do: restart}}, want: [2]end{aborted(4), killed}, after: toldWithin(500 * time.Millisecond)},
	{row: 38, name: "mig-recv killed before READY is sent", quick: true,
		faults: []fault{{at: "destination.did.append.ready", do: kill}}, want: [2]end{aborted(4), killed}},
	{row: 38, name: "mig-recv killed when READY was sent, and restarted: DECLINED", todo: needsRecovery,
		faults: []fault{{at: "destination.did.send.ready", do: kill}}, want: [2]end{whatever, killed}, owner: "source runs"},
	{row: 39, name: "mig-recv killed between ACCEPT and the start, and restarted: it starts", todo: needsRecovery,
		faults: []fault{{at: "destination.do.start", do: kill}}, want: [2]end{whatever, killed}, owner: "destination runs"},
	{row: 40, name: "mig-recv killed between the start and RUNNING, and restarted: RUNNING", todo: needsRecovery,
		faults: []fault{{at: "destination.do.send.running", do: kill}}, want: [2]end{whatever, killed}, owner: "destination runs"},
	{row: 43, name: "the destination's host restarts when it is READY", todo: needsRecovery,
		faults: []fault{{at: "destination.did.send.ready", do: restart}}, want: [2]end{whatever, killed}, owner: "source runs"},
	{row: 43, name: "the destination's host restarts when it has accepted", todo: needsRecovery,
		faults: []fault{{at: "destination.did.append.accept", do: restart}}, want: [2]end{whatever, killed}},
	{row: 43, name: "the destination's host restarts while it loads", quick: true,
		faults: []fault{{at: "destination.did.append.open", do: restart}}, want: [2]end{aborted(4), killed}},
	{row: 44, name: "the source's host restarts with the destination READY", todo: needsRescue,
		faults: []fault{{at: "source.on.ready", do: kill}}, want: [2]end{killed, whatever}, owner: "destination runs"},
	{row: 45, name: "the destination's journal is lost before COMMIT", quick: true,
		faults: []fault{{at: "destination.did.write@8", do: kill}}, want: [2]end{aborted(4), killed}, after: loseJournal},
	{row: 45, name: "the destination's journal is lost after COMMIT", todo: needsRecovery,
		faults: []fault{{at: "destination.on.commit", do: kill}}, want: [2]end{held, killed}, after: loseJournal, owner: "in doubt"},
	{row: 46, name: "the source's disk is full", quick: true, orphan: true, full: new(source),
		want: [2]end{aborted(2), aborted(9)}, after: neverStopped},
	{row: 46, name: "the destination's disk is full", full: new(destination), quick: true, orphan: true,
		want: [2]end{aborted(5), aborted(9)}, after: neverStopped},
	{row: 48, name: "the source's OPEN is torn at every byte, before HELLO", quick: true, orphan: true,
		faults: []fault{{at: "source.do.sendhello", do: kill}}, want: [2]end{killed, aborted(9)}, after: tear(source)},
	{row: 48, name: "the destination's OPEN is torn at every byte, before WELCOME",
		faults: []fault{{at: "destination.do.sendwelcome", do: kill}}, want: [2]end{aborted(4), killed}, after: tear(destination)},
	{row: 48, name: "READY is torn at every byte, before it is sent", quick: true,
		faults: []fault{{at: "destination.do.send.ready", do: kill}}, want: [2]end{aborted(4), killed}, after: tear(destination)},
	{row: 50, name: "mig-recv killed in the middle of a file: resumes from what was synced", todo: needsResume,
		faults: []fault{{at: "destination.did.write@8", do: restart}}, want: [2]end{committed, whatever}},

	{row: 51, name: "the source's read fails with EIO", quick: true,
		urls: [2]string{source: defaultSource + "&fault=read@3MiB:EIO"}, want: [2]end{aborted(3), aborted(5)}, after: says(source, "input/output error")},
	{row: 51, name: "the source's read fails with ENODEV",
		urls: [2]string{source: defaultSource + "&fault=read@3MiB:ENODEV"}, want: [2]end{aborted(3), aborted(5)}, after: says(source, "no such device")},
	{row: 52, name: "an estimate of 64 times the state", quick: true, urls: [2]string{"sim:pds?size=1KiB", "sim:pds"}, want: [2]end{committed, committed}},
	{row: 52, name: "an estimate that changes all the time",
		urls: [2]string{source: "sim:mlx5?size=8MiB&save=16MiB/s&dirty=12MiB/s"}, flags: [2][]string{source: {"--max-rounds", "3"}}, want: [2]end{committed, committed}},
	{row: 54, name: "the destination's write fails with EIO", quick: true,
		urls: [2]string{destination: "sim:mlx5?fault=write@3MiB:EIO"}, want: [2]end{aborted(5), aborted(3)}, after: says(source, "input/output error")},
	{row: 54, name: "the destination's write is short",
		urls: [2]string{destination: "sim:mlx5?fault=short@3MiB"}, want: [2]end{aborted(5), aborted(3)}},
	{row: 54, name: "the destination's write fails with EAGAIN",
		urls: [2]string{destination: "sim:mlx5?fault=write@3MiB:EAGAIN"}, want: [2]end{aborted(5), aborted(3)}},
	{row: 55, name: "the destination's device refuses the state", quick: true,
		urls: [2]string{destination: "sim:mlx5?fault=set@RESUMING-STOP:EINVAL"}, want: [2]end{aborted(5), aborted(3)}, after: backWithin(2 * time.Second)},
	{row: 56, name: "the destination's device does not start", quick: true,
		urls: [2]string{destination: "sim:mlx5?fault=set@RUNNING_P2P-RUNNING:EIO"}, want: [2]end{aborted(5), aborted(3)}},
	{row: 58, name: "a destination that takes 1 MiB/s",
		urls: [2]string{"sim:mlx5?size=6MiB&content=random", "sim:mlx5?load=1MiB/s"}, flags: [2][]string{source: {"--max-downtime", "30s"}}, want: [2]end{committed, committed}},
	{row: 60, name: "a frame of 4 GiB", quick: true, urls: played, want: [2]end{destination: aborted(5)},
		play: hostileFrame(func(c *transport.Chunk) { c.RawLen = 1<<32 - 1 })},
	{row: 60, name: "a frame of nothing", urls: played, want: [2]end{destination: aborted(5)},
		play: hostileFrame(func(c *transport.Chunk) { c.RawLen, c.WireLen = 0, 0 })},
	{row: 60, name: "a frame at a negative offset", urls: played, want: [2]end{destination: aborted(5)},
		play: hostileFrame(func(c *transport.Chunk) { c.Offset = 1<<64 - 1 })},
	{row: 60, name: "frames that overlap", quick: true, urls: played, want: [2]end{destination: aborted(5)}, play: overlapping},
	{row: 62, name: "a control message of 16 KiB + 1", quick: true, urls: played, want: [2]end{destination: aborted(5)}, play: longMessage},
	{row: 62, name: "COMMIT in the wrong state", urls: played, want: [2]end{destination: aborted(5)}, play: wrongState},
	{row: 64, name: "TLS resumption and 0-RTT", elsewhere: "transport, TestQUICHasNo0RTT: a stranger has no key to try it with"},
	{row: 65, name: "the source's address changes in pre-copy", quick: true,
		faults: []fault{{at: "source.did.read@8", do: rebind}}, want: [2]end{committed, committed}},
	{row: 65, name: "the source's address changes in stop-copy", urls: [2]string{slowStop, slowStopTo},
		faults: []fault{{at: "source.did.read@3", do: rebind}}, want: [2]end{committed, committed}},
	{row: 65, name: "the source's address changes before COMMIT",
		faults: []fault{{at: "source.on.ready", do: rebind}}, want: [2]end{committed, committed}},
	{row: 67, name: "the wall clock jumps", todo: "a clock that a test may set: there are no namespaces for CLOCK_REALTIME"},

	{name: "mig-send stands still for 1 s in pre-copy", quick: true,
		faults: []fault{{at: "source.did.read@8", do: pause(time.Second)}}, want: [2]end{committed, committed}},
	{name: "mig-send stands still for 4 s in pre-copy", todo: needsResume,
		faults: []fault{{at: "source.did.read@8", do: pause(4 * time.Second)}}, want: [2]end{committed, committed}},
	{name: "mig-recv stands still for 1 s while it loads", quick: true,
		faults: []fault{{at: "destination.did.write@8", do: pause(time.Second)}}, want: [2]end{committed, committed}},
	{name: "both stand still for 1 s", faults: []fault{{at: "source.on.ready", do: pause(time.Second)}, {at: "destination.did.send.ready", do: pause(time.Second)}},
		want: [2]end{committed, committed}},
}

// played are the devices where the test is the source: a file takes any bytes.
var played = [2]string{destination: "file:PLAYED.state"}

func TestRows(t *testing.T) {
	for i := range rows {
		rows[i].test(t, *seed)
	}
}

// TestRowsAreAll: the table has every row of the hand-off's.
func TestRowsAreAll(t *testing.T) {
	want := []int{1, 2, 3, 5, 6, 7, 8, 10, 11, 13, 15, 17, 18, 20, 21, 22, 24, 25, 26, 27, 28, 29, 31, 32, 33, 34, 35, 37, 38, 39, 40,
		43, 44, 45, 46, 48, 50, 51, 52, 54, 55, 56, 58, 60, 62, 64, 65, 67} // 70 is behind each
	names := map[string]bool{}
	for _, sc := range rows {
		if sc.row > 0 && !slices.Contains(want, sc.row) {
			t.Errorf("row %d is not in the table", sc.row)
		}
		if names[sc.name] {
			t.Errorf("two rows have the name %q", sc.name)
		}
		names[sc.name] = true
		if sc.elsewhere == "" && sc.row != 67 && reflect.DeepEqual(sc, scenario{row: sc.row, name: sc.name, quick: sc.quick, todo: sc.todo, want: sc.want, owner: sc.owner}) {
			t.Errorf("in row %d, %q, nothing goes wrong", sc.row, sc.name)
		}
	}
	for _, n := range want {
		if !slices.ContainsFunc(rows, func(sc scenario) bool { return sc.row == n }) {
			t.Errorf("row %d has no case", n)
		}
	}
}

// stops are the moments at which the source's device left the running states.
func stops(e evidence) (at []int64) {
	for _, l := range e.log[source] {
		if l.Err == "" && mayRun(l.From) && !mayRun(l.To) {
			at = append(at, l.NS)
		}
	}
	return at
}

func neverStopped(w *world, e evidence) {
	w.t.Helper()
	if len(e.log[source]) == 0 && w.now[source].exit() != 2 {
		w.t.Error("the source's device has no log")
	}
	if at := stops(e); len(at) > 0 {
		w.t.Errorf("the source was stopped at %v", at)
	}
}

// leeway is what a loaded machine may add to a time.
const leeway = time.Second

func neverStoppedWithin(limit time.Duration) func(*world, evidence) {
	return func(w *world, e evidence) {
		w.t.Helper()
		neverStopped(w, e)
		if took := time.Duration(w.now[source].exited - w.now[source].started); took > limit+leeway {
			w.t.Errorf("it took %v, limit %v", took, limit)
		}
	}
}

// turnedAway: the destination says who was not let in.
func turnedAway(w *world, e evidence) {
	w.t.Helper()
	neverStopped(w, e)
	warnings := strings.Join(w.now[destination].find("done").Warnings, " ")
	if !strings.Contains(warnings, "turned a peer away") || !strings.Contains(warnings, shared.ids[source][:12]) {
		w.t.Errorf("the destination warns of %q, not of %s", warnings, shared.ids[source])
	}
}

// backWithin: the source stood still no longer than that, and runs.
func backWithin(limit time.Duration) func(*world, evidence) {
	return func(w *world, e evidence) {
		w.t.Helper()
		at := stops(e)
		last := e.log[source][len(e.log[source])-1]
		if len(at) == 0 || last.Event != "close" || last.To != "RUNNING" {
			w.t.Fatalf("stopped at %v, and then %+v", at, last)
		}
		for _, l := range e.log[source] {
			if l.NS > at[len(at)-1] && l.Err == "" && mayRun(l.To) {
				if took := time.Duration(l.NS - at[len(at)-1]); took > limit+leeway {
					w.t.Errorf("the source stood still for %v, limit %v", took, limit)
				}
				return
			}
		}
	}
}

func downtimeOver(least time.Duration) func(*world, evidence) {
	return func(w *world, _ evidence) {
		w.t.Helper()
		done := w.now[source].find("done")
		if got := time.Duration(done.DowntimeMS * 1e6); got < least {
			w.t.Errorf("a downtime of %v, in which nothing passed for %v", got, least)
		}
	}
}

// toldWithin: the source had heard of the destination's end by then.
func toldWithin(limit time.Duration) func(*world, evidence) {
	return func(w *world, _ evidence) {
		w.t.Helper()
		if took := time.Duration(w.now[source].exited - w.now[destination].exited); took > limit+leeway {
			w.t.Errorf("the source ended %v after the destination, limit %v", took, limit)
		}
	}
}

func notStarted(w *world, e evidence) {
	w.t.Helper()
	if runs := e.executions(); len(runs) > 0 {
		w.t.Errorf("the destination has started: %+v", runs)
	}
}

func says(s side, text string) func(*world, evidence) {
	return func(w *world, _ evidence) {
		w.t.Helper()
		if e := w.now[s].find("done").Error; e == nil || !strings.Contains(e.Text, text) {
			w.t.Errorf("%v says %+v, want %q", s, e, text)
		}
	}
}

// lost: the network was as bad as it was meant to be.
func lost(w *world, _ evidence) {
	w.t.Helper()
	if c := w.relay.Counts(relay.Up); c.Lost == 0 {
		w.t.Errorf("nothing was lost: %+v", c)
	}
}

// secondSender runs mig-send for a migration that another one works on.
func secondSender(w *world, p *process) {
	w.look()
	second := w.beside(source, w.state[source], "--to", w.relay.Addr(), "--migration", w.mig.String())
	second.wait(w.t)
	if e := second.find("done").Error; second.exit() == 0 || e == nil || !strings.Contains(e.Text, "in use by another process") {
		w.t.Errorf("a second mig-send: %v", second)
	}
}

// secondSource runs another migration to a destination that is busy.
func secondSource(w *world, _ *process) {
	state := filepath.Join(w.dir, "second")
	if err := os.Mkdir(state, 0o700); err != nil {
		w.t.Error(err)
	}
	second := w.beside(source, state, "--to", w.relay.Addr())
	second.wait(w.t)
	if e := second.find("done").Error; second.exit() != 5 || e == nil || e.Code != "limit" && e.Code != "busy" {
		w.t.Errorf("a second source: %v", second)
	}
	os.RemoveAll(state)
}

// restart kills a program and runs it again, at once.
func restart(w *world, p *process) {
	p.kill()
	<-p.done
	w.spare = w.beside(destination, w.state[destination], "--listen", w.address)
	w.spare.await(w.t, "listening")
}

func loseJournal(w *world, _ evidence) {
	if err := os.Remove(filepath.Join(w.state[destination], journal.Name(journal.Destination, w.mig))); err != nil {
		w.t.Error(err)
	}
}

// tear has the last record of a side, which was not announced, end at each of its
// bytes in turn: the one before it counts.
func tear(of side) func(*world, evidence) {
	return func(w *world, e evidence) {
		w.t.Helper()
		const length = 256
		whole := len(e.records[of]) - 1
		path := filepath.Join(w.state[of], journal.Name(of.role(), w.mig))
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			w.t.Fatal(err)
		}
		defer f.Close()
		for at := length - 1; at >= 0; at-- {
			if _, err := f.WriteAt([]byte{0}, int64(whole*length+at)); err != nil {
				w.t.Fatal(err)
			}
			left, err := journal.Read(path)
			if zero := at >= 252; err == nil && len(left) > whole && !zero || err != nil {
				w.t.Fatalf("torn at byte %d: %d records are left of %d: %v", at, len(left), whole+1, err)
			}
		}
	}
}
