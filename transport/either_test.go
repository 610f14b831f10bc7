package transport

import (
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
)

// TestEither: lanes of both carriers come out of one listener, which counts those who try
// both together, and gives both ports back when it closes.
func TestEither(t *testing.T) {
	sender, receiver := testIdentity(t), testIdentity(t)
	known := Pinned{receiver, []ID{sender.ID()}}
	l, err := ListenEither("127.0.0.1:0", known, nil)
	if err != nil {
		t.Fatal(err)
	}
	addr, there := l.Addr().String(), Pinned{sender, []ID{receiver.ID()}}
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
	bucket := l.(*eitherListener).callers.bucket(l.Addr())
	if left := bucket.Tokens(); left > ConnBurst-1.5 {
		t.Errorf("after two connections there is room for %.1f of %d", left, ConnBurst)
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
	taken, err := net.Listen("tcp", "127.0.0.1:0")
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
