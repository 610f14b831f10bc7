package reader

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/migpipe/migpipe/internal/tasks"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// aLongTimeAgo is a deadline that has passed: it wakes everything that waits for a lane.
var aLongTimeAgo = time.Unix(1, 0)

// connection is the conversation with the destination: the control lane, whether the destination
// hears it, and how it is dialled again. The loop owns it.
type connection struct {
	dialer  transport.Dialer
	attempt migration.Attempt
	journal migration.JournalID // of this side
	peer    transport.PeerID    // the peer that sent WELCOME, zero before
	start   time.Time           // all times count from here
	post    func(event)         // hands an event to the loop
	lanes   chan<- event        // takes events that hold a lane
	heard   chan heard          // messages: boxed as events they would be garbage. It has no buffer, so that events which their reader posts later arrive later
	quit    <-chan struct{}     // closed when the loop takes no more events

	control   *wire.Control // nil while it is lost
	hearing   hearing
	lostAt    time.Time        // when the control lane was lost, zero while it is open
	lossCause error            // why it was lost, the last time
	refusal   *transport.Fault // the reply of a destination that cannot answer COMMIT, nil without one

	restoredAt time.Time
	retryPause time.Duration // before the last dial
	queriedAt  time.Duration // when QUERY was last sent

	reading  sync.WaitGroup // the readers of control lanes, which end with their lanes
	dialling *tasks.Group   // ends with the loop
	linked   *tasks.Group   // of dialling: ends when the control lane is lost; nil before there is one
}

func newConnection(o Options, dialer transport.Dialer, start time.Time, post func(event), lanes chan<- event, quit <-chan struct{}) *connection {
	return &connection{dialer: dialer, attempt: o.Attempt, journal: o.Journal.ID(), start: start,
		post: post, lanes: lanes, heard: make(chan heard), quit: quit, dialling: tasks.NewGroup(context.Background())}
}

// The bounds of one try to reach the destination again. The first try has to be short: a packet
// that was lost is sent again at growing intervals (RFC 9002, section 6.2.1). Later tries have to be
// long, because paths are.
const (
	minTry = 500 * time.Millisecond
	maxTry = transport.HandshakeTimeout
)

// The bounds of the pause after a try that failed at once.
const (
	minPause = 50 * time.Millisecond
	maxPause = 2 * time.Second
)

// lanePause is the pause before a lane is dialled again, so that a lane that ends at once is not
// dialled in a tight loop.
const lanePause = 100 * time.Millisecond

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// reach dials until a destination answers, for as long as limit leaves time for another try. A
// destination that hangs up may have no place at present: reach dials it again until limit.
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
				err = cmp.Or(hungUp, err) // the hang-up explains more than the end of the time
			}
			return lane, err
		}
		if sleep(ctx, lanePause) != nil {
			return nil, err
		}
	}
}

// retryDial calls try until it succeeds, or ctx ends.
func retryDial(ctx context.Context, try func(context.Context) error) {
	limit, pause := minTry, minPause
	for {
		began := time.Now()
		each, cancel := context.WithTimeout(ctx, limit)
		err := try(each)
		cancel()
		if err == nil || ctx.Err() != nil {
			return
		}
		if time.Since(began) >= limit {
			limit = min(2*limit, maxTry)
			continue
		}
		if sleep(ctx, pause) != nil {
			return
		}
		pause = min(2*pause, maxPause)
	}
}

// redial dials a lane by try, after a pause, until try succeeds or the group ends.
func redial(g *tasks.Group, pause time.Duration, try func(context.Context) error) {
	g.Go(func(ctx context.Context) {
		if sleep(ctx, pause) == nil {
			retryDial(ctx, try)
		}
	})
}

// openLane dials a lane of the attempt. Once the peer that sent WELCOME is known, openLane accepts
// no other peer: an attempt is between two peers, although this side may be allowed to send to
// more.
func (c *connection) openLane(ctx context.Context, kind wire.LaneKind, number int, peer transport.PeerID) (transport.Lane, error) {
	lane, err := c.dialer.Dial(ctx)
	if err != nil {
		return nil, err
	}
	if peer != (transport.PeerID{}) && !transport.IsPeer(lane, peer) {
		lane.Close()
		return nil, &transport.Fault{Code: transport.CodeAuth, Err: fmt.Errorf("peer %v answered, and not %v, the destination of this attempt", transport.PeerOf(lane), peer)}
	}
	p := wire.Preamble{Kind: kind, Index: uint16(number), Mig: c.attempt.Mig, Epoch: c.attempt.Epoch}
	if err := wire.WritePreamble(lane, p); err != nil {
		lane.Close()
		return nil, err
	}
	return lane, nil
}

// attach reads a control lane from now on. The reader ends with the lane.
func (c *connection) attach(control *wire.Control) {
	c.control = control
	c.hearing.prove(time.Since(c.start))
	c.linked = c.dialling.Child()
	c.reading.Go(func() { c.readControl(control) })
}

// readControl hands the destination's messages to the loop.
func (c *connection) readControl(control *wire.Control) {
	for {
		m, err := control.Receive()
		if err != nil {
			c.post(controlLost{control, err})
			return
		}
		select {
		case c.heard <- heard{control, m}:
		case <-c.quit:
		}
	}
}

// send sends a message, if there is a control lane. The reader of the lane notices a lane that
// fails.
func (c *connection) send(m wire.Message) {
	if c.control != nil {
		c.control.Send(m)
	}
}

// dropControl closes the control lane.
func (c *connection) dropControl() {
	c.control.Lane().Close()
	c.control = nil
	c.linked.Stop()
}

// stopLinked ends the dials of data lanes.
func (c *connection) stopLinked() {
	if c.linked != nil {
		c.linked.Stop()
	}
}

// postLane hands an event with a lane to the loop, or closes the lane when the loop has ended.
func (c *connection) postLane(ev laneEvent) {
	select {
	case c.lanes <- ev:
	case <-c.quit:
		ev.heldLane().Close()
	}
}

// greetAgain opens another control lane for HELLO: the destination has not answered the first
// HELLO, and may not have received it. A destination that has sent WELCOME answers the second HELLO
// with WELCOME. The watch bounds this.
func (c *connection) greetAgain(cause error) {
	c.dropControl()
	c.lossCause = cause
	redial(c.dialling, lanePause, func(ctx context.Context) error {
		lane, err := c.openLane(ctx, wire.LaneControl, 0, transport.PeerID{})
		if err == nil {
			c.postLane(greeting{wire.NewControl(lane)})
		}
		return err
	})
}

// redialControl dials the control lane again. The pauses grow after a destination that answered and
// hung up at once: in doubt that may last for ever. destination is the destination's journal.
func (c *connection) redialControl(cause error, destination migration.JournalID, doubt bool) {
	before := c.retryPause
	c.lostAt, c.lossCause, c.refusal, c.retryPause = time.Now(), cause, nil, 0
	if time.Since(c.restoredAt) < maxPause {
		c.retryPause = min(max(minPause, 2*before), maxPause)
	}
	peer := c.peer
	redial(c.dialling, c.retryPause, func(ctx context.Context) error { return c.rejoin(ctx, destination, peer, doubt) })
}

// rejoin opens a control lane for the present attempt, and waits for the destination's first
// message: only that proves that the destination hears this side. In doubt a DECLINED of another
// journal is no answer: that destination may be there by mistake, or serve another migration at
// present. rejoin then fails, as if the destination were out of reach.
func (c *connection) rejoin(ctx context.Context, destination migration.JournalID, peer transport.PeerID, doubt bool) error {
	lane, err := c.openLane(ctx, wire.LaneControl, 0, peer)
	if f, ok := errors.AsType[*transport.Fault](err); ok && doubt {
		c.post(refused{f})
	}
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { lane.SetDeadline(aLongTimeAgo) })
	control := wire.NewControl(lane)
	err = control.Send(&wire.Resume{Attempt: c.attempt, Journal: c.journal, Peer: destination})
	var first wire.Message
	if err == nil {
		first, err = control.Receive()
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if d, ok := first.(*wire.Declined); ok && doubt && d.Journal != destination && err == nil {
		f := peerFault(d.Code, d.Device, d.Offset, d.Text)
		c.post(refused{f})
		err = f
	}
	if err != nil {
		lane.Close()
		return err
	}
	c.postLane(rejoined{control, first})
	return nil
}

// restore takes a new control lane. It returns how long there was none.
func (c *connection) restore(control *wire.Control) (away time.Duration) {
	away = time.Since(c.lostAt)
	c.lostAt, c.lossCause, c.refusal, c.restoredAt = time.Time{}, nil, nil, time.Now()
	c.attach(control)
	return away
}

// isUnheard reports, at each tick, whether the control lane is open and the destination has not
// heard it for the limit. asks says that only an answer to QUERY proves the opposite. idle says
// that no answer is due.
func (c *connection) isUnheard(limit time.Duration, asks, idle bool) bool {
	if c.control == nil || wire.Local(c.control.Lane()) {
		return false
	}
	now := time.Since(c.start)
	if asks && now-c.queriedAt >= wire.Heartbeat {
		c.queriedAt = now
		c.send(&wire.Query{Attempt: c.attempt})
	}
	if idle {
		c.hearing.prove(now)
		return false
	}
	return c.hearing.isOverdue(now, limit)
}

// close ends the conversation, and joins its goroutines.
func (c *connection) close() {
	c.dialling.Stop()
	if c.control != nil {
		wire.HangUp(c.control.Lane(), c.reading.Wait)
	}
	c.reading.Wait()
	c.dialling.Wait()
}

func peerFault(code transport.Code, device string, offset uint64, text string) *transport.Fault {
	return &transport.Fault{Code: code, Remote: true, Device: transport.PeerText(device), Offset: offset, Err: errors.New(transport.PeerText(text))}
}
