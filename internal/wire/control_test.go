package wire

import (
	"bytes"
	"errors"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// memoryLane is a lane of buffers.
type memoryLane struct {
	io.Reader
	io.Writer
}

func (memoryLane) CloseWrite() error             { return nil }
func (memoryLane) SetDeadline(_ time.Time) error { return nil }
func (memoryLane) Close() error                  { return nil }

func receiving(b []byte) *Control { return NewControl(memoryLane{Reader: bytes.NewReader(b)}) }

func TestControlDelivers(t *testing.T) {
	var wire bytes.Buffer
	c := NewControl(memoryLane{&wire, &wire})
	for _, m := range allMessages() {
		if err := c.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range allMessages() {
		got, err := c.Receive()
		if err != nil || got.Type() != m.Type() {
			t.Fatalf("received %v, %v, want %v", got, err, m.Type())
		}
	}
	if _, err := c.Receive(); !errors.Is(err, transport.ErrPeerGone) {
		t.Fatalf("receive at the end: %v", err)
	}
}

// TestControlSendsWhole checks that concurrent messages do not interleave.
func TestControlSendsWhole(t *testing.T) {
	var wire bytes.Buffer
	c := NewControl(memoryLane{&wire, &wire})
	var senders sync.WaitGroup
	for n := range 8 {
		senders.Go(func() {
			for range 50 {
				if err := c.Send(&Abort{Text: strings.Repeat("x", 10*n)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	senders.Wait()
	for range 400 {
		if _, err := c.Receive(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestControlSkips(t *testing.T) {
	cancel, err := AppendMessage(nil, &Cancel{migration.Attempt{Epoch: 7}})
	if err != nil {
		t.Fatal(err)
	}
	skippable := controlFrame(99, controlIgnorable, []byte("not even CBOR"))
	m, err := receiving(append(append(skippable, skippable...), cancel...)).Receive()
	if err != nil || m.About().Epoch != 7 {
		t.Fatalf("message after a skipped one: %v, %v", m, err)
	}
	if _, err := receiving(append(controlFrame(99, 0, nil), cancel...)).Receive(); !errors.Is(err, transport.ErrProtocol) {
		t.Fatalf("an unknown message that may not be skipped: %v", err)
	}
}

// item encodes a Go value as a peer without the limits of this package.
func item(t testing.TB, v any) []byte {
	t.Helper()
	b, err := cbor.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestControlBodies(t *testing.T) {
	type obj = map[any]any
	deep := any(1)
	for range 8 {
		deep = []any{deep}
	}
	mig := make([]byte, 16)
	many := make([]obj, MaxDevices+1)
	for i := range many {
		many[i] = obj{}
	}
	pairs := obj{}
	for i := range 33 {
		pairs[i+100] = i
	}
	for _, c := range []struct {
		name string
		typ  MessageType
		body []byte
		ok   bool
	}{
		{"a message", TypeCancel, item(t, obj{1: mig, 2: 1}), true},
		{"an unknown key", TypeCancel, item(t, obj{1: mig, 2: 1, 99: "new"}), true},
		{"an unknown text key", TypeCancel, item(t, obj{1: mig, 2: 1, "new": obj{1: 2}}), true},
		{"the most devices", TypeAck, item(t, obj{4: many[1:]}), true},
		{"one device more", TypeAck, item(t, obj{4: many}), false},
		{"too many keys", TypeCancel, item(t, pairs), false},
		{"a key twice", TypeCancel, []byte{0xa2, 2, 1, 2, 2}, false},
		{"an indefinite map", TypeCancel, []byte{0xbf, 2, 1, 0xff}, false},
		{"an indefinite string", TypeAbort, []byte{0xa1, 4, 0x7f, 0x61, 'a', 0xff}, false},
		{"a tag", TypeCancel, []byte{0xa1, 2, 0xc2, 0x41, 1}, false},
		{"deep nesting", TypeCancel, item(t, obj{99: deep}), false},
		{"text that is no UTF-8", TypeAbort, []byte{0xa1, 4, 0x61, 0xff}, false},
		{"a short id", TypeCancel, item(t, obj{1: mig[1:]}), false},
		{"a long id", TypeCancel, item(t, obj{1: append(mig, 0)}), false},
		{"an id as numbers", TypeCancel, []byte{0xa1, 1, 0x81, 1}, false},
		{"an id as null", TypeCancel, []byte{0xa1, 1, 0xf6}, false},
		{"a short digest", TypeReady, item(t, obj{4: mig}), false},
		{"a negative number", TypeCancel, item(t, obj{2: -1}), false},
		{"a number too large", TypeWelcome, item(t, obj{3: 1 << 16}), false},
		{"a fraction", TypeCancel, item(t, obj{2: 1.5}), false},
		{"an array", TypeCancel, item(t, []any{mig, 1}), false},
		{"null", TypeCancel, []byte{0xf6}, false},
		{"undefined", TypeCancel, []byte{0xf7}, false},
		{"nothing", TypeCancel, nil, false},
		{"something behind it", TypeCancel, append(item(t, obj{2: 1}), 0), false},
		{"a string longer than the message", TypeAbort, []byte{0xa1, 4, 0x7b, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff}, false},
		{"filling", TypeAck, item(t, obj{5: mig}), true},
		{"filling as text", TypeAck, item(t, obj{5: "text"}), false},
		{"bytes longer than the message", TypeAck, []byte{0xa1, 5, 0x5b, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff}, false},
		{"an array longer than the message", TypeAck, []byte{0xa1, 4, 0x9b, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			control := receiving(controlFrame(byte(c.typ), 0, c.body))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := control.Receive()
			runtime.ReadMemStats(&after)
			if (err == nil) != c.ok || err != nil && !errors.Is(err, transport.ErrProtocol) {
				t.Fatalf("%x: %v", c.body, err)
			}
			if took := after.TotalAlloc - before.TotalAlloc; took > 1<<20 {
				t.Fatalf("a message of %d bytes allocates %d bytes", len(c.body), took)
			}
		})
	}
}

func FuzzControl(f *testing.F) {
	for _, m := range allMessages() {
		frame, err := AppendMessage(nil, m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(m.Type()), frame[controlHeadLen:])
	}
	f.Add(byte(99), []byte{})
	f.Fuzz(func(t *testing.T, typ byte, body []byte) {
		m, err := receiving(controlFrame(typ, 0, body)).Receive()
		if err != nil {
			return
		}
		once, err := encMode.Marshal(m)
		if err != nil {
			t.Fatalf("%+v cannot be encoded: %v", m, err)
		}
		again, err := decodeMessage(m.Type(), once)
		if err != nil {
			t.Fatalf("%x cannot be decoded: %v", once, err)
		}
		if twice, err := encMode.Marshal(again); err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("%x encodes again to %x, %v", once, twice, err)
		}
	})
}

func isAny(err error, of ...error) bool {
	return slices.ContainsFunc(of, func(one error) bool { return errors.Is(err, one) })
}

// FuzzControlLane receives from arbitrary lanes, headers and bodies. The error must be one of the
// documented ones.
func FuzzControlLane(f *testing.F) {
	var lane []byte
	for _, m := range allMessages() {
		lane, _ = AppendMessage(lane, m)
	}
	f.Add(lane)
	f.Add(controlFrame(99, controlIgnorable, []byte{1}))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := receiving(b)
		for n := 0; ; n++ {
			_, err := c.Receive()
			if err == nil && n > len(b)/controlHeadLen {
				t.Fatalf("%d messages in %d bytes", n, len(b))
			}
			if err == nil {
				continue
			}
			if !isAny(err, transport.ErrProtocol, transport.ErrCorrupt, transport.ErrPeerGone, io.ErrUnexpectedEOF) {
				t.Fatalf("%T: %v", err, err)
			}
			if len(c.room) != maxControlFrame {
				t.Fatalf("the room has grown to %d bytes", len(c.room))
			}
			return
		}
	})
}

// slowLane is a lane whose peer reads a message after a delay.
type slowLane struct {
	memoryLane
	takes time.Duration
	woken atomic.Int32
}

func (s *slowLane) Write(p []byte) (int, error) {
	time.Sleep(s.takes)
	return len(p), nil
}

func (s *slowLane) SetDeadline(time.Time) error {
	s.woken.Add(1)
	return nil
}

// TestControlSendTimeout checks that a message which is read in time leaves no timer that could end
// a later Send, and that Send fails if the peer reads too late.
func TestControlSendTimeout(t *testing.T) {
	for _, c := range []struct {
		name  string
		takes time.Duration
		want  error
		woken int32
	}{
		{"in time", sendTimeout * 3 / 4, nil, 0},
		{"too late", sendTimeout * 5 / 4, os.ErrDeadlineExceeded, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				lane := &slowLane{takes: c.takes}
				control := NewControl(lane)
				for range 3 {
					if err := control.Send(&Cancel{}); !errors.Is(err, c.want) {
						t.Errorf("Send returned %v, want %v", err, c.want)
					}
				}
				time.Sleep(2 * sendTimeout)
				if got := lane.woken.Load(); got != c.woken {
					t.Errorf("the deadline was set %d times, want %d", got, c.woken)
				}
			})
		})
	}
}

// TestControlWaitsInVirtualTime checks that two concurrent Sends to a peer that does not
// read both end, in virtual time too: one waits for the peer, the other for the first.
func TestControlWaitsInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, l := transport.Pipe()
		defer l.Close()
		lane, err := d.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer lane.Close()
		began, c := time.Now(), NewControl(lane)
		var senders sync.WaitGroup
		for range 2 {
			senders.Go(func() {
				for c.Send(&Ack{Pad: make([]byte, 8<<10)}) == nil {
				}
			})
		}
		senders.Wait()
		if took := time.Since(began); took != sendTimeout {
			t.Errorf("the Sends ended after %v, want %v", took, sendTimeout)
		}
	})
}
