package transport

import (
	"context"
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/migpipe/migpipe/test/port"
)

// TestEither: lanes of both carriers come out of one listener, which lets them in by
// one acceptGate, and gives both ports back when it closes.
func TestEither(t *testing.T) {
	sender, receiver := testIdentity(t), testIdentity(t)
	known := Pinned{receiver, []PeerID{sender.ID()}}
	l, err := ListenEither(port.Own(t), known, nil)
	if err != nil {
		t.Fatal(err)
	}
	addr, there := l.Addr().String(), Pinned{sender, []PeerID{receiver.ID()}}
	for want, d := range map[string]Dialer{"quic": &QUICDialer{Addr: addr, Credentials: there}, "tls": &TLSDialer{Addr: addr, Credentials: there}} {
		ours, err := d.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ours.Write([]byte{1})
		theirs, err := l.Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := CarrierOf(theirs).Name; got != want {
			t.Errorf("a lane over %s came as one over %s", want, got)
		}
		theirs.Close()
		ours.Close()
	}
	if either := l.(*eitherListener); either.quic.acceptGate != either.acceptGate || either.tls.acceptGate != either.acceptGate {
		t.Error("there is more than one acceptGate")
	}
	if second, err := ListenEither(addr, known, nil); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a second listener: %v, %v", second, err)
	}
	l.Close()
	again, err := ListenEither(addr, known, nil)
	if err != nil {
		t.Fatalf("after its end: %v", err)
	}
	again.Close()
}

// TestEitherTaken: a port that one carrier cannot have is not used by the other.
func TestEitherTaken(t *testing.T) {
	taken, err := net.Listen("tcp", port.Own(t))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	id := Pinned{testIdentity(t), nil}
	if l, err := ListenEither(taken.Addr().String(), id, nil); !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "tcp") {
		t.Errorf("%v, %v, want that TCP's port is in use", l, err)
	}
	udp, err := net.ListenPacket("udp", taken.Addr().String())
	if err != nil {
		t.Fatalf("the UDP port was not given back: %v", err)
	}
	udp.Close()
	if l, err := ListenEither("nowhere", id, nil); err == nil {
		t.Errorf("%v", l)
	}
}

// answering is a carrier that answers after a time, with a lane or an error.
type answering struct {
	after time.Duration
	err   error
	asked int
	lanes []*closing
}

type closing struct {
	Lane
	closed bool
}

func (l *closing) Close() error { l.closed = true; return nil }

func (a *answering) Dial(ctx context.Context) (Lane, error) {
	a.asked++
	select {
	case <-time.After(a.after):
	case <-ctx.Done():
		return nil, dialError(ctx, ctx.Err())
	}
	if a.err != nil {
		return nil, a.err
	}
	a.lanes = append(a.lanes, &closing{})
	return a.lanes[len(a.lanes)-1], nil
}

// TestEitherDialer: the carrier that answers is found soon, and dialled once; a lane that is not needed is
// closed.
func TestEitherDialer(t *testing.T) {
	const never, limit = time.Hour, 5 * time.Second
	refused := &carrierError{ErrUnreachable, errors.New("refused")}
	hungUp := &carrierError{ErrHungUp, errors.New("EOF")}
	stranger := &WrongPeerError{}
	for _, c := range []struct {
		name      string
		quic, tls answering
		took      time.Duration
		tlsAsked  int
		taken     string // or the error
	}{
		{"QUIC answers", answering{after: 900 * time.Millisecond}, answering{}, 900 * time.Millisecond, 0, "quic"},
		{"QUIC is silent", answering{after: never}, answering{after: time.Millisecond}, headStart + time.Millisecond, 1, "tls"},
		{"QUIC refuses", answering{err: refused}, answering{after: time.Millisecond}, time.Millisecond, 1, "tls"},
		{"QUIC is late", answering{after: 1500 * time.Millisecond}, answering{after: never}, 1500 * time.Millisecond, 1, "quic"},
		{"both answer late", answering{after: 1500 * time.Millisecond}, answering{after: 500 * time.Millisecond}, 1500 * time.Millisecond, 1, "either"},
		{"both are silent", answering{after: never}, answering{after: never}, limit, 1, ErrUnreachable.Error()},
		{"both refuse", answering{err: refused}, answering{err: refused}, 0, 1, "cannot be reached: QUIC: refused; TLS: refused"},
		{"QUIC hangs up", answering{err: hungUp}, answering{after: time.Millisecond}, time.Millisecond, 1, "tls"},
		{"QUIC hangs up, and TLS refuses", answering{err: hungUp}, answering{err: refused}, 0, 1, ErrHungUp.Error() + ": QUIC: EOF; TLS: refused"},
		{"TLS hangs up, and QUIC refuses", answering{err: refused}, answering{err: hungUp}, 0, 1, ErrHungUp.Error() + ": QUIC: refused; TLS: EOF"},
		{"both hang up", answering{err: hungUp}, answering{err: hungUp}, 0, 1, ErrHungUp.Error() + ": QUIC: EOF; TLS: EOF"},
		{"TLS hangs up, and QUIC is silent", answering{after: never}, answering{err: hungUp}, limit, 1, ErrHungUp.Error()},
		{"QUIC is a stranger's", answering{err: stranger}, answering{}, 0, 0, stranger.Error()},
		{"TLS is a stranger's", answering{err: refused}, answering{err: stranger}, 0, 1, stranger.Error()},
		{"QUIC is silent, and there is little time", answering{after: never}, answering{after: time.Millisecond}, 251 * time.Millisecond, 1, "tls"},
		{"QUIC is silent, and TLS a stranger's", answering{after: never}, answering{err: stranger}, limit, 1, stranger.Error()},
	} {
		synctest.Test(t, func(t *testing.T) {
			d := &EitherDialer{QUIC: &c.quic, TLS: &c.tls}
			within := limit
			if strings.HasSuffix(c.name, "little time") {
				within = 500 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			began := time.Now()
			lane, err := d.Dial(ctx)
			if took := time.Since(began); took != c.took || c.quic.asked != 1 || c.tls.asked != c.tlsAsked {
				t.Errorf("%s: it took %v, QUIC was asked %d times, TLS %d", c.name, took, c.quic.asked, c.tls.asked)
			}
			if err != nil {
				if lane != nil || !strings.Contains(err.Error(), c.taken) {
					t.Errorf("%s: %v, %v, want %s", c.name, lane, err, c.taken)
				}
				if said := strings.Contains(c.taken, ErrHungUp.Error()); errors.Is(err, ErrHungUp) != said {
					t.Errorf("%s: %v is an ErrHungUp: %v, want %v", c.name, err, !said, said)
				}
				return
			}
			for carrier, a := range map[string]*answering{"quic": &c.quic, "tls": &c.tls} {
				for _, l := range a.lanes {
					if l.closed != (lane != Lane(l)) || lane == Lane(l) && c.taken != carrier && c.taken != "either" {
						t.Errorf("%s: a lane of %s, closed: %v", c.name, carrier, l.closed)
					}
				}
			}
		})
	}
}

// TestEitherDialerStays: what has answered is asked first, until it is silent; cancelled, it
// looks no further.
func TestEitherDialerStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		silent := time.Hour
		quic, tls := &answering{after: silent}, &answering{}
		d := &EitherDialer{QUIC: quic, TLS: tls}
		dials := func(want time.Duration) {
			t.Helper()
			began := time.Now()
			if _, err := d.Dial(t.Context()); err != nil || time.Since(began) != want {
				t.Errorf("%v after %v, want %v", err, time.Since(began), want)
			}
		}
		dials(headStart)
		dials(0)
		quic.after, tls.after = 0, silent
		dials(headStart)
		dials(0)
		d.PreferTLS()
		dials(headStart)
		quic.after = silent
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(10*time.Millisecond, func() { cancel(errors.New("enough")) })
		asked := tls.asked
		if lane, err := d.Dial(ctx); err == nil || errors.Is(err, ErrUnreachable) || tls.asked != asked || !strings.Contains(err.Error(), "enough") {
			t.Errorf("cancelled: %v, %v, TLS was asked %d times more", lane, err, tls.asked-asked)
		}
	})
}
