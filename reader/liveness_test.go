package reader

import (
	"testing"
	"time"

	"github.com/migpipe/migpipe/internal/wire"
)

// reported is one ACK about a lane: when it came, the earliest time at which it was made (both in
// ms), and the bytes that were written by then, and read.
type reported struct {
	now, made     int
	written, read uint64
}

// every is the same ACK every 100 ms, from one time to another.
func every(from, to int, written, read uint64) (all []reported) {
	for at := from; at <= to; at += 100 {
		all = append(all, reported{at, at - 1, written, read})
	}
	return all
}

func TestReading(t *testing.T) {
	join := func(parts ...[]reported) (all []reported) {
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	reads := func(from, to int, written uint64) (all []reported) {
		for at := from; at <= to; at += 100 {
			all = append(all, reported{at, at - 1, written, uint64(at)})
		}
		return all
	}
	for _, c := range []struct {
		name  string
		acks  []reported
		limit time.Duration
		want  int // when the lane is aborted, in ms; 0 is never
	}{
		{"nothing is written", every(0, 60000, 0, 0), 2 * time.Second, 0},
		{"all was read: the window is used up, or the rate is limited", every(0, 60000, 5<<20, 5<<20), 2 * time.Second, 0},
		{"a slow path", reads(100, 60000, 5<<20), 2 * time.Second, 0},
		{"nothing is read", every(0, 60000, 100, 0), 2 * time.Second, 2100},
		{"nothing is read, on a long path", every(0, 60000, 100, 0), 4 * time.Second, 4100},
		{"nothing more is read", join(reads(100, 5000, 5<<20), every(5100, 60000, 5<<20, 5000)), 2 * time.Second, 7100},
		{"after a pause in which nothing was written", join(every(0, 30000, 100, 100), every(30100, 60000, 200, 100)), 2 * time.Second, 32200},
		{"the next lane, never read", join(reads(100, 5000, 5<<20), every(5100, 60000, 100, 0)), 2 * time.Second, 7200},
		{"a stall below the limit, again and again", join(
			every(0, 1900, 100, 10), every(2000, 3900, 100, 20), every(4000, 5900, 100, 30), every(6000, 7900, 100, 40)), 2 * time.Second, 0},
		// A side that was stopped for long has seen nothing: its first ACK proves little.
		{"one ACK after a long silence", []reported{{0, 0, 0, 0}, {100, 99, 100, 0}, {60000, 59999, 100, 0}, {60100, 60099, 100, 100}}, 2 * time.Second, 0},
		// ACKs that waited, for the network or for this process, describe an earlier time.
		{"old ACKs", []reported{{100, 99, 0, 0}, {9000, 1000, 100, 0}, {9001, 2000, 100, 0}, {9002, 3000, 100, 0}, {9003, 4000, 100, 0}, {9004, 9003, 100, 100}}, 2 * time.Second, 0},
	} {
		var r reading
		got := 0
		for _, a := range c.acks {
			if r.observe(millis(a.now), millis(a.made), a.written, a.read, c.limit) {
				got = a.now
				break
			}
		}
		if got != c.want {
			t.Errorf("%s: aborted after %d ms, want %d", c.name, got, c.want)
		}
	}
}

// TestCarrying checks that lanes which are dialled again and again, and carry nothing, are
// detected. Lanes to which nothing is written are not.
func TestCarrying(t *testing.T) {
	rose, stands, idle, fresh := lanesSeen{rose: true, unread: true}, lanesSeen{unread: true}, lanesSeen{read: true}, lanesSeen{}
	const limit, end, ack, life = 10000, 60000, 100, 2000 // ms
	for _, c := range []struct {
		name string
		at   func(ms int) lanesSeen
		want int // when it is detected at the latest, in ms; 0 is never
	}{
		{"nothing is written", func(int) lanesSeen { return fresh }, 0},
		{"all was read", func(int) lanesSeen { return idle }, 0},
		{"a slow path", func(int) lanesSeen { return rose }, 0},
		{"nothing is read", func(int) lanesSeen { return stands }, limit + 200},
		{"one lane, dialled every 2 s", func(ms int) lanesSeen {
			if ms%life < 2*ack {
				return fresh
			}
			return stands
		}, limit + 2000},
		{"two lanes, dialled at the same time", func(ms int) lanesSeen {
			if ms%life == 0 {
				return fresh
			}
			return stands
		}, limit + 2000},
		{"two lanes, one without anything to carry", func(ms int) lanesSeen { return lanesSeen{read: true, unread: true} }, limit + 200},
		{"now and then something is read", func(ms int) lanesSeen {
			if ms%8000 == 0 {
				return rose
			}
			return stands
		}, 0},
		{"now and then all is read", func(ms int) lanesSeen {
			if ms%8000 == 0 {
				return idle
			}
			return stands
		}, 0},
		{"dialled, and nothing more to send", func(ms int) lanesSeen {
			if ms < 4000 {
				return stands
			}
			return fresh
		}, 0},
	} {
		var of jointReading
		got := 0
		for ms := ack; ms <= end && got == 0; ms += ack {
			if of.observe(millis(ms), millis(ms-1), c.at(ms), millis(limit)) {
				got = ms
			}
		}
		if got > c.want || got < c.want && got < limit || c.want > 0 && got == 0 {
			t.Errorf("%s: detected after %d ms, want %d", c.name, got, c.want)
		}
	}
	// A side that was stopped for long has seen nothing.
	var of jointReading
	if of.observe(millis(100), millis(99), stands, millis(limit)) || of.observe(millis(end), millis(end-1), stands, millis(limit)) {
		t.Error("one ACK after a long silence proves it")
	}
}

// TestReadingSuspected checks that a suspect lane is aborted soon after the control lane is back,
// unless bytes of it are read.
func TestReadingSuspected(t *testing.T) {
	for _, c := range []struct {
		more uint64 // bytes read between two ACKs
		want int    // when the lane is aborted, in ms; 0 is never
	}{{0, 2600}, {1, 0}} {
		r := reading{read: 10, unread: true, from: millis(100), suspect: true}
		got := 0
		for at := 2300; at < 4000 && got == 0; at += 100 {
			if r.observe(millis(at), millis(at-10), 100, 20+c.more*uint64(at-2300)/100, wire.UnreadTimeout) {
				got = at
			}
		}
		if got != c.want {
			t.Errorf("%d bytes more each time: aborted after %d ms, want %d", c.more, got, c.want)
		}
	}
}

func TestHearing(t *testing.T) {
	type event struct {
		at   int
		echo int // of an ACK, in ms; -1 is a tick
	}
	ticks := func(from, to, by int) (all []event) {
		for at := from; at <= to; at += by {
			all = append(all, event{at, -1})
		}
		return all
	}
	var answered []event
	for at := 100; at < 10000; at += 100 {
		answered = append(answered, event{at, -1}, event{at + 1, at})
	}
	var stale []event
	for at := 100; at < 10000; at += 100 {
		stale = append(stale, event{at, -1}, event{at + 1, 100})
	}
	for _, c := range []struct {
		name   string
		events []event
		want   int // when the lane is aborted, in ms; 0 is never
	}{
		{"silence", ticks(100, 10000, 100), 2000},
		{"echoes", answered, 0},
		{"ACKs come, and no message arrives", stale, 2200},
		{"echoes, and then silence", append(answered[:40:40], ticks(2100, 10000, 100)...), 4100},
		{"this process was stopped", []event{{100, -1}, {101, 100}, {15000, -1}, {15001, 14900}}, 0},
	} {
		var h hearing
		got := 0
		for _, ev := range c.events {
			if ev.echo >= 0 {
				h.noteEcho(millis(ev.at), millis(ev.echo), 0)
			} else if h.isOverdue(millis(ev.at), wire.UnreadTimeout) {
				got = ev.at
				break
			}
		}
		if got != c.want {
			t.Errorf("%s: aborted after %d ms, want %d", c.name, got, c.want)
		}
	}
}

// TestEchoSound checks that no round trip is measured across a time in which a process was stopped.
func TestEchoSound(t *testing.T) {
	var h hearing
	for i, c := range []struct {
		at, echo int
		want     bool
	}{{100, 99, true}, {200, 198, true}, {12000, 250, false}, {12001, 300, false}, {12100, 12010, true}} {
		if got := h.noteEcho(millis(c.at), millis(c.echo), 0); got != c.want {
			t.Errorf("ACK %d: sound is %v, want %v", i, got, c.want)
		}
	}
	if h.trip != millis(90) {
		t.Errorf("the last round trip took %v", h.trip)
	}
}

func TestPatience(t *testing.T) {
	for rtt, want := range map[time.Duration]time.Duration{0: 2 * time.Second, 500 * time.Millisecond: 2 * time.Second, time.Second: 4 * time.Second} {
		if got := stallLimit(rtt); got != want {
			t.Errorf("patience(%v) = %v, want %v", rtt, got, want)
		}
	}
}

func millis(n int) time.Duration { return time.Duration(n) * time.Millisecond }
