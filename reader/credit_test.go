package reader

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/migpipe/migpipe/transport"
)

func TestCreditRoom(t *testing.T) {
	c := newCredit()
	for _, g := range []transport.Window{{Seq: 4, Offset: 100}, {Seq: 2, Offset: 200}, {Seq: 4, Offset: 50}} {
		c.grant(g) // a promise never shrinks, in either measure
	}
	for _, w := range []struct{ seq, offset, room uint64 }{
		{0, 0, 200}, {3, 199, 1}, {3, 200, 0}, {3, 201, 0}, {4, 0, 0}, {5, 0, 0},
	} {
		if got := c.room(w.seq, w.offset); got != w.room {
			t.Errorf("chunk %d at %d: room for %d bytes, want %d", w.seq, w.offset, got, w.room)
		}
	}
}

func TestCreditWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCredit()
		var room uint64
		var err error
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() { room, err = c.wait(ctx, 1, 10) }()
		c.grant(transport.Window{Seq: 1, Offset: 100}) // chunk 0 only
		synctest.Wait()
		if room != 0 || err != nil {
			t.Fatalf("waited for chunk 1 and got %d, %v", room, err)
		}
		c.grant(transport.Window{Seq: 2, Offset: 30})
		synctest.Wait()
		if room != 90 || err != nil {
			t.Fatalf("room is %d, %v, want 90", room, err)
		}
		go func() { room, err = c.wait(ctx, 2, 100) }()
		enough := errors.New("enough")
		cancel(enough)
		synctest.Wait()
		if room != 0 || err != enough {
			t.Fatalf("after the cancel: %d, %v", room, err)
		}
	})
}
