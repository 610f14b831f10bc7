package transport

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// In a synctest bubble a pipe's deadlines are those of the bubble's clock.
func TestPipeDeadlineInBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, l := Pipe()
		ours, err := d.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := l.Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		ours.SetDeadline(start.Add(time.Hour))
		if _, err := ours.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read: %v", err)
		}
		if took := time.Since(start); took != time.Hour {
			t.Errorf("an hour took %v", took)
		}
		theirs.SetDeadline(time.Now().Add(time.Hour))
		theirs.Close() // stops the timer, or the bubble would wait for it
		ours.Close()
		l.Close()
	})
}

// The peer of a lane that is not accepted notices the listener's Close.
func TestPipeCloseWithBacklog(t *testing.T) {
	d, l := Pipe()
	lane, err := d.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if _, err := lane.Read(make([]byte, 1)); !errors.Is(err, ErrPeerGone) {
		t.Errorf("read: %v, want ErrPeerGone", err)
	}
}

// A half is a queue of bytes, for reads and writes of any size.
func TestPipeHalfIsAQueue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := newPipeHalf()
		past := time.Unix(1, 0)
		var queued []byte
		next := byte(0)
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				p := make([]byte, rapid.IntRange(0, pipeBuffer+10).Draw(t, "size"))
				for i := range p {
					p[i] = next + byte(i)
				}
				h.writeBy.at = time.Time{}
				if len(queued)+len(p) > pipeBuffer {
					p = p[:pipeBuffer-len(queued)] // more would wait for a reader
				}
				if n, err := h.write(p); n != len(p) || err != nil {
					t.Fatalf("write %d: %d, %v", len(p), n, err)
				}
				queued, next = append(queued, p...), next+byte(len(p))
			},
			"write to a full one": func(t *rapid.T) {
				h.writeBy.at = past
				if n, err := h.write([]byte{1}); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatalf("late write: %d, %v", n, err)
				}
			},
			"read": func(t *rapid.T) {
				if len(queued) == 0 {
					t.Skip("would wait")
				}
				p := make([]byte, rapid.IntRange(1, pipeBuffer+10).Draw(t, "size"))
				n, err := h.read(p)
				if n != min(len(p), len(queued)) || err != nil || !bytes.Equal(p[:n], queued[:n]) {
					t.Fatalf("read %d of %d: %d, %v", len(p), len(queued), n, err)
				}
				queued = queued[n:]
			},
		})
		h.finished = true
		rest, err := io.ReadAll(readerFunc(h.read))
		if err != nil || !bytes.Equal(rest, queued) {
			t.Fatalf("the rest is %d bytes, %v, want %d", len(rest), err, len(queued))
		}
		if _, err := h.write([]byte{1}); !errors.Is(err, net.ErrClosed) {
			t.Fatalf("write after the end: %v", err)
		}
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
