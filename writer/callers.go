package writer

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/migpipe/migpipe/internal/tasks"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// callers are the sources that come: what accepts their lanes and hears the first word, and
// the conversations with those that are not served: answered from a journal, turned away, or
// asking for a preflight. The loop owns it.
type callers struct {
	post  func(event)     // hands an event to the loop
	lanes chan<- event    // takes events that hold a lane
	quit  <-chan struct{} // closed when the loop takes no more

	refusals  *refusals                     // of this Receive
	alarms    map[migration.ID]time.Time    // when each migration last raised one
	answering answeringPeers                // who is answered from a journal
	postponed map[transport.PeerID]admitted // HELLOs of those
	refusing  atomic.Int32                  // sources being told that another is served
	dismissed []transport.Lane              // of sources that were sent away, as long as they may be reading why
	preflight *preflight                    // the last one; nil before
	successor *admitted                     // the source's next attempt, when it has ended this one
	acceptErr error                         // why no more lanes are accepted

	accepting *tasks.Group // what accepts, and admits
	talking   *tasks.Group // conversations: end by themselves, or with the loop
}

func newCallers(post func(event), lanes chan<- event, quit <-chan struct{}) *callers {
	return &callers{post: post, lanes: lanes, quit: quit, refusals: new(refusals),
		accepting: tasks.NewGroup(context.Background()), talking: tasks.NewGroup(context.Background())}
}

// listen accepts lanes until the group ends, and has each say what it is for.
func (c *callers) listen(listener transport.Listener) {
	c.accepting.Go(func(ctx context.Context) { c.accept(ctx, listener) })
}

func (c *callers) accept(ctx context.Context, listener transport.Listener) {
	slots := make(chan struct{}, transport.MaxHalfOpen)
	for {
		lane, err := listener.Accept(ctx)
		if err != nil {
			if ctx.Err() == nil {
				c.post(acceptFailed{fmt.Errorf("accept: %w", err)})
			}
			return
		}
		select {
		case slots <- struct{}{}:
		default: // more silent lanes than a migration can have
			lane.Close()
			continue
		}
		c.accepting.Go(func(ctx context.Context) {
			c.admit(ctx, lane)
			<-slots
		})
	}
}

// admit reads a lane's preamble, and the first message of a control lane. It ends
// within HandshakeTimeout, or with ctx.
func (c *callers) admit(ctx context.Context, lane transport.Lane) {
	lane.SetDeadline(time.Now().Add(transport.HandshakeTimeout))
	stop := context.AfterFunc(ctx, func() { lane.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	ev := admitted{lane: lane}
	var err error
	if ev.pre, err = wire.ReadPreamble(lane); err == nil && ev.pre.Kind == wire.LaneControl {
		ev.control = wire.NewControl(lane)
		ev.first, err = ev.control.Receive()
	}
	if err != nil || !stop() {
		lane.Close()
		return
	}
	lane.SetDeadline(time.Time{})
	select {
	case c.lanes <- ev:
	case <-c.quit:
		lane.Close()
	}
}

// turnAway tells a source why it is not served, unless too many are being told. It reports
// whether it does.
func (c *callers) refuse(ev admitted, why *transport.Fault) bool {
	if c.refusing.Add(1) > maxRefusing {
		c.refusing.Add(-1)
		ev.lane.Close()
		return false
	}
	c.talking.Go(func(context.Context) {
		defer c.refusing.Add(-1)
		sendRefusal(ev, why)
	})
	return true
}

// tell has a source told something, one thing at a time.
func (c *callers) answer(ev admitted, tell func(ctx context.Context)) {
	peer := transport.PeerOf(ev.lane)
	if !c.answering.enter(peer) {
		ev.lane.Close() // it asks again
		return
	}
	c.talking.Go(func(ctx context.Context) {
		tell(ctx)
		c.answering.exit(peer)
		c.post(answered{peer})
	})
}

// postpone has a HELLO wait for the end of a conversation with its source about an attempt
// before, which has the journal open. One more HELLO takes its place.
func (c *callers) postpone(peer transport.PeerID, ev admitted) {
	if before, ok := c.postponed[peer]; ok {
		before.lane.Close()
	}
	if c.postponed == nil {
		c.postponed = map[transport.PeerID]admitted{}
	}
	c.postponed[peer] = ev
}

// dismiss leaves the lane of a source that was sent away open for a while, for it to read why.
func (c *callers) dismiss(lane transport.Lane) {
	lane.SetDeadline(time.Now().Add(time.Second)) // for it to hang up; ends its reader
	c.dismissed = append(c.dismissed, lane)
	if len(c.dismissed) > maxRefusing {
		c.dismissed[0].Close()
		c.dismissed = c.dismissed[1:]
	}
}

// close closes the lanes of the sources that were not served.
func (c *callers) close() {
	for _, l := range c.dismissed {
		l.Close()
	}
	for _, ev := range c.postponed {
		ev.lane.Close()
	}
	c.talking.Wait()
}

// maxBusy bounds the conversations beside the migration at hand.
const maxAnswering = 16

// busyPeers are the peers that are being told something, each over one lane: whoever is slow
// keeps no other from its answer. The zero value has none.
type answeringPeers struct {
	mu   sync.Mutex
	busy map[transport.PeerID]bool
}

// enter reports whether there is a place for a peer.
func (g *answeringPeers) enter(peer transport.PeerID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.busy[peer] || len(g.busy) == maxAnswering {
		return false
	}
	if g.busy == nil {
		g.busy = map[transport.PeerID]bool{}
	}
	g.busy[peer] = true
	return true
}

// has reports whether a peer is being told something.
func (g *answeringPeers) has(peer transport.PeerID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.busy[peer]
}

func (g *answeringPeers) exit(peer transport.PeerID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.busy, peer)
}

func (g *answeringPeers) any() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.busy) > 0
}
