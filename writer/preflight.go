package writer

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/migpipe/migpipe/internal/tasks"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/handoff/witness"
	"github.com/migpipe/migpipe/transport/migration"
)

// preflight answers a source that asks about a migration. It changes no device, takes none of the
// chunks' memory and knows nothing of the hand-off: a migration that comes meanwhile does not
// notice it.
type preflight struct {
	opts      Options
	fleet     *fleet
	targets   []Target
	control   *wire.Control
	opening   wire.Preamble
	noJournal migration.JournalID             // a random id: no attempt follows, so there is no journal
	tasks     *tasks.Group                    // end with the conversation, the streams, or the time limit
	why       atomic.Pointer[transport.Fault] // why this side ended it, nil if the peer or the engine did
	ended     atomic.Bool
	post      func(event)

	room     atomic.Int32  // probe lanes that may still come: none before WELCOME
	received atomic.Uint64 // bytes of the probe lanes
}

func newPreflight(e *engine, ev admitted) *preflight {
	return &preflight{tasks: e.work.Child(), opts: e.opts, fleet: e.fleet, targets: e.fleet.targets(), control: wire.NewControl(ev.lane), opening: ev.pre, noJournal: migration.NewJournalID(), post: e.post}
}

// end ends the conversation, with a reason for the peer; nil for none.
func (p *preflight) end(why *transport.Fault) {
	p.why.CompareAndSwap(nil, why)
	p.ended.Store(true)
	p.tasks.Stop()
}

// isOver reports whether another preflight may be answered.
func (p *preflight) isOver() bool { return p == nil || p.ended.Load() }

// run has the conversation, and sends the reason if this side ends it.
func (p *preflight) run(ctx context.Context) {
	lane := p.control.Lane()
	limit := wire.PreflightTimeout
	if p.opts.Witness != nil {
		limit += witness.Timeout
	}
	timer := time.AfterFunc(limit, func() {
		p.end(&transport.Fault{Code: transport.CodeTimeout, Err: fmt.Errorf("a preflight may take %v", limit)})
	})
	defer timer.Stop()
	stop := context.AfterFunc(ctx, func() { lane.SetDeadline(aLongTimeAgo) })
	err := p.converse(ctx)
	if why := p.why.Load(); why != nil {
		err = why
	} else if ctx.Err() != nil {
		err = ctx.Err()
	}
	stop()
	p.end(nil) // before the lane is closed: a peer that sees the end may come again at once
	if errors.Is(err, transport.ErrPeerGone) {
		lane.Close()
		return
	}
	f := preflightFault(err)
	reply(p.control, &wire.Declined{Attempt: p.attempt(), Journal: p.noJournal,
		Code: f.Code, Device: f.Device, Text: f.Err.Error()})
}

// preflightFault gives every end of a preflight a reason.
func preflightFault(err error) *transport.Fault {
	if f, ok := errors.AsType[*transport.Fault](err); ok {
		return f
	}
	if errors.Is(err, context.Canceled) {
		return &transport.Fault{Code: transport.CodeCancelled, Err: errors.New("the destination is ending")}
	}
	return &transport.Fault{Code: transport.CodeOf(err), Err: err}
}

func (p *preflight) attempt() migration.Attempt {
	return migration.Attempt{Mig: p.opening.Mig, Epoch: p.opening.Epoch}
}

// converse checks HELLO and answers each QUERY, until something ends it.
func (p *preflight) converse(ctx context.Context) error {
	m, err := p.control.Receive()
	if err != nil {
		return err
	}
	hello, ok := m.(*wire.Hello)
	if !ok || hello.Attempt != p.attempt() || hello.Epoch == 0 {
		return fmt.Errorf("%w: a preflight that begins with %v, of attempt %d", transport.ErrProtocol, m.Type(), m.About().Epoch)
	}
	terms, err := p.checkHello(hello)
	p.post(preflightHeard{migration.Event{Kind: migration.Asked, Peer: transport.PeerOf(p.control.Lane()), Text: transport.PeerText(hello.Software), Err: err}})
	if err != nil {
		return err
	}
	p.room.Store(int32(terms.lanes))
	welcome := p.welcome(ctx, hello, terms)
	if welcome.Warning != "" {
		p.post(preflightHeard{migration.Event{Kind: migration.Warning, Text: "that migration: " + welcome.Warning}})
	}
	if err := p.control.Send(welcome); err != nil {
		return err
	}
	for {
		if err := p.answerQuery(); err != nil {
			return err
		}
	}
}

// checkHello makes all checks of a migration that touch no device.
func (p *preflight) checkHello(h *wire.Hello) (terms, error) {
	t, fault := agree(h, p.targets, p.opts)
	if fault != nil {
		return t, fault
	}
	return t, p.fleet.checkAvailable()
}

// welcome promises no memory: no chunk will come.
func (p *preflight) welcome(ctx context.Context, h *wire.Hello, t terms) *wire.Welcome {
	probe := p.opts.probeWitness(ctx)
	probe.doubts = t.listDoubts(h.Devices, p.opts.MaxState)
	m := newWelcome(h, t, p.noJournal, &p.opts, probe)
	m.Windows = make([]wire.Window, len(h.Devices))
	return m
}

func (p *preflight) answerQuery() error {
	m, err := p.control.Receive()
	if err != nil {
		return err
	}
	if m.Type() != wire.TypeQuery || *m.About() != p.attempt() {
		return fmt.Errorf("%w: %v in a preflight", transport.ErrProtocol, m.Type())
	}
	return p.control.Send(&wire.Status{Attempt: p.attempt(), Journal: p.noJournal,
		Record: handoff.None.String(), Received: p.received.Load()})
}

// admits reports whether a probe lane belongs to this preflight, and has a place.
func (p *preflight) admits(ev admitted) bool {
	a := migration.Attempt{Mig: ev.pre.Mig, Epoch: ev.pre.Epoch}
	ours := !p.isOver() && a == p.attempt() && transport.IsPeer(ev.lane, transport.PeerOf(p.control.Lane()))
	return ours && p.room.Add(-1) >= 0
}

// probeRead is how many bytes of a probe lane are read at once.
const probeRead = 256 << 10

// readProbe counts the bytes of a probe lane. It ends with the lane, or with the preflight.
func (p *preflight) readProbe(ctx context.Context, lane transport.Lane) {
	defer lane.Close()
	defer context.AfterFunc(ctx, func() { lane.SetDeadline(aLongTimeAgo) })()
	for room := make([]byte, probeRead); ; {
		n, err := lane.Read(room)
		if p.received.Add(uint64(n)) > wire.MaxProbe {
			p.end(&transport.Fault{Code: transport.CodeLimit, Err: fmt.Errorf("the probe lanes of a preflight may carry %d bytes", wire.MaxProbe)})
			return
		}
		if err != nil {
			return
		}
	}
}
