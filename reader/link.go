package reader

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/report"
)

// link is what is done about lanes that are lost.
type link struct {
	since time.Time // when the control lane was lost, zero while it stands
	cause error
	// refusal is what a destination says that answers nobody's COMMIT, nil if it does not.
	refusal *transport.Fault
	back    time.Time     // when it was last restored
	pause   time.Duration // before it was dialled
}

// How long one try to reach the destination again may take: the first has to be
// short, because a packet that a cut has swallowed is sent again ever more rarely
// (RFC 9002, section 6.2.1), and the later ones long, because paths are.
const (
	tryLeast = 500 * time.Millisecond
	tryMost  = transport.HandshakeTimeout
)

// How long to wait after a try that has failed at once.
const (
	pauseLeast = 50 * time.Millisecond
	pauseMost  = 2 * time.Second
)

// lanePause keeps a lane that ends whenever it is dialled from being dialled in a row.
const lanePause = 100 * time.Millisecond

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// connectLimit is the default of Options.ConnectLimit, and what one try to reach the
// destination may take, until it answers or not.
const connectLimit = 5 * time.Second

// reach dials until somebody answers, for as long as limit leaves time for another try. A
// destination that hangs up may have no place just now, and is dialled again until limit.
func reach(ctx context.Context, limit time.Duration, dial func(context.Context) (transport.Lane, error)) (transport.Lane, error) {
	last := time.Now().Add(limit - connectLimit)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var hungUp error
	for {
		lane, err := dial(ctx)
		if errors.Is(err, transport.ErrHungUp) || errors.Is(err, transport.ErrPeerGone) { // under the preamble
			hungUp = err
		} else if !errors.Is(err, transport.ErrUnreachable) || !time.Now().Before(last) {
			if err != nil && ctx.Err() != nil {
				err = cmp.Or(hungUp, err) // which says more than that the time is over
			}
			return lane, err
		}
		if sleep(ctx, lanePause) != nil {
			return nil, err
		}
	}
}

// keepDialling tries until it succeeds, or ctx ends.
func keepDialling(ctx context.Context, try func(context.Context) error) {
	limit, pause := tryLeast, pauseLeast
	for {
		began := time.Now()
		each, cancel := context.WithTimeout(ctx, limit)
		err := try(each)
		cancel()
		if err == nil || ctx.Err() != nil {
			return
		}
		if time.Since(began) >= limit {
			limit = min(2*limit, tryMost)
			continue
		}
		if sleep(ctx, pause) != nil {
			return
		}
		pause = min(2*pause, pauseMost)
	}
}

// Events of dialling again.
type (
	rejoined struct {
		control *transport.Control
		first   transport.Message
	}
	greeting   struct{ control *transport.Control } // a lane to say HELLO on
	turnedAway struct{ why *transport.Fault }
	laneBack   struct {
		number int
		lane   transport.Lane
	}
)

// mayReturn reports whether a conversation whose lane has ended may go on over another:
// the end of a lane ends no attempt. In doubt it may whatever the lane has ended with,
// since only the destination's answer ends the doubt.
func (e *engine) mayReturn(err error) bool {
	switch e.owner.Phase {
	case handoff.SourceHello, handoff.SourceTransfer, handoff.SourceWaiting, handoff.SourceDeciding:
		return transport.Ended(err) && !e.offer.Devices[0].Splice // what was spliced into a lane is gone with it
	case handoff.SourceDoubt:
		return true
	}
	return false
}

// controlLost goes on over another control lane, or ends the conversation. A
// destination that can still be told why it ends, is.
func (e *engine) controlLost(ev controlLost) {
	if ev.control != e.control {
		return // it has a successor
	}
	f := &transport.Fault{Code: transport.CodeOf(ev.err), Err: ev.err}
	switch {
	case e.mayReturn(ev.err) && e.owner.Phase == handoff.SourceHello:
		e.greetAgain(ev.err)
	case e.mayReturn(ev.err):
		e.lose(ev.err)
	case f.Code == transport.CodeCorrupt || f.Code == transport.CodeProtocol:
		e.failed(f)
		e.fail(f, handoff.Unreachable{})
	default:
		e.fail(f, handoff.Unreachable{})
	}
}

// greetAgain says HELLO on another lane: the destination has not answered the first, and
// perhaps has not heard it. A destination that has sent WELCOME answers the second with
// WELCOME. The watch bounds this.
func (e *engine) greetAgain(err error) {
	e.dropControl()
	e.link.cause = err
	e.redial(e.life, lanePause, func(ctx context.Context) error {
		lane, err := e.open(ctx, transport.LaneControl, 0, transport.ID{})
		if err == nil {
			e.postLane(greeting{transport.NewControl(lane)}, lane)
		}
		return err
	})
}

func (e *engine) greeting(ev greeting) {
	if e.owner.Phase != handoff.SourceHello {
		ev.control.Lane().Close()
		return
	}
	e.hear(ev.control)
	e.times.hello = time.Now()
	e.say(e.offer)
}

// dropControl gives the control lane up.
func (e *engine) dropControl() {
	e.control.Lane().Close()
	e.control = nil
	e.unlink()
}

// postLane hands an event with a lane to the loop, or closes the lane when the loop has
// ended.
func (e *engine) postLane(ev any, lane transport.Lane) {
	select {
	case e.events <- ev:
	case <-e.quit:
		lane.Close()
	}
}

// lose dials the control lane again.
func (e *engine) lose(err error) {
	e.dropControl()
	clear(e.dialling)
	e.tell(report.Event{Kind: report.Lost, Text: err.Error()})
	e.seek(err)
	e.advance(cut{})
}

// seek looks for the destination. One that has answered, and hung up at once, is left in
// peace for ever longer: in doubt that may go on for ever.
func (e *engine) seek(cause error) {
	was := e.link
	e.link = link{since: time.Now(), cause: cause}
	if time.Since(was.back) < pauseMost {
		e.link.pause = min(max(pauseLeast, 2*was.pause), pauseMost)
	}
	peer, doubt, who := e.owner.Peer, e.owner.Phase == handoff.SourceDoubt, e.out.Peer
	e.redial(e.life, e.link.pause, func(ctx context.Context) error { return e.rejoin(ctx, peer, who, doubt) })
}

// rejoin opens a control lane for the attempt at hand, and waits for the first word of
// the destination: only then is this side known to be heard. In doubt DECLINED in
// another journal's name is no answer, and whoever says so may be there by mistake, or
// serve another migration just now: it is asked again like one that is out of reach.
func (e *engine) rejoin(ctx context.Context, peer transport.JournalID, who transport.ID, doubt bool) error {
	lane, err := e.open(ctx, transport.LaneControl, 0, who)
	if f, ok := errors.AsType[*transport.Fault](err); ok && doubt {
		e.post(turnedAway{f})
	}
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { lane.SetDeadline(time.Unix(1, 0)) })
	control := transport.NewControl(lane)
	err = control.Send(&transport.Resume{Attempt: e.opts.Attempt, Journal: e.opts.Journal.ID(), Peer: peer})
	var first transport.Message
	if err == nil {
		first, err = control.Receive()
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if d, ok := first.(*transport.Declined); ok && doubt && d.Journal != peer && err == nil {
		f := peerFault(d.Code, d.Device, d.Offset, d.Text)
		e.post(turnedAway{f})
		err = f
	}
	if err != nil {
		lane.Close()
		return err
	}
	e.postLane(rejoined{control, first}, lane)
	return nil
}

// open dials a lane of the attempt at hand, to the peer that has said WELCOME, once that
// is known: an attempt is between two, and whom else this side may send to has no word
// in it.
func (e *engine) open(ctx context.Context, kind transport.LaneKind, number int, who transport.ID) (transport.Lane, error) {
	lane, err := e.dialer.Dial(ctx)
	if err != nil {
		return nil, err
	}
	if who != (transport.ID{}) && !transport.IsPeer(lane, who) {
		lane.Close()
		return nil, &transport.Fault{Code: transport.CodeAuth, Err: fmt.Errorf("another peer answers there, %v, and not %v, which the attempt is with", transport.PeerOf(lane), who)}
	}
	p := transport.Preamble{Kind: kind, Index: uint16(number), Mig: e.opts.Attempt.Mig, Epoch: e.opts.Attempt.Epoch}
	if err := transport.WritePreamble(lane, p); err != nil {
		lane.Close()
		return nil, err
	}
	return lane, nil
}

// turnedAway tells once why a destination that is reached is no answer.
func (e *engine) turnedAway(f *transport.Fault) {
	if before := e.link.refusal; before == nil || before.Err.Error() != f.Err.Error() {
		e.tell(report.Event{Kind: report.Warning, Text: fmt.Sprintf("in doubt: who answers is asked again, since it does not know: %s", f.Err)})
	}
	e.link.refusal = f
}

// rejoined goes on with the conversation: what was said last may be lost, so it is said
// again.
func (e *engine) rejoined(ev rejoined) {
	switch e.owner.Phase {
	case handoff.SourceTransfer, handoff.SourceWaiting, handoff.SourceDeciding, handoff.SourceDoubt:
	default: // meanwhile nobody waits for it any more
		ev.control.Lane().Close()
		return
	}
	was := e.link
	e.link = link{back: time.Now(), pause: was.pause}
	e.hear(ev.control)
	e.tell(report.Event{Kind: report.Restored})
	e.message(ev.first)
	if e.owner.Phase == handoff.SourceTransfer || e.owner.Phase == handoff.SourceWaiting {
		e.estimate()
		e.sayEnds()
	}
	e.own(handoff.Reached{})
	e.advance(mended{time.Since(was.since)})
	e.dialMissing()
}

// sayEnds says again what was said of streams that are whole.
func (e *engine) sayEnds() {
	for _, d := range e.devices {
		if d.endSaid {
			e.sayEnd(d)
		}
	}
}

func (e *engine) sayEnd(d *device) {
	end := d.end
	end.Attempt = e.opts.Attempt
	d.endSaid = true
	e.say(&end)
}

// say sends a message, if there is somebody to hear it. A lane that fails is seen by
// its reader.
func (e *engine) say(m transport.Message) {
	if e.control != nil {
		e.control.Send(m)
	}
}

// moving reports whether there is something for data lanes to carry.
func (e *engine) moving() bool {
	return e.owner.Phase == handoff.SourceTransfer || e.owner.Phase == handoff.SourceWaiting
}

// laneFailed has what a data lane carried sent over the others, and dials it again.
func (e *engine) laneFailed(ev laneFailed) {
	if !e.moving() {
		return
	}
	if !transport.Ended(ev.err) || e.offer.Devices[0].Splice {
		e.failed(&transport.Fault{Code: transport.CodeOf(ev.err), Err: fmt.Errorf("data lane: %w", ev.err)})
		return
	}
	closeLanes(e.lanes[ev.number : ev.number+1])
	e.lanes[ev.number] = nil
	if !slices.ContainsFunc(e.lanes, func(l transport.Lane) bool { return l != nil }) {
		e.bareSince = time.Now()
	}
	e.queue.requeue(ev.number)
	e.dialMissing()
}

// dialMissing dials the data lanes that are lost, unless the destination is out of reach:
// then the control lane comes first, and a destination that was started again knows of no
// data lane before it has heard RESUME.
func (e *engine) dialMissing() {
	for i, lane := range e.lanes {
		if lane != nil || e.dialling[i] || e.control == nil || !e.moving() {
			continue
		}
		e.dialling[i] = true
		who := e.out.Peer
		e.redial(e.linked, lanePause, func(ctx context.Context) error {
			lane, err := e.open(ctx, transport.LaneData, i, who)
			if err == nil {
				e.postLane(laneBack{i, lane}, lane)
			}
			return err
		})
	}
}

func (e *engine) laneBack(ev laneBack) {
	if !e.moving() || e.lanes[ev.number] != nil {
		ev.lane.Close()
		return
	}
	e.lanes[ev.number], e.dialled[ev.number] = ev.lane, ev.lane
	e.dialling[ev.number], e.bareSince = false, time.Time{}
	e.startSender(ev.number)
}

// forget closes lanes that were dialled too late for the loop to see.
func (e *engine) forget() {
	for {
		select {
		case ev := <-e.events:
			switch ev := ev.(type) {
			case rejoined:
				ev.control.Lane().Close()
			case greeting:
				ev.control.Lane().Close()
			case laneBack:
				ev.lane.Close()
			}
		default:
			return
		}
	}
}
