package reader

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/sim"
)

// committed is the journal of a source that an earlier process left in doubt.
func committed(t *testing.T) *handoff.Memory {
	t.Helper()
	j := handoff.NewMemory()
	if err := j.Append(handoff.Entry{Record: handoff.Commit, Attempt: restarted, Journal: j.ID(), PeerJournal: migration.JournalID{7}}); err != nil {
		t.Fatal(err)
	}
	return j
}

var restarted = migration.Attempt{Mig: migration.ID{1}, Epoch: 1}

// resumedLane is the control lane of a source that sends RESUME and waits for the answer. It closes
// lanes that the source has aborted.
func resumedLane(ctx context.Context, l transport.Listener) (*wire.Control, error) {
	for {
		lane, err := l.Accept(ctx)
		if err != nil {
			return nil, err
		}
		control := wire.NewControl(lane)
		if _, err = wire.ReadPreamble(lane); err == nil {
			_, err = control.Receive()
		}
		if err == nil {
			err = control.Send(&wire.Status{Attempt: restarted})
		}
		if err == nil {
			return control, nil
		}
		lane.Close()
	}
}

// playDestination plays a destination: it sends a message to a source that reconnects, and answers
// COMMIT. It returns the types of the source's messages.
func playDestination(ctx context.Context, l transport.Listener, first wire.Message) (heard []wire.MessageType, err error) {
	control, err := resumedLane(ctx, l)
	if err != nil {
		return nil, err
	}
	defer control.Lane().Close()
	control.Send(first)
	for {
		m, err := control.Receive()
		if err != nil {
			return heard, nil // the source hung up
		}
		heard = append(heard, m.Type())
		if m.Type() == wire.TypeCommit {
			control.Send(&wire.Running{Attempt: restarted, Journal: migration.JournalID{7}, StartNS: 1})
		}
	}
}

// TestRestartInDoubt checks that an ACK of bytes which the earlier process sent is no breach of the
// protocol: the source must not ask for its devices because of it. The downtime is unknown to this
// process.
func TestRestartInDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, l := transport.Pipe()
		defer l.Close()
		heard := make(chan []wire.MessageType, 1)
		go func() { // the source's end ends it
			ack := &wire.Ack{Attempt: restarted, Devices: []wire.DeviceAck{{Seq: 3, Applied: 4096}}}
			received, err := playDestination(t.Context(), l, ack)
			if err != nil {
				t.Error(err)
			}
			heard <- received
		}()
		r, err := Send(t.Context(), d, []Source{{Name: "d", Device: stoppedDevice(t)}}, &Options{Journal: committed(t)})
		if err != nil || r.Outcome != migration.Committed || len(r.Warnings) > 0 || len(r.Stages) > 0 {
			t.Errorf("%+v, %v", r, err)
		}
		if got := fmt.Sprint(<-heard); got != "[COMMIT FIN]" {
			t.Errorf("the source sent %s", got)
		}
	})
}

// TestCopyAskedFor checks that the source asks a destination for its copy until it answers, if
// COMMIT does not name the copy. It asks a silent destination again, and warns the user once.
func TestCopyAskedFor(t *testing.T) {
	const doubt = time.Minute
	for _, c := range []struct {
		name   string
		silent int // lanes without an answer
		gone   int // lanes that are closed after that
		want   migration.Outcome
	}{
		{"answered", 0, 0, migration.Committed},
		{"silent at first", 3, 0, migration.Committed},
		{"hangs up at first", 0, 100, migration.Committed},
		{"silent", 1000, 0, migration.InDoubt},
		{"hangs up", 0, 10000, migration.InDoubt},
	} {
		synctest.Test(t, func(t *testing.T) {
			d, l := transport.Pipe()
			defer l.Close()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() { // cancel ends it
				if answersLate(ctx, l, c.silent, c.gone) == nil {
					playDestination(ctx, l, &wire.Status{Attempt: restarted})
				}
			}()
			j := handoff.NewMemory()
			if err := j.Append(handoff.Entry{Record: handoff.Commit, Attempt: restarted, Journal: j.ID()}); err != nil {
				t.Fatal(err)
			}
			warned := 0
			o := &Options{Journal: j, DoubtFor: doubt, Observe: func(ev migration.Event) {
				if ev.Kind == migration.Warning && strings.Contains(ev.Text, "until it answers") {
					warned++
				}
			}}
			began := time.Now()
			r, err := Send(t.Context(), d, []Source{{Name: "d", Device: stoppedDevice(t)}}, o)
			if r.Outcome != c.want || (err == nil) != (c.want == migration.Committed) {
				t.Errorf("%s: %v, %v", c.name, r.Outcome, err)
			}
			if took := time.Since(began); c.want == migration.InDoubt && (took < doubt || took > doubt+time.Second) {
				t.Errorf("%s: the source ended after %v, want %v", c.name, took, doubt)
			}
			if want := min(1, c.silent+c.gone); warned != want {
				t.Errorf("%s: the user was warned %d times, want %d", c.name, warned, want)
			}
		})
	}
}

// answersLate gives no answer on some lanes, closes some more, and answers QUERY on the next lane
// that the source still waits on.
func answersLate(ctx context.Context, l transport.Listener, silent, gone int) error {
	for n := 0; ; n++ {
		lane, err := l.Accept(ctx)
		switch {
		case err != nil:
			return err
		case n < silent:
			context.AfterFunc(ctx, func() { lane.Close() })
		case n < silent+gone || !answersQuery(lane):
			lane.Close()
		default:
			lane.Close()
			return nil
		}
	}
}

// answersQuery reports whether the source has received the destination's record.
func answersQuery(lane transport.Lane) bool {
	if _, err := wire.ReadPreamble(lane); err != nil {
		return false
	}
	control := wire.NewControl(lane)
	if _, err := control.Receive(); err != nil {
		return false
	}
	if control.Send(&wire.Status{Attempt: restarted, Journal: migration.JournalID{7}, MaxEpoch: restarted.Epoch, Record: handoff.Ready.String()}) != nil {
		return false
	}
	control.Receive() // until the source hangs up
	return true
}

// stoppedDevice is a device that COMMIT left in STOP_COPY.
func stoppedDevice(t *testing.T) vfio.Device {
	t.Helper()
	d, err := sim.OpenURL("mtty")
	if err == nil {
		_, err = d.SetState(vfio.StopCopy)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// TestRestartEmpty checks that the source does not ask for devices that were reset since, even
// after a cancel: the destination's copy is the only one.
func TestRestartEmpty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, l := transport.Pipe()
		defer l.Close()
		device, err := sim.OpenURL("mtty")
		if err != nil {
			t.Fatal(err)
		}
		defer device.Close()
		ctx, cancel := context.WithCancel(t.Context())
		heard := make(chan []wire.MessageType, 1)
		go func() { // as above
			time.Sleep(unreachableGrace / 2) // out of reach at first
			received, err := playDestination(t.Context(), l, &wire.NotStarted{Attempt: restarted, Journal: migration.JournalID{7}})
			if err != nil {
				t.Error(err)
			}
			heard <- received
		}()
		lost := func(ev migration.Event) {
			if ev.Kind == migration.Warning {
				cancel()
			}
		}
		r, err := Send(ctx, d, []Source{{Name: "d", Device: device}}, &Options{Journal: committed(t), Observe: lost})
		if err != nil || r.Outcome != migration.Committed {
			t.Errorf("%+v, %v", r, err)
		}
		if got := fmt.Sprint(<-heard); got != "[COMMIT FIN]" || !errors.Is(ctx.Err(), context.Canceled) {
			t.Errorf("the source sent %s", got)
		}
	})
}

// TestTurnedAway checks that a destination which does not know the migration is no answer, and is
// not asked in a tight loop.
func TestTurnedAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, l := transport.Pipe()
		asked := make(chan int, 1)
		go func() { // the listener's end ends it
			n := 0
			for ; ; n++ {
				lane, err := l.Accept(t.Context())
				if err != nil {
					asked <- n
					return
				}
				control := wire.NewControl(lane)
				wire.ReadPreamble(lane)
				control.Receive()
				control.Send(&wire.Declined{Attempt: restarted, Code: transport.CodeBusy, Text: "nothing is known"})
				control.Receive() // until the source has received it
				lane.Close()
			}
		}()
		var warned []string
		observe := func(ev migration.Event) {
			if ev.Kind != migration.Progress && ev.Kind != migration.Phase {
				warned = append(warned, ev.Text)
			}
		}
		r, err := Send(t.Context(), d, []Source{{Name: "d", Device: stoppedDevice(t)}}, &Options{Journal: committed(t), Observe: observe, DoubtFor: time.Minute})
		l.Close()
		f, ok := errors.AsType[*transport.Fault](err)
		if r.Outcome != migration.InDoubt || !ok || !f.Remote || f.Err.Error() != "nothing is known" {
			t.Errorf("%v, %v", r.Outcome, err)
		}
		if n := <-asked; n < 10 || n > 60 {
			t.Errorf("asked %d times in a minute", n)
		}
		if len(warned) != 3 { // the migration continues, no answer yet, the peer does not know
			t.Errorf("warnings %q", warned)
		}
	})
}

// TestImpatience checks that SetDoubtFor ends a long wait.
func TestImpatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, l := transport.Pipe()
		defer l.Close()
		var tuning Tuning
		began := time.Now()
		time.AfterFunc(time.Hour, func() { tuning.SetDoubtFor(time.Nanosecond) })
		r, err := Send(t.Context(), d, []Source{{Name: "d", Device: stoppedDevice(t)}}, &Options{Journal: committed(t), Tuning: &tuning})
		if took := time.Since(began); r.Outcome != migration.InDoubt || err == nil || took < time.Hour || took > time.Hour+time.Second {
			t.Errorf("%v after %v: %v", r.Outcome, took, err)
		}
	})
}

// otherPeer dials a peer that is not the destination.
type otherPeer struct {
	transport.Dialer
	id transport.PeerID
}

type otherLane struct {
	transport.Lane
	id transport.PeerID
}

func (l otherLane) Peer() transport.PeerID      { return l.id }
func (l otherLane) Is(id transport.PeerID) bool { return l.id == id }

func (o otherPeer) Dial(ctx context.Context) (transport.Lane, error) {
	lane, err := o.Dialer.Dial(ctx)
	if err != nil {
		return nil, err
	}
	return otherLane{lane, o.id}, nil
}

// TestRestartOtherPeer checks that the source does not even ask another peer, although it may send
// to that peer: RESUME would reveal the journal that makes an answer credible.
func TestRestartOtherPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, l := transport.Pipe()
		defer l.Close()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { // ends with ctx
			defer close(ended)
			for {
				lane, err := l.Accept(ctx)
				if err != nil {
					return
				}
				control := wire.NewControl(lane)
				if _, err := wire.ReadPreamble(lane); err == nil {
					if m, err := control.Receive(); err == nil {
						t.Errorf("another peer received %v", m.Type())
						control.Send(&wire.Declined{Attempt: restarted, Journal: migration.JournalID{7}, Code: transport.CodeCancelled})
					}
				}
				lane.Close()
			}
		}()
		j := committed(t)
		last := j.Last()
		last.PeerID = transport.PeerID{1}
		j.Append(last)
		r, err := Send(t.Context(), otherPeer{d, transport.PeerID{66}}, []Source{{Name: "d", Device: stoppedDevice(t)}}, &Options{Journal: j, DoubtFor: 3 * time.Second})
		if r.Outcome != migration.InDoubt || j.Last().Record != handoff.Commit {
			t.Errorf("%v, %v, recorded is %v", r.Outcome, err, j.Last().Record)
		}
		cancel()
		<-ended
	})
}

// TestRestartOpenIsAsked checks that the source asks the destination about an attempt that was left
// open, before it runs devices that may run there.
func TestRestartOpenIsAsked(t *testing.T) {
	for _, c := range []struct {
		answer  wire.Message
		holds   bool // the device holds the state of the attempt
		outcome migration.Outcome
		record  handoff.Record
	}{
		{&wire.Status{Attempt: restarted, Record: "FORCED", MaxEpoch: 2}, false, migration.InDoubt, handoff.Open},
		{&wire.Status{Attempt: restarted, Record: "FORCED", MaxEpoch: 2}, true, migration.InDoubt, handoff.Open},
		{&wire.Status{Attempt: restarted, Record: "READY", MaxEpoch: 1}, false, migration.InDoubt, handoff.Open},
		{&wire.Status{Attempt: restarted, Record: "READY", MaxEpoch: 1}, true, migration.Aborted, handoff.Owner},
		{&wire.Declined{Attempt: restarted, Code: transport.CodeBusy, Text: "in use"}, false, migration.Aborted, handoff.Open},
		{&wire.Status{Attempt: restarted, Record: "NONE"}, false, migration.Aborted, handoff.Owner},
		{nil, true, migration.Aborted, handoff.Owner}, // without an answer they are the source's
	} {
		synctest.Test(t, func(t *testing.T) {
			d, l := transport.Pipe()
			done := make(chan struct{})
			go func() { // answers one question
				defer close(done)
				defer l.Close()
				lane, err := l.Accept(t.Context())
				if err != nil || c.answer == nil {
					time.Sleep(2 * askTimeout)
					return
				}
				control := wire.NewControl(lane)
				wire.ReadPreamble(lane)
				if m, err := control.Receive(); err != nil || m.Type() != wire.TypeQuery {
					t.Errorf("the source sent %v, %v", m, err)
				}
				control.Send(c.answer)
				wire.HangUp(lane, func() { control.Receive() })
			}()
			j := handoff.NewMemory()
			j.Append(handoff.Entry{Record: handoff.Open, Attempt: restarted, Journal: j.ID()})
			device, err := sim.OpenURL("mtty")
			if err != nil {
				t.Fatal(err)
			}
			defer device.Close()
			if c.holds {
				if stream, err := device.SetState(vfio.StopCopy); err == nil {
					defer stream.Close()
				}
			}
			next := migration.Attempt{Mig: restarted.Mig, Epoch: 2}
			r, err := Send(t.Context(), d, []Source{{Name: "d", Device: device}}, &Options{Journal: j, Attempt: next})
			var records []handoff.Record
			for _, e := range j.Entries() {
				records = append(records, e.Record)
			}
			if err == nil || r.Outcome != c.outcome || len(records) < 2 && c.record != handoff.Open || len(records) > 1 && records[1] != c.record {
				t.Errorf("%+v, holds %v: %v, %v, the records are %v", c.answer, c.holds, r.Outcome, err, records)
			}
			<-done
		})
	}
}

// TestQueryHungUpOn checks that a destination which hangs up on QUERY is asked again, and that its
// later answer counts.
func TestQueryHungUpOn(t *testing.T) {
	for _, hangUp := range []func(transport.Lane){
		func(l transport.Lane) { l.Close() },
		func(l transport.Lane) { wire.HangUp(l, func() {}) },
	} {
		synctest.Test(t, func(t *testing.T) {
			d, l := transport.Pipe()
			defer l.Close()
			go func() { // the source's end, or the listener's, ends it
				for asked := 0; ; asked++ {
					lane, err := l.Accept(t.Context())
					if err != nil {
						return
					}
					if asked < 2 {
						hangUp(lane)
						continue
					}
					wire.ReadPreamble(lane)
					control := wire.NewControl(lane)
					control.Receive()
					control.Send(&wire.Status{Attempt: restarted, Record: handoff.Running.String(), MaxEpoch: restarted.Epoch})
					wire.HangUp(lane, func() {})
				}
			}()
			open := handoff.NewMemory()
			open.Append(handoff.Entry{Record: handoff.Open, Attempt: restarted, Journal: open.ID()})
			device, err := sim.OpenURL("mtty") // it runs, and so holds nothing of the attempt
			if err != nil {
				t.Fatal(err)
			}
			defer device.Close()
			began := time.Now()
			r, err := Send(t.Context(), d, []Source{{Name: "d", Device: device}}, &Options{Journal: open, Attempt: migration.Attempt{Mig: restarted.Mig, Epoch: 2}})
			if r.Outcome != migration.InDoubt || err == nil || transport.CodeOf(err) != transport.CodeDecided || time.Since(began) > 5*time.Second {
				t.Errorf("%v after %v: %v", r.Outcome, time.Since(began), err)
			}
		})
	}
}

// TestDoubtUnheard checks that a control lane is dialled again in doubt as well. The lane is open,
// and the destination hears nothing on it although it sends ACKs.
func TestDoubtUnheard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, l := transport.Pipe()
		defer l.Close()
		ended := make(chan struct{})
		go func() { // the end of the lane ends it
			defer close(ended)
			deaf, err := resumedLane(t.Context(), l)
			if err != nil {
				return
			}
			defer deaf.Lane().Close()
			heard := make(chan error, 1)
			go func() { _, err := playDestination(t.Context(), l, &wire.Ack{Attempt: restarted}); heard <- err }()
			for deaf.Send(&wire.Ack{Attempt: restarted}) == nil {
				time.Sleep(wire.Heartbeat)
			}
			if err := <-heard; err != nil {
				t.Error(err)
			}
		}()
		began := time.Now()
		r, err := Send(t.Context(), d, []Source{{Name: "d", Device: stoppedDevice(t)}}, &Options{Journal: committed(t), DoubtFor: time.Minute})
		if took := time.Since(began); err != nil || r.Outcome != migration.Committed || took > 3*time.Second {
			t.Errorf("%v after %v: %v", r.Outcome, took, err)
		}
		<-ended
	})
}
