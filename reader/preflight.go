package reader

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/migpipe/migpipe/internal/tasks"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/reader/internal/plan"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff/witness"
	"github.com/migpipe/migpipe/transport/migration"
)

// Preflight asks the peer that dialer reaches whether it would accept a migration of the sources,
// measures the path, and predicts the migration. Each side probes its witness, if it has one.
// Preflight touches no device, on either side, and the peer still waits for a migration. It returns
// when every goroutine that it started has ended, after some seconds at most.
//
// The error is nil exactly if a migration would be accepted now, and otherwise the error that
// [Send] would return.
func Preflight(ctx context.Context, dialer transport.Dialer, sources []Source, opts *Options) (migration.Preflight, error) {
	o, err := checkStart(sources, opts)
	if err != nil {
		return migration.Preflight{}, err
	}
	if err := probeWitness(ctx, &o); err != nil {
		return migration.Preflight{}, err
	}
	found, err := runPreflight(ctx, dialer, sources, o)
	if err == nil {
		err = checkFixedSteps(found, o)
	}
	if err != nil {
		return migration.Preflight{}, err
	}
	return found, nil
}

// checkFixedSteps refuses a migration whose fixed steps alone are over the limit, as Send does: no
// PRE_COPY shortens them.
func checkFixedSteps(p migration.Preflight, o Options) error {
	fixed := migration.Prediction{Stop: p.Stop, Fill: migration.Span{Took: p.RTT / 2}, Decide: p.Decide, Commit: p.Commit, Witness: p.Witness, Accept: p.Accept, Start: p.Start}
	var took time.Duration
	for _, s := range fixed.Stages() {
		took += s.Took
	}
	if o.OnLimit == Force || took <= o.DowntimeTarget {
		return nil
	}
	return &transport.Fault{Code: transport.CodeTimeout, Err: &LimitError{Limit: LimitFixed, Allowed: o.DowntimeTarget, Predicted: took, Stages: fixed.Stages()}}
}

// checkStart says why no migration of the sources would begin with any peer. It also sets the
// defaults of the options.
func checkStart(sources []Source, opts *Options) (Options, error) {
	o, err := opts.withDefaults()
	if err == nil {
		err = checkSources(sources)
	}
	if err == nil {
		err = cmp.Or(checkP2P(sources, o), checkRunning(sources))
	}
	return o, err
}

// runPreflight runs a preflight. It names the carrier that answered even if the preflight fails. It
// asks a destination that ends the lane before WELCOME again, until ConnectFor has passed.
func runPreflight(ctx context.Context, dialer transport.Dialer, sources []Source, o Options) (migration.Preflight, error) {
	p := &preflight{opts: o, dialer: dialer, sources: sources, offer: hello(o, sources)}
	o.Observe(migration.Event{Kind: migration.Phase, Phase: migration.Connect})
	end := time.Now().Add(o.ConnectFor)
	err := p.converseOnce(ctx, o.ConnectFor)
	for p.unanswered(err) && time.Until(end) > minTry && sleep(ctx, lanePause) == nil {
		err = p.converseOnce(ctx, time.Until(end))
	}
	switch {
	case err == nil:
		p.predict()
		return p.out, nil
	case p.unanswered(err) && errors.Is(err, transport.ErrPeerGone):
		err = fmt.Errorf("the destination did not answer, and an older release knows no preflights: %w", err)
	}
	return p.out, p.fault(ctx, err)
}

// converseOnce has one conversation, over a control lane of its own.
func (p *preflight) converseOnce(ctx context.Context, limit time.Duration) error {
	lane, err := reach(ctx, limit, func(ctx context.Context) (transport.Lane, error) {
		return p.dial(ctx, wire.LanePreflight, 0)
	})
	if err != nil {
		return err
	}
	p.control = wire.NewControl(lane)
	p.out.Carrier = transport.CarrierOf(lane)
	if either, ok := p.dialer.(*transport.EitherDialer); ok {
		p.dialer = either.Of(p.out.Carrier) // measure this carrier only
	}
	p.offer.Lanes = p.opts.laneCount(p.out.Carrier)
	err = p.converse(ctx)
	wire.HangUp(lane, p.awaitHangUp)
	return err
}

// unanswered reports whether the lane ended before WELCOME, under the preamble as well, or could
// not be dialled again after that.
func (p *preflight) unanswered(err error) bool {
	return !p.welcomed && (errors.Is(err, transport.ErrPeerGone) || p.control != nil && errors.Is(err, transport.ErrUnreachable))
}

// preflight is the conversation of a source that does not migrate yet.
type preflight struct {
	opts    Options
	dialer  transport.Dialer
	sources []Source
	offer   *wire.Hello
	control *wire.Control // nil before the first lane
	lanes   []transport.Lane
	budget  atomic.Int64 // bytes that the probe lanes may still send
	steps   plan.Steps
	out     migration.Preflight

	welcomed bool // WELCOME was received
}

// fault is the cause of the end: the peer's message, the cancel, or the timeout.
func (p *preflight) fault(ctx context.Context, err error) error {
	if f, ok := errors.AsType[*transport.Fault](err); ok {
		return f
	}
	if ctx.Err() != nil {
		return &transport.Fault{Code: transport.CodeCancelled, Err: context.Cause(ctx)}
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return &transport.Fault{Code: transport.CodeTimeout, Err: fmt.Errorf("the preflight has not ended within %v", p.timeout())}
	}
	return &transport.Fault{Code: transport.CodeOf(err), Err: err}
}

// timeout bounds the conversation. The destination may probe its witness in it.
func (p *preflight) timeout() time.Duration {
	if p.opts.Witness != nil {
		return wire.PreflightTimeout + witness.Timeout
	}
	return wire.PreflightTimeout
}

func (p *preflight) converse(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.timeout())
	defer cancel()
	defer interruptible(ctx, p.control.Lane())()
	if err := p.welcome(); err != nil {
		return err
	}
	if err := p.measureRTT(); err != nil {
		return err
	}
	return p.measureRate(ctx)
}

// interruptible wakes what waits for the lane when ctx ends, until stop.
func interruptible(ctx context.Context, lane transport.Lane) (stop func() bool) {
	return context.AfterFunc(ctx, func() { lane.SetDeadline(aLongTimeAgo) })
}

// awaitHangUp waits until the peer hangs up.
func (p *preflight) awaitHangUp() {
	for {
		if _, err := p.control.Receive(); err != nil {
			return
		}
	}
}

func (p *preflight) dial(ctx context.Context, kind wire.LaneKind, index int) (transport.Lane, error) {
	lane, err := p.dialer.Dial(ctx)
	if err != nil {
		return nil, err
	}
	a := p.opts.Attempt
	if err := wire.WritePreamble(lane, wire.Preamble{Kind: kind, Index: uint16(index), Mig: a.Mig, Epoch: a.Epoch}); err != nil {
		lane.Close()
		return nil, err
	}
	return lane, nil
}

// request sends a message and returns the answer.
func (p *preflight) request(m wire.Message) (wire.Message, error) {
	if err := p.control.Send(m); err != nil {
		return nil, err
	}
	answer, err := p.control.Receive()
	if err != nil {
		return nil, err
	}
	if *answer.About() != p.opts.Attempt {
		return nil, fmt.Errorf("%w: %v of another attempt in a preflight", transport.ErrProtocol, answer.Type())
	}
	if d, ok := answer.(*wire.Declined); ok {
		return nil, peerFault(d.Code, d.Device, d.Offset, d.Text)
	}
	return answer, nil
}

func (p *preflight) welcome() error {
	answer, err := p.request(p.offer)
	if err != nil {
		return err
	}
	p.welcomed = true
	m, ok := answer.(*wire.Welcome)
	if !ok {
		return fmt.Errorf("%w: %v in answer to HELLO", transport.ErrProtocol, answer.Type())
	}
	if err := checkWelcome(p.offer, m); err != nil {
		return err
	}
	if f := p.opts.checkWitness(m); f != nil {
		return f
	}
	p.out.Peer = transport.PeerOf(p.control.Lane())
	p.out.Software = transport.PeerText(m.Software)
	p.out.Version, p.out.Codecs = m.Version, m.Codecs
	p.out.ChunkSize, p.out.Lanes = int(m.ChunkSize), int(m.Lanes)
	p.steps = p.opts.predictSteps(m, p.sources)
	p.opts.Observe(migration.Event{Kind: migration.Peer, Peer: p.out.Peer, Text: p.out.Software})
	p.out.Warning = destinationWarning(m)
	return nil
}

// query is one round trip. It returns the bytes that the destination has read of the probe lanes.
func (p *preflight) query() (received uint64, err error) {
	answer, err := p.request(&wire.Query{Attempt: p.opts.Attempt})
	if err != nil {
		return 0, err
	}
	m, ok := answer.(*wire.Status)
	if !ok {
		return 0, fmt.Errorf("%w: %v in answer to QUERY", transport.ErrProtocol, answer.Type())
	}
	return m.Received, nil
}

// How often the round trip is measured, and how long that may take.
const (
	roundTrips = 8
	rttTime    = 500 * time.Millisecond
)

// measureRTT takes the shortest of some round trips: other traffic causes the rest of the others.
func (p *preflight) measureRTT() error {
	begun := time.Now()
	for i := range roundTrips {
		asked := time.Now()
		if _, err := p.query(); err != nil {
			return err
		}
		if took := time.Since(asked); i == 0 || took < p.out.RTT {
			p.out.RTT = took
		}
		if time.Since(begun) > rttTime {
			break
		}
	}
	return nil
}

// measureRate loads the path with incompressible bytes, over as many lanes as a migration would
// have, and measures the bytes that arrive.
func (p *preflight) measureRate(ctx context.Context) error {
	n := p.out.Lanes
	p.lanes = make([]transport.Lane, n)
	defer func() { closeLanes(p.lanes) }()
	err := tasks.Parallel(n, func(i int) (err error) {
		p.lanes[i], err = reach(ctx, wire.PreflightTimeout, func(ctx context.Context) (transport.Lane, error) {
			return p.dial(ctx, wire.LaneProbe, i)
		})
		return err
	})
	if err != nil {
		return err
	}
	noise := make([]byte, p.opts.Tuning.blockSize(p.out.ChunkSize))
	rand.Read(noise)
	pace := newPacer(p.opts.Tuning)
	p.budget.Store(wire.MaxProbe)
	ctx, stop := context.WithTimeout(ctx, wire.ProbeTime)
	defer stop()
	return tasks.Parallel(n+1, func(i int) error {
		if i < n {
			return p.sendNoise(ctx, p.lanes[i], noise, pace)
		}
		defer stop()
		return p.measureArrival(ctx, uint64(wire.MaxProbe/len(noise)*len(noise)))
	})
}

// sendNoise sends noise until the budget is used up, or ctx ends.
func (p *preflight) sendNoise(ctx context.Context, lane transport.Lane, noise []byte, pace *pacer) error {
	defer interruptible(ctx, lane)()
	for ctx.Err() == nil {
		if p.budget.Add(-int64(len(noise))) < 0 {
			return nil
		}
		if err := pace.wait(ctx, len(noise)); err != nil {
			return nil // the time is over
		}
		if _, err := lane.Write(noise); err != nil && ctx.Err() == nil {
			return fmt.Errorf("probe lane: %w", err)
		}
	}
	return nil
}

// queryEvery is the time between two questions about the bytes that have arrived.
const queryEvery = 5 * time.Millisecond

// measureArrival asks how many bytes have arrived until all of most have, or ctx ends.
func (p *preflight) measureArrival(ctx context.Context, most uint64) error {
	ticks := time.NewTicker(queryEvery)
	defer ticks.Stop()
	var seen []arrival
	for begun := time.Now(); ; {
		received, err := p.query()
		if err != nil {
			return err
		}
		if received > most {
			return fmt.Errorf("%w: %d bytes arrived, %d were sent", transport.ErrProtocol, received, most)
		}
		seen = append(seen, arrival{time.Since(begun), received})
		if received == most || ctx.Err() != nil {
			p.out.Probed, p.out.Rate = received, arrivalRate(seen)
			return nil
		}
		select {
		case <-ticks.C:
		case <-ctx.Done():
		}
	}
}

// arrival is the number of bytes that had arrived at a time.
type arrival struct {
	at    time.Duration
	bytes uint64
}

// arrivalRate is the rate at which bytes arrived once the path was open. It leaves out the first
// quarter of the bytes, since congestion control begins slowly. It is 0 if there are too few
// measurements.
func arrivalRate(seen []arrival) float64 {
	last := seen[len(seen)-1]
	from := seen[0]
	for _, a := range seen {
		if a.bytes > last.bytes/4 {
			break
		}
		from = a
	}
	if took := last.at - from.at; took > 0 {
		return float64(last.bytes-from.bytes) / took.Seconds()
	}
	return 0
}

// predict predicts the migration. Only a migration shows how fast the drivers save and load, and
// only an earlier one how fast they stop and start.
func (p *preflight) predict() {
	var devices []plan.DeviceFigures
	for i, s := range p.sources {
		d := p.device(s, p.offer.Devices[i])
		p.out.Devices = append(p.out.Devices, d)
		f := plan.DeviceFigures{Remaining: plan.Amount{Bytes: d.Size, Known: d.Sized}, Precopy: plan.Amount{Known: true}}
		if d.PreCopy { // all of it goes once, and the dirty rest is not known yet
			f = plan.DeviceFigures{Precopy: plan.Amount{Bytes: d.Size}}
		}
		f.Stop, f.Start = p.steps.Stop.Span(), p.steps.Start.Span()
		devices = append(devices, f)
	}
	over := plan.Path{Chunk: uint64(p.out.ChunkSize), Rate: p.out.Rate, RTT: migration.Span{Took: p.out.RTT, Known: true}, Steps: p.steps}
	p.out.Prediction = plan.Predict(devices, over)
	for i, f := range devices {
		p.out.Devices[i].Prediction = over.PredictAlone(f)
	}
}

func (p *preflight) device(s Source, o wire.DeviceOffer) migration.PreflightDevice {
	return migration.PreflightDevice{Name: o.Name, Driver: o.Driver, PreCopy: s.Device.Features().PreCopy, Size: o.Estimate, Sized: o.Estimate > 0}
}
