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

// pipeline is the data path of this side: the memory and the queue of chunks, the drains, the data
// lanes with their senders, and the measurements. The loop owns it.
type pipeline struct {
	devices   []*device
	start     time.Time   // all times count from here
	post      func(event) // hands an event to the loop
	arena     *wire.Arena
	queue     *queue
	chunkSize int // as negotiated
	codec     codec.Policy

	dialled      []transport.Lane // every data lane, closed in the end
	lanes        []transport.Lane // of these, the ones that have a sender; a new lane replaces a lost one
	dialling     []bool           // by number of a data lane: it is lost, and is being dialled again
	noLaneSince  time.Time        // when the last data lane was lost, zero while one is open
	tuning       *Tuning
	pace         *pacer
	paddingSize  int             // bytes in one frame of padding
	written      []atomic.Uint64 // by number of a data lane: bytes given to its present lane
	readings     []reading       // by number of a data lane: what the destination has read of it
	joint        jointReading    // what it has read of all of them together
	warnedUnread bool            // the user was warned of a lane that the destination does not read
	warmup       *warmup         // nil until the plan asks for it

	meter       meter
	peak        float64      // the best goodput so far
	window      uint64       // bytes that may be read and not applied while the guest runs, 0 is no limit
	firstReadAt atomic.Int64 // when the first byte was read, in ns after start; 0 if none was
	lastSentAt  atomic.Int64 // when the last chunk so far was given to a lane, in ns after start
	spent       laneTimes
	recent      occupancy.Recent[progress]
	atPause     progress // of the switchover under way
	atReady     progress // zero before

	// Scratch space for each ACK.
	measured plan.Measured
	bounds   []uint64
	shares   []int
	needs    []share.Need

	draining *tasks.Group // drains, which end with their streams. All groups end when the streams are stopped
	sending  *tasks.Group // dials, senders and their watchers, which end with the lane
	asking   *tasks.Group // polls, which end when the driver answers
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

// allocate maps the memory for so many lanes. Each lane holds one chunk to encode into, and each
// device needs one chunk to read into.
func (p *pipeline) allocate(memory, chunkSize, lanes int, needs []share.Need) (err error) {
	p.arena, err = wire.NewArena(memory, chunkSize, lanes+len(p.devices)+1)
	if err != nil {
		return err
	}
	p.queue = newQueue(p.arena, p.arena.Count()-lanes, needs)
	return nil
}

// useTerms takes the terms of WELCOME.
func (p *pipeline) useTerms(chunkSize int, policy codec.Policy) {
	p.chunkSize, p.codec = chunkSize, policy
}

// dialLanes opens so many data lanes. Its goroutine ends by itself, within the limit, with
// lanesOpen.
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

// startSender starts the sender of a lane, and its watcher.
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

// requeueLane queues the chunks of a lost lane for the other lanes. Its sender has ended.
func (p *pipeline) requeueLane(number int) {
	closeLanes(p.lanes[number : number+1])
	p.lanes[number] = nil
	if !slices.ContainsFunc(p.lanes, func(l transport.Lane) bool { return l != nil }) {
		p.noLaneSince = time.Now()
	}
	p.queue.requeue(number)
}

// replaceLane sends on a lane that replaces a lost one.
func (p *pipeline) replaceLane(number int, lane transport.Lane) {
	p.lanes[number], p.dialled[number] = lane, lane
	p.dialling[number], p.noLaneSince = false, time.Time{}
	p.startSender(number)
}

// closeLanes closes all lanes at the same time: each may wait a moment for the peer.
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

// pollDevice polls a device for its estimates, beside its drain: the driver may take as long as for
// a save. The goroutine ends when the driver has answered.
func (p *pipeline) pollDevice(d *device, size, confirm bool) {
	p.asking.Go(func(context.Context) { p.post(asked{d.number, confirm, d.drain.pollEstimates(size)}) })
}

// pollSize polls a device without a session for the size of STOP_COPY. The goroutine ends when the
// driver has answered.
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

// joinDrains joins the drains. Each has reported its end.
func (p *pipeline) joinDrains() {
	p.draining.Wait()
	p.queue.close()
}

// stop wakes everything that waits for the queue or a lane.
func (p *pipeline) stop() {
	p.queue.discardAll()
	for _, l := range p.lanes {
		if l != nil {
			l.SetDeadline(aLongTimeAgo)
		}
	}
}

// join joins the way back, the drains, polls and senders, and then the calls to the guest's owner.
// It reports whether all of them ended within the limit. If not, join calls release when the last
// read has ended: until then the read uses the memory.
func (p *pipeline) join(limit time.Duration, wayBack, answers, release func()) bool {
	return tasks.Within(limit, func() {
		wayBack()
		p.draining.Wait()
		p.asking.Wait()
		p.sending.Wait()
		answers()
	}, release)
}

// close unmaps the memory.
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

// measure returns the progress of every device, with the rates. The next call overwrites the
// result.
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

// limitReading limits the bytes that are read and not applied to a window, which the devices share;
// 0 is no limit.
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

// noteSent adds the bytes that the lanes were given so far to the rate of each device.
func (p *pipeline) noteSent(now time.Time) {
	m := &p.meter
	if m.begun.IsZero() {
		m.begun = now
	}
	for _, d := range p.devices {
		d.wireRate.observe(d.sent.Load(), now.Sub(m.begun))
	}
}

// currentProgress is the progress of all stages until now.
func (p *pipeline) currentProgress() progress {
	now := progress{Usage: p.queue.usage(), loading: make([]time.Duration, len(p.devices)),
		encoding: time.Duration(p.spent.encoding.Load()), writing: time.Duration(p.spent.writing.Load())}
	for i, d := range p.devices {
		now.loading[i] = d.loadRate.took
	}
	return now
}

// occupancies returns the occupancy of the stages: in all, and from the pause of the guest until
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
	end.loading = now.loading // nothing is loaded after READY, and the last ACK may follow READY
	all = end.Occupancy(p.queue.chunks)
	if paused {
		stop = end.Since(p.atPause).Occupancy(p.queue.chunks)
	}
	return all, stop
}

// checkReading takes an ACK's figures about the data lanes. It returns the lanes that the
// destination has not read for the limit each. It also reports whether it has read none of them for
// the limit all.
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

// abortLane ends the sender of a lane, so that the engine dials the lane again.
func (p *pipeline) abortLane(number int, limit time.Duration) {
	p.queue.failLane(number, fmt.Errorf("%w: the destination has read nothing of it for %v", transport.ErrLost, limit))
	reportStall(p.lanes[number])
	p.lanes[number].SetDeadline(aLongTimeAgo)
}

// suspectLanes marks all lanes as suspect: no ACK came within the limit of the control lane.
func (p *pipeline) suspectLanes() {
	for i := range p.readings {
		p.readings[i].suspect = true
	}
}

// reportStall tells the carrier of a lane that the destination does not read it.
func reportStall(l transport.Lane) {
	if s, ok := l.(transport.Stalling); ok {
		s.StoodStill()
	}
}
