package migrate

import (
	"errors"
	"testing"
	"time"

	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/test/port"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
)

// eitherPair is a destination that listens to QUIC and TLS, and a dialler of both.
func eitherPair(t testing.TB) (*transport.EitherDialer, transport.Listener) {
	sender, receiver := pinned(t)
	l, err := transport.ListenEither("127.0.0.1:0", receiver, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return eitherDialer(l.Addr().String(), sender), l
}

func eitherDialer(to string, c transport.Credentials) *transport.EitherDialer {
	return &transport.EitherDialer{
		QUIC: &transport.QUICDialer{Addr: to, Credentials: c},
		TLS:  &transport.TLSDialer{Addr: to, Credentials: c},
	}
}

// TestChoose measures both carriers of a destination, and migrates over the better one.
func TestChoose(t *testing.T) {
	d, l := eitherPair(t)
	p := newPair(t, func(testing.TB) (transport.Dialer, transport.Listener) { return d, l })
	p.add(t, "d0", "mlx5?size=5MiB", "mlx5?size=5MiB")
	p.add(t, "d1", "xe?size=3MiB", "xe?size=3MiB")
	p.send.Lanes = 3
	w := wait(t, p)
	var told []migration.Event
	o := w.send
	o.Observe = func(ev migration.Event) { told = append(told, ev) }
	d.PreferTLS() // as a choice before may have done
	all, err := reader.Choose(w.sendCtx, d, w.sources, &o)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, c := range all {
		if c.Err != nil {
			t.Fatal(c.Err)
		}
		checkPreflight(t, c.Found)
		if names[c.Carrier] = true; c.Found.Carrier.Name != c.Carrier {
			t.Errorf("over %s: %+v", c.Carrier, c.Found.Carrier)
		}
	}
	if far := len(all) == 1 && all[0].Found.RTT > 5*time.Millisecond; !far && (!names["quic"] || !names["tls"]) {
		t.Errorf("measured were %v", names) // unless the machine is so busy that it seems far
	}
	if len(told) != 2 || told[0].Phase != migration.Connect || told[1].Kind != migration.Peer {
		t.Errorf("the source reported %v", told)
	}
	w.untouched(t)
	if told := w.told(); len(told) != len(all) {
		t.Errorf("the destination reported %v", told)
	}
	lane, err := d.Dial(t.Context())
	if err != nil || transport.CarrierOf(lane).Name != all[0].Carrier {
		t.Errorf("%v, %v is dialled, want %s", lane, err, all[0].Carrier)
	}
	lane.Close()
	w.migrate(t)
}

// TestChooseWhoAnswers: if one carrier answers, it is chosen. For devices that do not run
// nothing is measured. If none answers, that is the error.
func TestChooseWhoAnswers(t *testing.T) {
	p := newPair(t, overTLS)
	p.add(t, "d0", "mlx5?size=5MiB", "mlx5?size=5MiB")
	w := wait(t, p)
	tls := w.dialer.(*transport.TLSDialer)
	d := &transport.EitherDialer{QUIC: &transport.QUICDialer{Addr: tls.Addr, Credentials: tls.Credentials}, TLS: tls}
	all, err := reader.Choose(w.sendCtx, d, w.sources, &w.send)
	if err != nil || len(all) != 1 || all[0].Carrier != "tls" || all[0].Err != nil {
		t.Fatalf("%+v, %v, want TLS", all, err)
	}
	w.cancelReceive()
	<-w.done
	if all, err := reader.Choose(w.sendCtx, eitherDialer(port.Own(t), tls.Credentials), w.sources, &w.send); len(all) > 0 || !errors.Is(err, transport.ErrUnreachable) {
		t.Errorf("%+v, %v, want an error because no carrier answers", all, err)
	}
	if _, err := w.sources[0].Device.SetState(vfio.Stop); err != nil {
		t.Fatal(err)
	}
	all, err = reader.Choose(w.sendCtx, d, w.sources, &w.send)
	if f, ok := errors.AsType[*transport.Fault](err); len(all) > 0 || !ok || f.Code != transport.CodeDevice {
		t.Errorf("%+v, %v, want that the device does not run", all, err)
	}
}
