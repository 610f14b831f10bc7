// Package transporttest is the suite that every carrier of package transport
// passes: [Run] it from the carrier's own test, with a function that connects a
// fresh pair.
package transporttest

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
)

// Connect makes a dialler and the listener that it reaches. Run closes the
// listener.
type Connect func(testing.TB) (transport.Dialer, transport.Listener)

// patience is far longer than anything here takes on a slow machine.
const patience = 20 * time.Second

// Run checks what [transport.Lane], [transport.Dialer] and [transport.Listener]
// promise, and that nothing is left behind.
func Run(t *testing.T, connect Connect) {
	for _, c := range []struct {
		name string
		test func(*testing.T, transport.Dialer, transport.Listener)
	}{
		{"bytes in order, both directions", testBothDirections},
		{"several lanes", testSeveralLanes},
		{"half close by the dialler", func(t *testing.T, d transport.Dialer, l transport.Listener) {
			ours, theirs := open(t, d, l)
			halfClose(t, ours, theirs)
		}},
		{"half close by the listener", func(t *testing.T, d transport.Dialer, l transport.Listener) {
			ours, theirs := open(t, d, l)
			halfClose(t, theirs, ours)
		}},
		{"last words", testLastWords},
		{"back-pressure", testBackPressure},
		{"deadline", testDeadline},
		{"deadline moved", testDeadlineMoved},
		{"close wakes", testCloseWakes},
		{"close wakes the peer", testCloseWakesPeer},
		{"use after close", testUseAfterClose},
		{"accept cancelled", testAcceptCancelled},
		{"listener closed", testListenerClosed},
		{"dial cancelled", testDialCancelled},
		{"lanes outlive the listener", testOutlive},
	} {
		t.Run(c.name, func(t *testing.T) {
			leavesNothing(t)
			d, l := connect(t)
			t.Cleanup(func() { l.Close() })
			c.test(t, d, l)
		})
	}
}

const several = 6 << 20

func testBothDirections(t *testing.T, d transport.Dialer, l transport.Listener) {
	ours, theirs := open(t, d, l)
	together(t,
		func() error { return send(ours, 1, several) },
		func() error { return send(theirs, 2, several+1) },
		func() error { return receive(theirs, 1, several) },
		func() error { return receive(ours, 2, several+1) },
	)
}

func testSeveralLanes(t *testing.T, d transport.Dialer, l transport.Listener) {
	var work []func() error
	for seed := range uint64(8) {
		ours, theirs := open(t, d, l)
		work = append(work,
			func() error { return send(ours, seed, 1<<20) },
			func() error { return receive(theirs, seed, 1<<20) })
	}
	together(t, work...)
}

// halfClose finishes one direction and goes on in the other.
func halfClose(t *testing.T, first, second transport.Lane) {
	together(t,
		func() error { return send(first, 3, 100_000) },
		func() error { return receive(second, 3, 100_000) },
	)
	together(t,
		func() error { return send(second, 4, 100_000) },
		func() error { return receive(first, 4, 100_000) },
	)
	for _, lane := range []transport.Lane{first, second} {
		if n, err := lane.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("a read after the end gives %d, %v, want 0, EOF", n, err)
		}
		if _, err := lane.Write([]byte{1}); err == nil {
			t.Error("a write after CloseWrite succeeded")
		}
	}
}

// testLastWords closes at once after CloseWrite: what was written arrives.
func testLastWords(t *testing.T, d transport.Dialer, l transport.Listener) {
	for _, byDialler := range []bool{true, false} {
		for round := range uint64(5) {
			from, to := openFrom(t, d, l, byDialler)
			together(t,
				func() error { return errors.Join(send(from, round, 50_000), from.Close()) },
				func() error {
					time.Sleep(time.Duration(round) * 30 * time.Millisecond) // a slow reader loses nothing either
					return errors.Join(receive(to, round, 50_000), to.CloseWrite(), to.Close())
				},
			)
		}
	}
}

func testBackPressure(t *testing.T, d transport.Dialer, l transport.Listener) {
	ours, theirs := open(t, d, l)
	data := noise(5, 64<<20)
	ours.SetDeadline(time.Now().Add(500 * time.Millisecond))
	n, err := ours.Write(data)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("64 MiB that nobody reads: %d bytes, %v, want a deadline", n, err)
	}
	if n > 32<<20 {
		t.Fatalf("%d bytes are held for a peer that reads nothing", n)
	}
	ours.SetDeadline(time.Time{})
	together(t,
		func() error { return errors.Join(writeAll(ours, data[n:]), ours.CloseWrite()) },
		func() error { return receive(theirs, 5, len(data)) },
	)
}

func testDeadline(t *testing.T, d transport.Dialer, l transport.Listener) {
	for _, dialler := range []bool{true, false} {
		lane, _ := openFrom(t, d, l, dialler)
		read, write := background(lane.Read, 1), background(lane.Write, tooMuch)
		time.Sleep(50 * time.Millisecond)
		lane.SetDeadline(time.Unix(1, 0))
		for what, c := range map[string]chan error{"read": read, "write": write} {
			if err := await(t, what, c); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: %v, want a deadline", what, err)
			}
		}
		if _, err := lane.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read after the deadline: %v", err)
		}
	}
}

// testDeadlineMoved moves a deadline that a Read waits for, and then takes it
// away: the lane is as good as new.
func testDeadlineMoved(t *testing.T, d transport.Dialer, l transport.Listener) {
	ours, theirs := open(t, d, l)
	ours.SetDeadline(time.Now().Add(time.Hour))
	read := make(chan error, 1)
	go func() { _, err := ours.Read(make([]byte, 1)); read <- err }()
	time.Sleep(20 * time.Millisecond)
	ours.SetDeadline(time.Now().Add(20 * time.Millisecond))
	if err := await(t, "read", read); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read: %v, want a deadline", err)
	}
	ours.SetDeadline(time.Time{})
	together(t,
		func() error { return send(theirs, 6, 1000) },
		func() error { return receive(ours, 6, 1000) },
	)
}

func testCloseWakes(t *testing.T, d transport.Dialer, l transport.Listener) {
	for _, dialler := range []bool{true, false} {
		lane, _ := openFrom(t, d, l, dialler)
		read, write := background(lane.Read, 1), background(lane.Write, tooMuch)
		time.Sleep(50 * time.Millisecond)
		lane.Close()
		for what, c := range map[string]chan error{"read": read, "write": write} {
			if err := await(t, what, c); !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s: %v, want net.ErrClosed", what, err)
			}
		}
	}
}

func testCloseWakesPeer(t *testing.T, d transport.Dialer, l transport.Listener) {
	for _, dialler := range []bool{true, false} {
		closes, reads := openFrom(t, d, l, dialler)
		read := background(reads.Read, 1)
		time.Sleep(50 * time.Millisecond)
		closes.Close()
		if err := await(t, "read", read); !errors.Is(err, transport.ErrLost) && !(wire.Local(reads) && err == io.EOF) {
			t.Errorf("read of a lane that was given up: %v, want ErrLost, or EOF within a host", err)
		}
		closes, writes := openFrom(t, d, l, dialler)
		write := background(writes.Write, tooMuch)
		time.Sleep(50 * time.Millisecond)
		closes.Close()
		if err := await(t, "write", write); !errors.Is(err, transport.ErrPeerGone) {
			t.Errorf("write: %v, want ErrPeerGone", err)
		}
	}
}

func testUseAfterClose(t *testing.T, d transport.Dialer, l transport.Listener) {
	ours, _ := open(t, d, l)
	ours.Close()
	ours.Close() // the second one does nothing
	if _, err := ours.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read: %v, want net.ErrClosed", err)
	}
	if _, err := ours.Write(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write: %v, want net.ErrClosed", err)
	}
}

func testAcceptCancelled(t *testing.T, d transport.Dialer, l transport.Listener) {
	cause := errors.New("the cause")
	for range 20 {
		ctx, cancel := context.WithCancelCause(context.Background())
		accepted := make(chan error, 1)
		go func() { _, err := l.Accept(ctx); accepted <- err }()
		cancel(cause)
		if err := await(t, "accept", accepted); !errors.Is(err, cause) {
			t.Fatalf("accept: %v, want the context's cause", err)
		}
	}
	open(t, d, l) // the listener still works
}

func testListenerClosed(t *testing.T, d transport.Dialer, l transport.Listener) {
	accepted := make(chan error, 1)
	go func() { _, err := l.Accept(context.Background()); accepted <- err }()
	time.Sleep(20 * time.Millisecond)
	l.Close()
	if err := await(t, "accept", accepted); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept: %v, want net.ErrClosed", err)
	}
	start := time.Now()
	lane, err := d.Dial(context.Background())
	if err == nil {
		lane.Close()
	}
	if took := time.Since(start); !errors.Is(err, transport.ErrUnreachable) || took > 5*time.Second {
		t.Errorf("dial to nobody: %v after %v, want ErrUnreachable within 5 s", err, took)
	}
}

func testDialCancelled(t *testing.T, d transport.Dialer, l transport.Listener) {
	l.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if lane, err := d.Dial(ctx); err == nil {
		lane.Close()
		t.Error("a dial to nobody with a cancelled context succeeded")
	}
}

func testOutlive(t *testing.T, d transport.Dialer, l transport.Listener) {
	ours, theirs := open(t, d, l)
	l.Close()
	halfClose(t, ours, theirs)
}
