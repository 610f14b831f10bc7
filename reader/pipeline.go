package reader

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/internal/occupancy"
	"github.com/migpipe/migpipe/internal/share"
	"github.com/migpipe/migpipe/internal/tasks"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/reader/internal/plan"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// pipeline is the way of the streams on this side: the memory and the queue of chunks, what
// reads the devices, the data lanes and what sends on them, and what is measured of all that.
// The loop owns it.
type pipeline struct {
	devices   []*device
	start     time.Time   // from which times are counted
	post      func(event) // hands an event to the loop
	arena     *wire.Arena
	queue     *queue
	chunkSize int // as agreed on
	codec     codec.Policy

	dialled      []transport.Lane // closed in the end
	lanes        []transport.Lane // of them, those with a sender; in place of a lost one its successor
	dialling     []bool           // by number of a data lane: it is lost, and being dialled again
	noLaneSince  time.Time        // when the last data lane was lost, zero while one stands
	tuning       *Tuning
	pace         *pacer
	paddingSize  int             // bytes of padding that go at once
	written      []atomic.Uint64 // by number of a data lane: bytes, of the lane that has it now
	readings     []reading       // and what the destination has read of them
	joint        jointReading    // of all of them together
	warnedUnread bool            // the user was warned of a lane that stood still
	warmup       *warmup         // nil until the plan asks for it

	meter       meter
	peak        float64      // the best goodput so far
	window      uint64       // what may be read and not applied while the guest runs, 0 is no limit
	firstReadAt atomic.Int64 // when the first byte was read, in ns after start; 0 if none was
	lastSentAt  atomic.Int64 // when the last chunk so far was given to a lane, in ns after start
	spent       laneTimes
	recent      occupancy.Recent[progress]
	atPause     progress // of the switchover under way
	atReady     progress // zero before

	// What is made again for each ACK.
	measured plan.Measured
	bounds   []uint64
	shares   []int
	needs    []share.Need

	draining *tasks.Group // drains, which end with their streams; all end when the streams are abandoned
	sending  *tasks.Group // what dials the lanes, senders, and their watchers, which end with the lane
	asking   *tasks.Group // estimates, which end when the driver answers
}

func newPipeline(o Options, devices []*device, start time.Time, work *tasks.Group, post func(event)) *pipeline {
	n := len(devices)
	return &pipeline{
		devices: devices, start: start, post: post, chunkSize: o.ChunkSize, codec: o.Codec, tuning: o.Tuning,
		measured: plan.Measured{Drained: make([]uint64, n), Applied: make([]uint64, n), Save: make([]float64, n), Load: make([]float64, n)},
		bounds:   make([]uint64, n), shares: make([]int, n), needs: make([]share.Need, n),
		draining: work.Part(), sending: work.Part(), asking: work.Part(),
	}
}

// allot takes the memory for what goes over so many lanes: each holds one chunk for what it
// encodes, and each device needs one to read into.
func (p *pipeline) allocate(memory, chunkSize, lanes int, needs []share.Need) (err error) {
	p.arena, err = wire.NewArena(memory, chunkSize, lanes+len(p.devices)+1)
	if err != nil {
		return err
	}
	p.queue = newQueue(p.arena, p.arena.Count()-lanes, needs)
	return nil
}

// agree takes in what WELCOME has chosen.
func (p *pipeline) useTerms(chunkSize int, policy codec.Policy) {
	p.chunkSize, p.codec = chunkSize, policy
}

// dialLanes opens so many data lanes. It ends by itself, within the limit, with lanesOpen.
func (p *pipeline) dialLanes(n int, limit time.Duration, dial func(ctx context.Context, number int) (transport.Lane, error)) {
	p.sending.Go(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		lanes := make([]transport.Lane, n)
		p.dialled = lanes
		err := tasks.Parallel(n, func(i int) (err error) {
			lanes[i], err = reach(ctx, limit, func(ctx context.Context) (transport.Lane, error) { return dial(ctx, i) })
			return err
		})
		p.post(lanesOpen{err})
	})
}

// startLanes starts to send on the lanes that were dialled.
func (p *pipeline) startLanes() {
	n := len(p.dialled)
	p.lanes, p.dialling = slices.Clone(p.dialled), make([]bool, n)
	p.written, p.readings = make([]atomic.Uint64, n), make([]reading, n)
	p.pace = newPacer(p.tuning)
	p.paddingSize = p.tuning.blockSize(min(p.chunkSize, paddingFrame))
	for i := range p.lanes {
		p.startSender(i)
	}
}

// startSender starts what sends on a lane, and what watches it.
func (p *pipeline) startSender(number int) {
	spare, err := p.arena.TryGet()
	if err != nil {
		panic("reader: the arena has fewer chunks than lanes")
	}
	p.written[number].Store(0)
	p.readings[number].restart(time.Since(p.start))
	s := &sender{written: &p.written[number], number: number, lane: p.lanes[number], queue: p.queue, scratch: spare, codec: p.codec, lanes: len(p.lanes), pace: p.pace, paddingSize: p.paddingSize,
		devices: p.devices, start: p.start, spent: &p.spent, lastSentAt: &p.lastSentAt, post: p.post, watched: make(chan struct{})}
	p.sending.Go(s.run)
	p.sending.Go(s.watch)
}

// loseLane has what a lane carried sent over the others. Its sender has ended.
func (p *pipeline) requeueLane(number int) {
	closeLanes(p.lanes[number : number+1])
	p.lanes[number] = nil
	if !slices.ContainsFunc(p.lanes, func(l transport.Lane) bool { return l != nil }) {
		p.noLaneSince = time.Now()
	}
	p.queue.requeue(number)
}

// replaceLane sends on a lane in the place of a lost one.
func (p *pipeline) replaceLane(number int, lane transport.Lane) {
	p.lanes[number], p.dialled[number] = lane, lane
	p.dialling[number], p.noLaneSince = false, time.Time{}
	p.startSender(number)
}

// closeLanes closes them at once: each may wait a moment for the peer.
func closeLanes(lanes []transport.Lane) {
	tasks.Parallel(len(lanes), func(i int) error {
		if lanes[i] != nil {
			lanes[i].Close()
		}
		return nil
	})
}

// startDrains starts one drain for each session that has none yet.
func (p *pipeline) startDrains(f *fleet) {
	for i, d := range p.devices {
		stream := f.stream(i)
		if stream == nil || d.drain != nil {
			continue
		}
		d.drain = &drain{
			device: i, name: d.Name, dev: d.Device, stream: stream, reader: newStreamReader(stream, d.splice), queue: p.queue,
			limit: p.chunkSize, post: p.post, stopCopy: make(chan struct{}), polling: make(chan struct{}, 1),
			digest: wire.NewDigest(), start: p.start, firstReadAt: &p.firstReadAt,
		}
		p.draining.Go(d.drain.run)
	}
}

// ask asks a device for its estimates, beside what reads it: the driver may take as long as a
// save does. It ends when the driver has answered.
func (p *pipeline) pollDevice(d *device, size, confirm bool) {
	p.asking.Go(func(context.Context) { p.post(asked{d.number, confirm, d.drain.pollEstimates(size)}) })
}

// askSize asks a device without a session for the size of STOP_COPY. It ends when
// the driver has answered.
func (p *pipeline) pollSize(d *device) {
	p.asking.Go(func(context.Context) {
		if d.Device.Features().DataSize {
			if n, err := d.Device.StopCopySize(); err == nil {
				p.post(sized{plan.SizePolled{Device: d.number, Bytes: n}})
			}
		}
		p.post(asked{device: d.number})
	})
}

// finishReading joins the drains, each of which has said that it ended.
func (p *pipeline) joinDrains() {
	p.draining.Wait()
	p.queue.close()
}

// abandon wakes everything that waits for the queue or a lane.
func (p *pipeline) stop() {
	p.queue.discardAll()
	for _, l := range p.lanes {
		if l != nil {
			l.SetDeadline(time.Unix(1, 0))
		}
	}
}

// join joins what drains the devices and what sends that, behind the way back, and then what
// asks the guest's owner. It reports whether that has ended within the limit. If not, release is
// called when the last read has ended, which takes what it uses with it.
func (p *pipeline) join(limit time.Duration, wayBack, answers, release func()) bool {
	return tasks.Within(limit, func() {
		wayBack()
		p.draining.Wait()
		p.asking.Wait()
		p.sending.Wait()
		answers()
	}, release)
}

// close gives the memory back.
func (p *pipeline) close() {
	if p.arena == nil {
		return
	}
	if err := p.arena.Close(); err != nil {
		panic(err)
	}
}

// firstByte is when the first byte of any stream was read, zero before.
func (p *pipeline) firstByte() time.Time {
	if at := p.firstReadAt.Load(); at != 0 {
		return p.start.Add(time.Duration(at))
	}
	return time.Time{}
}

// measure takes in how far every device is, and gives that with the rates. What it gives is
// made again by the next call.
func (p *pipeline) measure() *plan.Measured {
	ev := &p.measured
	var in, out uint64
	for i, d := range p.devices {
		ev.Drained[i], ev.Applied[i] = d.bytesRead(), d.applied
		in, out = in+ev.Drained[i], out+d.applied
		if d.drain != nil {
			d.saveRate.observe(ev.Drained[i], d.drain.saveTime())
		}
		ev.Save[i], ev.Load[i] = d.saveRate.mean(), d.loadRate.value()
	}
	p.meter.observe(time.Now(), in, out, max(p.window/2, 4*uint64(p.chunkSize)))
	p.peak = max(p.peak, p.meter.goodput())
	ev.Path = plan.Path{Chunk: uint64(p.chunkSize), Rate: p.meter.goodput(), Full: p.meter.wasFull(), RTT: migration.Span{Took: p.meter.rtt, Known: p.meter.rtt > 0}}
	return ev
}

// bound limits what is read and not applied to a window, which the devices share; 0 is no
// limit.
func (p *pipeline) limitReading(window uint64, needs []share.Need) {
	p.window = window
	if window == 0 {
		p.queue.limitReading(nil)
		return
	}
	chunk := uint64(p.chunkSize)
	share.Divide(p.shares, int(min(window/chunk, uint64(p.arena.Count()))), share.Floor, needs)
	for i, n := range p.shares {
		p.bounds[i] = p.devices[i].applied + uint64(max(n, share.Floor))*chunk
	}
	p.queue.limitReading(p.bounds)
}

// meterWires takes in what the lanes were given so far, of each device.
func (p *pipeline) noteSent(now time.Time) {
	m := &p.meter
	if m.begun.IsZero() {
		m.begun = now
	}
	for _, d := range p.devices {
		d.wireRate.observe(d.sent.Load(), now.Sub(m.begun))
	}
}

// progressed is what came to pass by now.
func (p *pipeline) currentProgress() progress {
	now := progress{Usage: p.queue.usage(), loading: make([]time.Duration, len(p.devices)),
		encoding: time.Duration(p.spent.encoding.Load()), writing: time.Duration(p.spent.writing.Load())}
	for i, d := range p.devices {
		now.loading[i] = d.loadRate.took
	}
	return now
}

// occupancies tells how full the stages were: in all, and while the guest stood still before
// the destination was ready.
func (p *pipeline) occupancies(paused bool) (all, stop migration.Occupancy) {
	if p.queue == nil { // no destination was reached
		return all, stop
	}
	now := p.currentProgress()
	end := p.atReady
	if end.Took == 0 {
		end = now
	}
	end.loading = now.loading // nothing is loaded after READY, and the last ACK may come after it
	all = end.Occupancy(p.queue.chunks)
	if paused {
		stop = end.Since(p.atPause).Occupancy(p.queue.chunks)
	}
	return all, stop
}

// checkReading takes in what an ACK says that the destination has read. It gives the lanes that
// have stood still for a limit, and reports whether all of them together have for another.
func (p *pipeline) checkReading(m *wire.Ack, each, all time.Duration) (stalled []int, idle bool) {
	now := time.Since(p.start)
	made := min(now, time.Duration(m.Echo)+time.Duration(max(m.HeldNS, 0)))
	var seen lanesSeen
	for i, lane := range p.lanes {
		if i >= len(m.Read) || lane == nil || wire.Local(lane) {
			continue
		}
		written, read := p.written[i].Load(), m.Read[i]
		seen.rose = seen.rose || read > p.readings[i].read
		seen.unread = seen.unread || read < written
		seen.read = seen.read || read == written && read > 0
		if p.readings[i].observe(now, made, written, read, each) {
			p.readings[i].restart(now)
			stalled = append(stalled, i)
		}
	}
	return stalled, p.joint.observe(now, made, seen, all)
}

// giveUpLane has the sender of a lane end, which has it dialled again.
func (p *pipeline) abortLane(number int, limit time.Duration) {
	p.queue.failLane(number, fmt.Errorf("%w: nothing of what it carries was read for %v", transport.ErrLost, limit))
	reportStall(p.lanes[number])
	p.lanes[number].SetDeadline(time.Unix(1, 0))
}

// suspectLanes says that the control lane was not heard for the limit, and so no ACK.
func (p *pipeline) suspectLanes() {
	for i := range p.readings {
		p.readings[i].suspect = true
	}
}

// stoodStill tells the carrier of a lane.
func reportStall(l transport.Lane) {
	if s, ok := l.(transport.Stalling); ok {
		s.StoodStill()
	}
}
