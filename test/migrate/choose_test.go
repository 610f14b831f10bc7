package migrate

import (
	"errors"
	"testing"

	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/vfio"
)

// both is a destination that listens to QUIC and TLS, with a dialler for each.
func both(t testing.TB) (quic, tls transport.Dialer, l transport.Listener) {
	sender, receiver := pinned(t)
	l, err := transport.ListenEither("127.0.0.1:0", receiver, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	addr := l.Addr().String()
	return &transport.QUICDialer{Addr: addr, Credentials: sender}, &transport.TLSDialer{Addr: addr, Credentials: sender}, l
}

// TestChoose measures both carriers of a destination, and migrates over either way's better.
func TestChoose(t *testing.T) {
	quic, tls, l := both(t)
	p := newPair(t, func(testing.TB) (transport.Dialer, transport.Listener) { return quic, l })
	p.add(t, "d0", "mlx5?size=5MiB", "mlx5?size=5MiB")
	p.add(t, "d1", "xe?size=3MiB", "xe?size=3MiB")
	p.send.Lanes = 3
	w := wait(t, p)
	all := reader.Choose(w.sendCtx, quic, tls, w.sources, &w.send)
	if len(all) != 2 {
		t.Fatalf("%d carriers were measured: %+v", len(all), all)
	}
	names := map[string]bool{}
	for _, c := range all {
		if c.Err != nil {
			t.Fatal(c.Err)
		}
		checkPreflight(t, c.Found)
		names[c.Found.Carrier.Name] = true
	}
	if !names["quic"] || !names["tls"] {
		t.Errorf("measured were %v", names)
	}
	w.untouched(t)
	if told := w.told(); len(told) != 2 {
		t.Errorf("the destination told of %v", told)
	}
	w.dialer = all[0].Dialer
	w.migrate(t)
}

// TestChooseWhoAnswers: where one carrier is there it is that one, for whatever follows:
// sources that stand still are those of a migration that is gone on with.
func TestChooseWhoAnswers(t *testing.T) {
	for _, stopped := range []bool{false, true} {
		p := newPair(t, overTLS)
		p.add(t, "d0", "mlx5?size=5MiB", "mlx5?size=5MiB")
		w := wait(t, p)
		tls := w.dialer.(*transport.TLSDialer)
		quic := &transport.QUICDialer{Addr: tls.Addr, Credentials: tls.Credentials}
		if stopped {
			if _, err := w.sources[0].Device.SetState(vfio.Stop); err != nil {
				t.Fatal(err)
			}
		}
		all := reader.Choose(w.sendCtx, quic, tls, w.sources, &w.send)
		if len(all) != 2 || all[0].Dialer != transport.Dialer(tls) || !errors.Is(all[1].Err, transport.ErrUnreachable) {
			t.Fatalf("%+v, want TLS first, and nobody at QUIC", all)
		}
		f, stands := errors.AsType[*transport.Fault](all[0].Err)
		if stands != stopped || stands && f.Code != transport.CodeDevice {
			t.Errorf("stopped %v: over TLS %v", stopped, all[0].Err)
		}
		w.cancelReceive()
		<-w.done
	}
}
