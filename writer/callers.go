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

// callers are the sources that connect: the goroutines that accept their lanes and read the first
// message, and the conversations with sources that are not served: answers from a journal,
// refusals, preflights. The loop owns it.
type callers struct {
	post  func(event)     // hands an event to the loop
	lanes chan<- event    // takes events that hold a lane
	quit  <-chan struct{} // closed when the loop takes no more events

	refusals  *refusals                     // of this Receive
	alarms    map[migration.ID]time.Time    // when each migration last raised an alarm
	answering answeringPeers                // peers that are answered from a journal
	postponed map[transport.PeerID]admitted // HELLOs of these peers
	refusing  atomic.Int32                  // sources that are being refused
	dismissed []transport.Lane              // of dismissed sources, which may still read the reason
	preflight *preflight                    // the last one; nil before
	successor *admitted                     // the source's next attempt, which has ended this one
	acceptErr error                         // why no further lanes are accepted

	accepting *tasks.Group // accepts and admits lanes
	talking   *tasks.Group // conversations: each ends by itself, or with the loop
}

func newCallers(post func(event), lanes chan<- event, quit <-chan struct{}) *callers {
	return &callers{post: post, lanes: lanes, quit: quit, refusals: new(refusals),
		accepting: tasks.NewGroup(context.Background()), talking: tasks.NewGroup(context.Background())}
}

// listen accepts lanes until the group ends, and reads the preamble of each.
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

// admit reads a lane's preamble, and the first message of a control lane. It ends within
// HandshakeTimeout, or with ctx.
func (c *callers) admit(ctx context.Context, lane transport.Lane) {
	lane.SetDeadline(time.Now().Add(transport.HandshakeTimeout))
	stop := context.AfterFunc(ctx, func() { lane.SetDeadline(aLongTimeAgo) })
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

// refuse sends a source the reason why it is not served, unless too many refusals are under way. It
// reports whether it does.
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

// answer runs a conversation with a source, one at a time for each peer.
func (c *callers) answer(ev admitted, converse func(ctx context.Context)) {
	peer := transport.PeerOf(ev.lane)
	if !c.answering.enter(peer) {
		ev.lane.Close() // it asks again
		return
	}
	c.talking.Go(func(ctx context.Context) {
		converse(ctx)
		c.answering.exit(peer)
		c.post(answered{peer})
	})
}

// postpone holds a HELLO until a conversation with its source about an earlier attempt has ended:
// that one has the journal open. A later HELLO replaces it.
func (c *callers) postpone(peer transport.PeerID, ev admitted) {
	if before, ok := c.postponed[peer]; ok {
		before.lane.Close()
	}
	if c.postponed == nil {
		c.postponed = map[transport.PeerID]admitted{}
	}
	c.postponed[peer] = ev
}

// dismiss holds the lane of a declined source open for a while, so that the source can read the
// reason.
func (c *callers) dismiss(lane transport.Lane) {
	lane.SetDeadline(time.Now().Add(time.Second)) // for it to hang up; ends its reader
	c.dismissed = append(c.dismissed, lane)
	if len(c.dismissed) > maxRefusing {
		c.dismissed[0].Close()
		c.dismissed = c.dismissed[1:]
	}
}

// close closes the lanes of sources that were not served.
func (c *callers) close() {
	for _, l := range c.dismissed {
		l.Close()
	}
	for _, ev := range c.postponed {
		ev.lane.Close()
	}
	c.talking.Wait()
}

// maxAnswering bounds the conversations beside the present migration.
const maxAnswering = 16

// answeringPeers are the peers that are being answered, each over one lane: a slow peer delays no
// other. The zero value has none.
type answeringPeers struct {
	mu   sync.Mutex
	busy map[transport.PeerID]bool
}

// enter reports whether there is a place for a peer, and takes it.
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

// has reports whether a peer is being answered.
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
