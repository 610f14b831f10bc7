package chaos

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/test/chaos/relay"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/journal"
)

// A device without pre-copy, whose stop takes two seconds, and its destination.
const (
	slowStop   = "sim:xe?size=8MiB&save=4MiB/s&content=random"
	slowStopTo = "sim:xe"
)

// rows are the cases of the hand-off's table, by its numbers. A row may have several cases.
var rows = []scenario{
	{row: 1, name: "the destination is unreachable at the start", quick: true,
		before: func(w *cluster) { w.process(destination).kill() },
		want:   [2]end{aborted(4), killed}, after: neverStoppedWithin(5 * time.Second)},
	{row: 2, name: "the source is not allowed at the destination", quick: true, orphan: true,
		wrong: [2]bool{destination: true}, want: [2]end{aborted(6), aborted(9)}, after: reportsRefusal},
	{row: 2, name: "the destination has another key", orphan: true,
		wrong: [2]bool{source: true}, want: [2]end{aborted(6), aborted(9)}, after: neverStopped},
	{row: 3, name: "a client without certificate, whose handshake succeeds", quick: true,
		before: withoutCertificate, want: [2]end{committed, committed}},
	{row: 5, name: "protocol versions that have nothing in common", quick: true, orphan: true,
		urls: driven, drive: otherVersion, want: [2]end{destination: aborted(9)}},
	{row: 6, name: "another driver", quick: true, orphan: true,
		urls: [2]string{destination: "sim:qat"}, want: [2]end{aborted(7), aborted(9)}, after: neverStopped},
	{row: 6, name: "other migration flags", orphan: true,
		urls: [2]string{destination: "sim:xe"}, want: [2]end{aborted(7), aborted(9)}, after: neverStopped},
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
		urls: driven, drive: truncated, want: [2]end{destination: aborted(8)}},

	{row: 18, name: "a cut of 1 s in pre-copy", quick: true,
		faults: []fault{{at: "source.did.read@8", do: cut(time.Second)}}, want: [2]end{committed, committed}, after: attempts(1)},
	{row: 18, name: "a cut of 4 s in pre-copy", quick: true,
		faults: []fault{{at: "source.did.read@8", do: cut(4 * time.Second)}}, want: [2]end{committed, committed}, after: attempts(1)},
	{row: 18, name: "a cut of 4 s in pre-copy, back from the destination only",
		faults: []fault{{at: "source.did.read@8", do: cut(4*time.Second, relay.Down)}}, want: [2]end{committed, committed}, after: attempts(1)},
	{row: 20, name: "a cut of 1 s in stop-copy", quick: true, urls: [2]string{slowStop, slowStopTo},
		faults: []fault{{at: "source.did.stop", do: cut(time.Second)}}, want: [2]end{committed, committed}, after: allOf(attempts(1), downtimeOver(time.Second))},
	{row: 20, name: "a cut of 4 s in stop-copy", quick: true, urls: [2]string{slowStop, slowStopTo},
		faults: []fault{{at: "source.did.stop", do: cut(4 * time.Second)}}, want: [2]end{committed, committed}, after: allOf(attempts(1), downtimeOver(4*time.Second))},
	{row: 21, name: "a cut for good in stop-copy, the downtime's limit", quick: true, urls: [2]string{slowStop, slowStopTo},
		flags:  [2][]string{source: {"--downtime-target", "4s", "--resume-after", "4s"}},
		faults: []fault{{at: "source.did.stop", do: cut(0)}}, want: [2]end{aborted(10), aborted(4)}, after: allOf(backWithin(4*time.Second), notBackBefore(4*time.Second))},
	{row: 21, name: "a cut for good in stop-copy, the limit of dialling again", urls: [2]string{slowStop, slowStopTo},
		flags:  [2][]string{source: {"--reconnect-for", "2s"}},
		faults: []fault{{at: "source.did.stop", do: cut(0)}}, want: [2]end{aborted(4), aborted(4)}, after: allOf(backWithin(4500*time.Millisecond), notBackBefore(2*time.Second))},
	{row: 20, name: "the path loses long packets from pre-copy on",
		faults: []fault{{at: "source.did.read@8", do: narrow}}, want: [2]end{committed, committed}, after: attempts(1)},
	{row: 20, name: "the path loses long packets from stop-copy on", urls: [2]string{slowStop, slowStopTo},
		faults: []fault{{at: "source.did.stop", do: narrow}}, want: [2]end{committed, committed}, after: attempts(1)},
	{row: 22, name: "a cut of 1 s between END and READY", quick: true,
		faults: []fault{{at: "destination.do.send.ready", do: cut(time.Second)}}, want: [2]end{committed, committed}, after: attempts(1)},
	{row: 22, name: "a cut of 4 s between END and READY", quick: true,
		faults: []fault{{at: "destination.do.send.ready", do: cut(4 * time.Second)}}, want: [2]end{committed, committed}, after: allOf(attempts(1), downtimeOver(4*time.Second))},
	{row: 24, name: "COMMIT is lost in a cut of 1 s", quick: true,
		faults: []fault{{at: "source.do.send.commit", do: cut(time.Second)}}, want: [2]end{committed, committed}, after: attempts(1)},
	{row: 24, name: "COMMIT is lost in a cut of 4 s", quick: true,
		faults: []fault{{at: "source.do.send.commit", do: cut(4 * time.Second)}}, want: [2]end{committed, committed}, after: allOf(attempts(1), downtimeOver(4*time.Second))},
	{row: 25, name: "RUNNING is lost in a cut of 1 s", quick: true,
		faults: []fault{{at: "destination.do.send.running", do: cut(time.Second, relay.Down)}}, want: [2]end{committed, committed}, after: attempts(1)},
	{row: 25, name: "RUNNING is lost in a cut of 4 s", quick: true,
		faults: []fault{{at: "destination.do.send.running", do: cut(4 * time.Second)}}, want: [2]end{committed, committed}, after: attempts(1)},
	{row: 26, name: "cut for good when COMMIT was journaled, and asked again after that", quick: true, kept: true,
		flags:  [2][]string{source: {"--doubt-for", "3s"}},
		faults: []fault{{at: "source.did.append.commit", do: cut(0)}}, want: [2]end{held, waiting}, after: notStarted, owner: "destination runs"},
	{row: 26, name: "cut for good when COMMIT was journaled, and the source frees its device",
		flags:  [2][]string{source: {"--doubt-for", "3s"}},
		faults: []fault{{at: "source.did.append.commit", do: cut(0)}}, want: [2]end{held, waiting}, after: notStarted, owner: "destination runs"},
	{row: 26, name: "cut for 4 s when COMMIT was journaled",
		faults: []fault{{at: "source.did.append.commit", do: cut(4 * time.Second)}}, want: [2]end{committed, committed}, after: attempts(1)},
	{row: 26, name: "cut for 8 s when COMMIT was journaled: the source asks for its devices", quick: true,
		faults: []fault{{at: "source.did.append.commit", do: cut(8 * time.Second)}}, want: [2]end{aborted(9), aborted(9)}, after: notStarted, owner: "source runs"},
	{row: 26, name: "cut for good when COMMIT was journaled, the destination's lease ends, and it is asked again after that", quick: true, kept: true,
		flags:  [2][]string{source: {"--doubt-for", "4s"}, destination: {"--discard-ready-after", "2s"}},
		faults: []fault{{at: "source.did.append.commit", do: cut(0)}}, want: [2]end{held, aborted(10)}, after: notStarted, owner: "source runs"},
	{row: 27, name: "cut for good when COMMIT was journaled, with a witness", quick: true, witness: true, orphan: true,
		faults: []fault{{at: "source.did.append.commit", do: cut(0)}}, want: [2]end{aborted(10), held}, after: notStarted, owner: "source runs"},
	{row: 27, name: "cut for 8 s when ACCEPT was journaled, with a witness", witness: true, flags: [2][]string{destination: {"--reconnect-for", "30s"}},
		faults: []fault{{at: "destination.did.append.accept", do: cut(8 * time.Second)}}, want: [2]end{committed, committed}, after: attempts(1)},
	{row: 28, name: "cut for good when ACCEPT was journaled, and asked again after that", quick: true, kept: true,
		flags:  [2][]string{source: {"--doubt-for", "3s"}},
		faults: []fault{{at: "destination.did.append.accept", do: cut(0)}}, want: [2]end{held, committed}, owner: "destination runs"},
	{row: 28, name: "cut for good when ACCEPT was journaled, and the source frees its device",
		flags:  [2][]string{source: {"--doubt-for", "3s"}},
		faults: []fault{{at: "destination.did.append.accept", do: cut(0)}}, want: [2]end{held, committed}, owner: "destination runs"},
	{row: 28, name: "cut for 4 s when ACCEPT was journaled",
		faults: []fault{{at: "destination.did.append.accept", do: cut(4 * time.Second)}}, want: [2]end{committed, committed}, after: attempts(1)},
	{row: 28, name: "cut for 8 s when ACCEPT was journaled: the source asks for its devices", flags: [2][]string{destination: {"--reconnect-for", "30s"}},
		faults: []fault{{at: "destination.did.append.accept", do: cut(8 * time.Second)}}, want: [2]end{committed, committed}, after: attempts(1)},
	{row: 29, name: "COMMIT of an old attempt", quick: true,
		urls: driven, drive: replay, want: [2]end{destination: aborted(9)}},

	{row: 31, name: "SIGTERM to mig-send before WELCOME",
		faults: []fault{{at: "source.did.sendhello", do: terminate}}, want: [2]end{aborted(9), aborted(9)}, after: neverStopped},
	{row: 31, name: "SIGTERM to mig-send in pre-copy", quick: true,
		faults: []fault{{at: "source.did.read@8", do: terminate}}, want: [2]end{aborted(9), aborted(9)}, after: neverStopped},
	{row: 31, name: "SIGTERM to mig-send in stop-copy", quick: true, urls: [2]string{slowStop, slowStopTo},
		faults: []fault{{at: "source.did.read@3", do: terminate}}, want: [2]end{aborted(9), aborted(9)}, after: backWithin(2 * time.Second)},
	{row: 31, name: "SIGTERM to mig-send after END",
		faults: []fault{{at: "source.on.drained", do: terminate}}, want: [2]end{anyEnd, anyEnd}},
	{row: 31, name: "SIGTERM to mig-recv in pre-copy",
		faults: []fault{{at: "destination.did.write@8", do: terminate}}, want: [2]end{aborted(9), aborted(9)}, after: neverStopped},
	{row: 31, name: "SIGTERM to mig-recv before READY",
		faults: []fault{{at: "destination.on.loaded", do: terminate}}, want: [2]end{anyEnd, anyEnd}},
	{row: 31, name: "SIGTERM to mig-recv when READY was sent, in a cut of 4 s: the source learns it after the cut", quick: true,
		faults: []fault{{at: "destination.do.send.ready", do: each(cut(4*time.Second), terminate)}}, want: [2]end{aborted(9), aborted(9)}, after: allOf(notStarted, says(destination, "stays for its source"))},
	{row: 32, name: "SIGTERM to mig-send after COMMIT", quick: true,
		faults: []fault{{at: "source.did.send.commit", do: terminate}}, want: [2]end{committed, committed}},
	{row: 32, name: "SIGTERM to mig-send after COMMIT was journaled",
		faults: []fault{{at: "source.do.send.commit", do: terminate}}, want: [2]end{committed, committed}},
	{row: 32, name: "SIGTERM to mig-recv after ACCEPT was journaled",
		faults: []fault{{at: "destination.did.append.accept", do: terminate}}, want: [2]end{committed, committed}},

	{row: 33, name: "mig-send killed in pre-copy",
		faults: []fault{{at: "source.did.read@8", do: kill}}, want: [2]end{killed, aborted(4)}, owner: "source runs"},
	{row: 33, name: "mig-send killed in pre-copy, and restarted: it tries again", quick: true, kept: true,
		faults: []fault{{at: "source.did.read@8", do: restarts(0)}}, want: [2]end{committed, committed}, after: allOf(attempts(2), takenBackBefore(2))},
	{row: 34, name: "mig-send killed in stop-copy, its device kept: the next one takes it back", kept: true, urls: [2]string{slowStop, slowStopTo},
		faults: []fault{{at: "source.did.read@3", do: kill}}, want: [2]end{killed, aborted(4)}, owner: "source runs"},
	{row: 34, name: "mig-send killed in stop-copy, and restarted: it tries again", quick: true, kept: true, urls: [2]string{slowStop, slowStopTo},
		faults: []fault{{at: "source.did.read@3", do: restarts(time.Second)}}, want: [2]end{committed, committed}, after: allOf(attempts(2), takenBackBefore(2))},
	{row: 34, name: "mig-send killed on its way back after END, before its devices run, and restarted", kept: true,
		faults: []fault{{at: "source.on.drained", do: terminate}, {at: "source.did.append.owner", do: restarts(0), also: true}}, want: [2]end{anyEnd, anyEnd}},
	{row: 34, name: "mig-send killed on its way back after END, before ABORT, and restarted", kept: true,
		faults: []fault{{at: "source.on.drained", do: terminate}, {at: "source.do.send.abort", do: restarts(0), also: true}}, want: [2]end{anyEnd, anyEnd}},
	{row: 34, name: "the source's host lost on its way back after END", kept: true,
		faults: []fault{{at: "source.on.drained", do: terminate}, {at: "source.did.append.owner", do: reboots(0), also: true}}, want: [2]end{anyEnd, anyEnd}},
	{row: 35, name: "mig-send killed after COMMIT was journaled, and restarted: it is sent", quick: true, kept: true,
		faults: []fault{{at: "source.did.append.commit", do: restarts(0)}}, want: [2]end{committed, committed}, after: attempts(1), owner: "destination runs"},
	{row: 35, name: "mig-send killed after COMMIT was sent, and restarted", kept: true,
		faults: []fault{{at: "source.did.send.commit", do: restarts(0)}}, want: [2]end{committed, committed}, after: attempts(1), owner: "destination runs"},
	{row: 37, name: "mig-recv killed while it loads: told by the idle timeout, and dialled for a time", quick: true,
		faults: []fault{{at: "destination.did.write@8", do: kill}}, want: [2]end{aborted(4), killed}, after: endKnownWithin(7200 * time.Millisecond)},
	{row: 37, name: "mig-recv killed in stop-copy: the source dials it for the whole downtime limit", urls: [2]string{slowStop, slowStopTo},
		flags:  [2][]string{source: {"--downtime-target", "4s", "--resume-after", "4s"}},
		faults: []fault{{at: "destination.did.write@4", do: kill}}, want: [2]end{aborted(10), killed}, after: allOf(backWithin(4*time.Second), notBackBefore(4*time.Second))},
	{row: 37, name: "mig-recv killed while it loads, and restarted: told by its reset", quick: true,
		faults: []fault{{at: "destination.did.write@8", do: restarts(0)}}, want: [2]end{aborted(5), waiting}, after: endKnownWithin(500 * time.Millisecond), owner: "source runs"},
	{row: 37, name: "mig-recv killed while it loads, and restarted with its device kept", kept: true,
		faults: []fault{{at: "destination.did.write@8", do: restarts(0)}}, want: [2]end{aborted(5), waiting}, after: endKnownWithin(500 * time.Millisecond), owner: "source runs"},
	{row: 38, name: "mig-recv killed before READY is sent", quick: true,
		faults: []fault{{at: "destination.did.append.ready", do: kill}}, want: [2]end{aborted(4), killed}},
	{row: 38, name: "mig-recv killed before READY is sent, and restarted with its device kept: READY", quick: true, kept: true,
		faults: []fault{{at: "destination.did.append.ready", do: restarts(0)}}, want: [2]end{committed, committed}, after: attempts(1)},
	{row: 38, name: "mig-recv killed when READY was sent, and restarted with its device kept: READY", kept: true,
		faults: []fault{{at: "destination.did.send.ready", do: restarts(0)}}, want: [2]end{committed, committed}, after: attempts(1)},
	{row: 38, name: "mig-recv killed when READY was sent, and restarted: DECLINED", quick: true,
		faults: []fault{{at: "destination.did.send.ready", do: restarts(0)}}, want: [2]end{aborted(5), waiting}, after: notStarted, owner: "source runs"},
	{row: 39, name: "mig-recv killed between ACCEPT and the start, and restarted: it starts", quick: true, kept: true,
		faults: []fault{{at: "destination.do.start", do: restarts(0)}}, want: [2]end{committed, committed}, after: attempts(1), owner: "destination runs"},
	{row: 40, name: "mig-recv killed between the start and RUNNING, and restarted: RUNNING", quick: true, kept: true,
		faults: []fault{{at: "destination.do.send.running", do: restarts(0)}}, want: [2]end{committed, committed}, after: attempts(1), owner: "destination runs"},
	{row: 38, name: "mig-recv killed when READY was recorded, of a file, and restarted: READY", quick: true, urls: filed, before: writeFile,
		faults: []fault{{at: "destination.did.append.ready", do: restarts(0)}}, want: [2]end{committed, committed}, after: allOf(attempts(1), sameFile)},
	{row: 38, name: "mig-recv killed when READY was sent, of a file, and restarted: READY", urls: filed, before: writeFile,
		faults: []fault{{at: "destination.did.send.ready", do: restarts(0)}}, want: [2]end{committed, committed}, after: allOf(attempts(1), sameFile)},
	{row: 39, name: "mig-recv killed between ACCEPT and the start, of a file, and restarted: it gets its name", quick: true, urls: filed, before: writeFile,
		faults: []fault{{at: "destination.do.start", do: restarts(0)}}, want: [2]end{committed, committed}, after: allOf(attempts(1), sameFile)},
	{row: 40, name: "mig-recv killed when a file has its name, and restarted: RUNNING", quick: true, urls: filed, before: writeFile,
		faults: []fault{{at: "destination.do.send.running", do: restarts(0)}}, want: [2]end{committed, committed}, after: allOf(attempts(1), sameFile)},
	{row: 43, name: "the destination's host restarts when a file is READY: READY", quick: true, urls: filed, before: writeFile,
		faults: []fault{{at: "destination.did.append.ready", do: reboots(0)}}, want: [2]end{committed, committed}, after: allOf(attempts(1), sameFile)},
	{row: 43, name: "the destination's host restarts when a file was accepted: it gets its name when the source asks", quick: true, urls: filed, before: writeFile,
		faults: []fault{{at: "destination.did.append.accept", do: reboots(0)}}, want: [2]end{committed, committed}, after: allOf(attempts(1), sameFile)},
	{row: 43, name: "the destination's host restarts when it has opened", quick: true, kept: true,
		faults: []fault{{at: "destination.did.append.open", do: reboots(0)}}, want: [2]end{aborted(4), waiting}, owner: "source runs"},
	{row: 43, name: "the destination's host restarts while it loads", kept: true,
		faults: []fault{{at: "destination.did.write@8", do: reboots(0)}}, want: [2]end{aborted(5), waiting}, owner: "source runs"},
	{row: 43, name: "the destination's host restarts when it is READY", quick: true, kept: true,
		faults: []fault{{at: "destination.did.append.ready", do: reboots(0)}}, want: [2]end{aborted(5), waiting}, after: notStarted, owner: "source runs"},
	{row: 43, name: "the destination's host restarts when it receives COMMIT", kept: true,
		faults: []fault{{at: "destination.on.commit", do: reboots(0)}}, want: [2]end{aborted(5), waiting}, after: notStarted, owner: "source runs"},
	{row: 43, name: "the destination's host restarts when it has accepted: LOST", quick: true, kept: true, flags: [2][]string{source: {"--doubt-for", "4s"}},
		faults: []fault{{at: "destination.did.append.accept", do: reboots(0)}}, want: [2]end{held, waiting}, after: allOf(notStarted, says(source, "LOST")), owner: "in doubt"},
	{row: 43, name: "the destination's host restarts when its device runs: LOST", kept: true, flags: [2][]string{source: {"--doubt-for", "4s"}},
		faults: []fault{{at: "destination.do.send.running", do: reboots(0)}}, want: [2]end{held, waiting}, after: says(source, "LOST"), owner: "in doubt"},
	{row: 43, name: "the destination's host restarts when RUNNING was recorded: RUNNING", kept: true,
		faults: []fault{{at: "destination.do.send.running", do: cut(3 * time.Second)}, {at: "destination.did.append.running", do: reboots(0)}},
		want:   [2]end{committed, waiting}, owner: "destination runs"},
	{row: 44, name: "the source's host restarts with the destination READY: that copy is left to people", quick: true, kept: true,
		faults: []fault{{at: "source.on.ready", do: reboots(4 * time.Second)}}, want: [2]end{{"in-doubt", 11}, waiting}, after: allOf(attempts(1), notStarted, says(source, "it may be the only one")), owner: "source runs"},
	{row: 44, name: "mig-send restarts with the destination READY, and still holds its device: it tries again", kept: true,
		faults: []fault{{at: "source.on.ready", do: restarts(time.Second)}}, want: [2]end{committed, committed}, after: allOf(attempts(2), takenBackBefore(2))},
	{row: 44, name: "the source's host does not restart: READY is held", kept: true,
		faults: []fault{{at: "source.on.ready", do: kill}}, want: [2]end{killed, waiting}, after: notStarted, owner: "source runs"},
	{row: 44, name: "the source's host restarts after COMMIT, in a cut of 8 s: COMMIT is sent, and no CANCEL", quick: true, kept: true,
		faults: []fault{{at: "source.did.append.commit", do: each(cut(8*time.Second), reboots(0))}}, want: [2]end{committed, committed}, after: attempts(1), owner: "destination runs"},
	{row: 44, name: "mig-send restarts after COMMIT, in a cut of 8 s, and still holds its device: CANCEL", kept: true,
		faults: []fault{{at: "source.did.append.commit", do: each(cut(8*time.Second), restarts(0))}}, want: [2]end{aborted(9), aborted(9)}, after: notStarted, owner: "source runs"},
	{row: 44, name: "the source's host does not restart, and SIGTERM to mig-recv: READY is held, and left by a second one", quick: true, kept: true, orphan: true,
		faults: []fault{{at: "source.on.ready", do: each(kill, toPeer(terminate))}}, want: [2]end{killed, held}, after: allOf(notStarted, holdsCopy), owner: "source runs"},
	{row: 45, name: "the destination's journal is lost before COMMIT", quick: true, kept: true,
		faults: []fault{{at: "destination.did.write@8", do: losesJournal}}, want: [2]end{aborted(5), waiting}, owner: "source runs"},
	{row: 45, name: "the destination's journal is lost after COMMIT: the new one is not believed", quick: true, kept: true, flags: [2][]string{source: {"--doubt-for", "4s"}},
		faults: []fault{{at: "destination.on.commit", do: losesJournal}}, want: [2]end{held, waiting}, after: allOf(notStarted, says(source, "knows nothing of the migration")), owner: "in doubt"},
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
	{row: 50, name: "mig-recv killed in the middle of a file: no file, and the next attempt starts over", quick: true,
		urls: filed, before: writeFile, flags: [2][]string{source: {"--max-bandwidth", "16MiB/s"}},
		faults: []fault{{at: "destination.did.write@64", do: restarts(0)}}, want: [2]end{aborted(5), waiting}, after: allOf(noFile, nextAttempt, sameFile)},

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
		urls: [2]string{"sim:mlx5?size=6MiB&content=random", "sim:mlx5?load=1MiB/s"}, flags: [2][]string{source: {"--resume-after", "30s"}}, want: [2]end{committed, committed}},
	{row: 60, name: "a frame of 4 GiB", quick: true, urls: driven, want: [2]end{destination: aborted(5)},
		drive: hostileFrame(func(c *wire.Chunk) { c.RawLen = 1<<32 - 1 })},
	{row: 60, name: "a frame of nothing", urls: driven, want: [2]end{destination: aborted(5)},
		drive: hostileFrame(func(c *wire.Chunk) { c.RawLen, c.WireLen = 0, 0 })},
	{row: 60, name: "a frame at a negative offset", urls: driven, want: [2]end{destination: aborted(5)},
		drive: hostileFrame(func(c *wire.Chunk) { c.Offset = 1<<64 - 1 })},
	{row: 60, name: "frames that overlap", quick: true, urls: driven, want: [2]end{destination: aborted(5)}, drive: overlapping},
	{row: 62, name: "a control message of 16 KiB + 1", quick: true, urls: driven, want: [2]end{destination: aborted(5)}, drive: longMessage},
	{row: 62, name: "COMMIT in the wrong state", urls: driven, want: [2]end{destination: aborted(5)}, drive: wrongState},
	{row: 64, name: "TLS resumption and 0-RTT", elsewhere: "transport, TestQUICHasNo0RTT: a stranger has no key to try it with"},
	{row: 65, name: "the source's address changes in pre-copy", quick: true,
		faults: []fault{{at: "source.did.read@8", do: rebind}}, want: [2]end{committed, committed}, after: attempts(1)},
	{row: 65, name: "the source's address changes in stop-copy", urls: [2]string{slowStop, slowStopTo},
		faults: []fault{{at: "source.did.read@3", do: rebind}}, want: [2]end{committed, committed}, after: attempts(1)},
	{row: 65, name: "the source's address changes before COMMIT",
		faults: []fault{{at: "source.on.ready", do: rebind}}, want: [2]end{committed, committed}, after: attempts(1)},
	{row: 65, name: "the source's address changes in a cut of 4 s",
		faults: []fault{{at: "source.did.read@8", do: each(cut(4*time.Second), rebind)}}, want: [2]end{committed, committed}, after: attempts(1)},
	{row: 67, name: "the wall clock jumps by 1 h, to and fro", jumps: true,
		link: relay.Link{Loss: 0.01, Delay: 5 * time.Millisecond}, want: [2]end{committed, committed}, after: allOf(attempts(1), clockJumped)},
	{row: 67, name: "the wall clock jumps, and a cut of 4 s in pre-copy", jumps: true,
		faults: []fault{{at: "source.did.read@8", do: cut(4 * time.Second)}}, want: [2]end{committed, committed}, after: allOf(attempts(1), clockJumped)},
	{row: 67, name: "the wall clock jumps, and a cut for good in stop-copy", jumps: true, urls: [2]string{slowStop, slowStopTo},
		flags:  [2][]string{source: {"--downtime-target", "4s", "--resume-after", "4s"}},
		faults: []fault{{at: "source.did.stop", do: cut(0)}}, want: [2]end{aborted(10), aborted(4)}, after: allOf(backWithin(4*time.Second), notBackBefore(4*time.Second), clockJumped)},
	{row: 67, name: "the wall clock jumps, and a cut of 8 s when COMMIT was journaled", jumps: true,
		faults: []fault{{at: "source.did.append.commit", do: cut(8 * time.Second)}}, want: [2]end{aborted(9), aborted(9)}, after: allOf(notStarted, clockJumped), owner: "source runs"},

	{name: "mig-send is paused for 1 s in pre-copy", quick: true,
		faults: []fault{{at: "source.did.read@8", do: pause(time.Second)}}, want: [2]end{committed, committed}, after: attempts(1)},
	{name: "mig-recv is paused for 1 s while it loads", quick: true,
		faults: []fault{{at: "destination.did.write@8", do: pause(time.Second)}}, want: [2]end{committed, committed}, after: attempts(1)},
	{name: "both are paused for 1 s", faults: []fault{{at: "source.on.ready", do: pause(time.Second)}, {at: "destination.did.send.ready", do: pause(time.Second)}},
		want: [2]end{committed, committed}},
	{name: "mig-send is paused for 4 s in pre-copy", quick: true,
		faults: []fault{{at: "source.did.read@8", do: pause(4 * time.Second)}}, want: [2]end{committed, committed}, after: attempts(1)},
	{name: "mig-send is paused for 4 s in stop-copy", urls: [2]string{slowStop, slowStopTo},
		faults: []fault{{at: "source.did.read@3", do: pause(4 * time.Second)}}, want: [2]end{committed, committed}, after: attempts(1)},
	{name: "mig-send is paused for 4 s after END",
		faults: []fault{{at: "source.on.drained", do: pause(4 * time.Second)}}, want: [2]end{committed, committed}, after: attempts(1)},
	{name: "mig-send is paused for 4 s before it sends COMMIT",
		faults: []fault{{at: "source.do.send.commit", do: pause(4 * time.Second)}}, want: [2]end{committed, committed}, after: attempts(1)},
	{name: "mig-send is paused for 4 s when it receives RUNNING",
		faults: []fault{{at: "source.on.running", do: pause(4 * time.Second)}}, want: [2]end{committed, committed}, after: attempts(1)},
	{name: "mig-recv is paused for 4 s while it loads", quick: true,
		faults: []fault{{at: "destination.did.write@8", do: pause(4 * time.Second)}}, want: [2]end{committed, committed}, after: attempts(1)},
	{name: "mig-recv is paused for 4 s before READY",
		faults: []fault{{at: "destination.on.loaded", do: pause(4 * time.Second)}}, want: [2]end{committed, committed}, after: attempts(1)},
	{name: "mig-recv is paused for 4 s when it receives COMMIT",
		faults: []fault{{at: "destination.on.commit", do: pause(4 * time.Second)}}, want: [2]end{committed, committed}, after: attempts(1)},
	{name: "mig-recv is paused for 4 s before its device starts",
		faults: []fault{{at: "destination.do.start", do: pause(4 * time.Second)}}, want: [2]end{committed, committed}, after: attempts(1)},
	{name: "mig-recv is paused for 4 s before RUNNING",
		faults: []fault{{at: "destination.do.send.running", do: pause(4 * time.Second)}}, want: [2]end{committed, committed}, after: attempts(1)},
}

// filed are the devices of a migration from one file to another.
var filed = [2]string{"file:FROM.state", "file:TO.state"}

// driven are the devices where the test is the source: a file accepts any bytes.
var driven = [2]string{destination: "file:PLAYED.state"}

func TestRows(t *testing.T) {
	for i := range rows {
		rows[i].test(t, *seed)
	}
}

// TestRowsAreAll: rows has a case for every row of the hand-off's table.
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
		if sc.elsewhere == "" && reflect.DeepEqual(sc, scenario{row: sc.row, name: sc.name, quick: sc.quick, want: sc.want, owner: sc.owner}) {
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

func neverStopped(w *cluster, e evidence) {
	w.t.Helper()
	if len(e.log[source]) == 0 && w.process(source).exit() != 2 {
		w.t.Error("the source's device has no log")
	}
	if at := stops(e); len(at) > 0 {
		w.t.Errorf("the source was stopped at %v", at)
	}
}

// leeway is the delay that a loaded machine may add.
const leeway = time.Second

func neverStoppedWithin(limit time.Duration) func(*cluster, evidence) {
	return func(w *cluster, e evidence) {
		w.t.Helper()
		neverStopped(w, e)
		if took := time.Duration(w.process(source).exited - w.process(source).started); took > limit+leeway {
			w.t.Errorf("it took %v, limit %v", took, limit)
		}
	}
}

// reportsRefusal: the destination reports which source it refused.
func reportsRefusal(w *cluster, e evidence) {
	w.t.Helper()
	neverStopped(w, e)
	warnings := strings.Join(w.process(destination).find("done").Warnings, " ")
	if !strings.Contains(warnings, "turned a peer away") || !strings.Contains(warnings, shared.ids[source][:12]) {
		w.t.Errorf("the destination warns of %q, not of %s", warnings, shared.ids[source])
	}
}

// backWithin: the source's downtime is at most limit, and the source runs.
func backWithin(limit time.Duration) func(*cluster, evidence) {
	return func(w *cluster, e evidence) {
		w.t.Helper()
		at := stops(e)
		last := e.log[source][len(e.log[source])-1]
		if len(at) == 0 || last.Event != "close" || last.To != "RUNNING" {
			w.t.Fatalf("stopped at %v, and then %+v", at, last)
		}
		for _, l := range e.log[source] {
			if l.NS > at[len(at)-1] && l.Err == "" && mayRun(l.To) {
				if took := time.Duration(l.NS - at[len(at)-1]); took > limit+leeway {
					w.t.Errorf("the downtime at the source was %v, limit %v", took, limit)
				}
				return
			}
		}
	}
}

func downtimeOver(least time.Duration) func(*cluster, evidence) {
	return func(w *cluster, _ evidence) {
		w.t.Helper()
		done := w.process(source).find("done")
		if got := time.Duration(done.DowntimeMS * 1e6); got < least {
			w.t.Errorf("a downtime of %v, in which nothing passed for %v", got, least)
		}
	}
}

// endKnownWithin: the source knew of the destination's end within limit.
func endKnownWithin(limit time.Duration) func(*cluster, evidence) {
	return func(w *cluster, _ evidence) {
		w.t.Helper()
		if took := time.Duration(w.process(source).exited - w.killed(destination).exited); took > limit+leeway {
			w.t.Errorf("the source ended %v after the destination, limit %v", took, limit)
		}
	}
}

// killed is the first killed program of a side.
func (w *cluster) killed(s side) *process {
	w.t.Helper()
	i := slices.IndexFunc(w.all, func(p *process) bool { return p.side == s && p.killed.Load() })
	if i < 0 {
		w.t.Fatalf("%v was not killed", s)
	}
	return w.all[i]
}

// allOf combines several checks.
func allOf(checks ...func(*cluster, evidence)) func(*cluster, evidence) {
	return func(w *cluster, e evidence) {
		w.t.Helper()
		for _, check := range checks {
			check(w, e)
		}
	}
}

// attempts: the migration made that many attempts. An attempt that continues after a fault
// is no new one.
func attempts(want int) func(*cluster, evidence) {
	return func(w *cluster, e evidence) {
		w.t.Helper()
		got := 0
		for _, r := range e.records[source] {
			if r.Record == handoff.Open {
				got++
			}
		}
		if got != want {
			w.t.Errorf("%d attempts, want %d", got, want)
		}
	}
}

// takenBackBefore: the source's kept device ran again before an attempt.
func takenBackBefore(epoch uint64) func(*cluster, evidence) {
	return func(w *cluster, e evidence) {
		w.t.Helper()
		back := int64(0)
		for _, l := range e.log[source] {
			if l.Found && l.Event == "set" && l.To == "RUNNING" && back == 0 {
				back = l.NS
			}
		}
		next, opened := e.find(source, handoff.Open, epoch)
		if back == 0 || !opened || when(next) < back-int64(time.Millisecond) {
			w.t.Errorf("the device returned to RUNNING at %d, attempt %d was opened at %v", back, epoch, opened)
		}
	}
}

func notBackBefore(limit time.Duration) func(*cluster, evidence) {
	return func(w *cluster, e evidence) {
		w.t.Helper()
		for _, l := range e.log[source] {
			if at := stops(e)[0]; l.NS > at && mayRun(l.To) && time.Duration(l.NS-at) < limit-100*time.Millisecond {
				w.t.Errorf("the source was back after %v, limit %v", time.Duration(l.NS-at), limit)
			}
		}
	}
}

func notStarted(w *cluster, e evidence) {
	w.t.Helper()
	if runs := e.executions(); len(runs) > 0 {
		w.t.Errorf("the destination has started: %+v", runs)
	}
}

// holdsCopy: the destination's device has its copy, and the journal has READY.
func holdsCopy(w *cluster, e evidence) {
	w.t.Helper()
	if got := e.last(destination); got != handoff.Ready {
		w.t.Errorf("the destination's record is %v", got)
	}
	if i := slices.IndexFunc(e.log[destination], frees); i >= 0 {
		w.t.Errorf("the destination freed its copy: %+v", e.log[destination][i])
	}
}

func says(s side, text string) func(*cluster, evidence) {
	return func(w *cluster, _ evidence) {
		w.t.Helper()
		if p := w.process(s); !p.says(text) {
			w.t.Errorf("%v does not say %q: %v", s, text, p)
		}
	}
}

// lost: the relay has lost as many datagrams as the case demands.
func lost(w *cluster, _ evidence) {
	w.t.Helper()
	if c := w.relay.Counts(relay.Up); c.Lost == 0 {
		w.t.Errorf("nothing was lost: %+v", c)
	}
}

// secondSender runs mig-send for a migration on which another mig-send works.
func secondSender(w *cluster, p *process) {
	w.findMigration()
	second := w.runBeside(source, w.state[source], "--to", w.relay.Addr(), "--migration", w.mig.String())
	second.wait(w.t)
	if e := second.find("done").Error; second.exit() == 0 || e == nil || !strings.Contains(e.Text, "in use by another process") {
		w.t.Errorf("a second mig-send: %v", second)
	}
}

// secondSource runs another migration to a busy destination.
func secondSource(w *cluster, _ *process) {
	state := filepath.Join(w.dir, "second")
	if err := os.Mkdir(state, 0o700); err != nil {
		w.t.Error(err)
	}
	second := w.runBeside(source, state, "--to", w.relay.Addr())
	second.wait(w.t)
	if e := second.find("done").Error; second.exit() != 5 || e == nil || e.Code != "limit" && e.Code != "busy" {
		w.t.Errorf("a second source: %v", second)
	}
	os.RemoveAll(state)
}

// losesJournal kills a destination and starts it again without its journal.
func losesJournal(w *cluster, p *process) {
	p.kill()
	<-p.done
	w.findMigration()
	if err := os.Remove(filepath.Join(w.state[destination], journal.Name(journal.Destination, w.mig))); err != nil {
		w.t.Error(err)
	}
	w.revive(p.side)
}

// writeFile makes the file to migrate.
func writeFile(w *cluster) {
	content := make([]byte, 32<<20)
	rand.NewChaCha8([32]byte{byte(w.seed)}).Read(content)
	if err := os.WriteFile(filepath.Join(w.dir, "FROM.state"), content, 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// nextAttempt has the source try again, with its file, at the waiting destination.
func nextAttempt(w *cluster, _ evidence) {
	w.t.Helper()
	w.sc, w.flags = &scenario{}, [2][]string{}
	s := w.send("", "--migration", w.mig.String())
	w.settle()
	w.check()
	if s.exit() != 0 {
		w.t.Errorf("the next attempt ends with %d: %v", s.exit(), s)
	}
}

// noFile: a destination that has loaded a part has no file, under any name.
func noFile(w *cluster, _ evidence) {
	w.t.Helper()
	for _, pattern := range []string{"TO.state", ".TO.state*"} {
		if left, err := filepath.Glob(filepath.Join(w.dir, pattern)); err != nil || len(left) > 0 {
			w.t.Errorf("left: %v, %v", left, err)
		}
	}
}

func sameFile(w *cluster, _ evidence) {
	w.t.Helper()
	from, err := os.ReadFile(filepath.Join(w.dir, "FROM.state"))
	to, err2 := os.ReadFile(filepath.Join(w.dir, "TO.state"))
	if err != nil || err2 != nil || !bytes.Equal(from, to) {
		w.t.Errorf("the file is not the same: %d and %d bytes, %v, %v", len(from), len(to), err, err2)
	}
}

// tear cuts the last, unannounced record of a side at each of its bytes in turn. The
// record before it counts.
func tear(of side) func(*cluster, evidence) {
	return func(w *cluster, e evidence) {
		w.t.Helper()
		const length = 256
		whole := len(e.records[of]) - 1
		slot := int64(e.records[of][whole].Seq - 1)
		path := filepath.Join(w.state[of], journal.Name(of.role(), w.mig))
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			w.t.Fatal(err)
		}
		defer f.Close()
		for at := length - 1; at >= 0; at-- {
			if _, err := f.WriteAt([]byte{0}, slot*length+int64(at)); err != nil {
				w.t.Fatal(err)
			}
			left, err := journal.Read(path)
			if zero := at >= 252; err == nil && len(left) > whole && !zero || err != nil {
				w.t.Fatalf("torn at byte %d: %d records are left of %d: %v", at, len(left), whole+1, err)
			}
		}
	}
}
