package writer

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/migpipe/migpipe/internal/occupancy"
	"github.com/migpipe/migpipe/internal/share"
	"github.com/migpipe/migpipe/internal/tasks"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// pipeline is the data path of this side: the memory and its credit, the data lanes with their
// receivers, the merges, the loaders, and the ACKs. The loop owns it.
type pipeline struct {
	devices []*device
	post    func(event) // hands an event to the loop

	arena        *wire.Arena // this and the next ones are set at WELCOME
	credit       *credit
	acks         *acker
	lanes        []*receiver // by number, nil before the dial; a new lane replaces a lost one
	loaded       int         // loaders that ended well
	endsReceived int         // ENDs received

	lateLanes []transport.Lane // opened when the attempt was already over

	recent  occupancy.Recent[progress] // this and the next two are for the occupancy
	atStop  progress                   // at the pause of the guest
	atReady progress                   // when every device had its state, nil before

	receiving *tasks.Group   // receivers, which end with their lanes. All groups end when the streams are stopped
	loading   *tasks.Group   // loaders, which end with their streams
	acking    sync.WaitGroup // the acker, which ends with the loop
}

func newPipeline(work *tasks.Group, post func(event)) *pipeline {
	return &pipeline{post: post, receiving: work.Part(), loading: work.Part()}
}

// streamTerms are the terms of an attempt's streams.
type streamTerms struct {
	attempt   migration.Attempt
	journal   migration.JournalID // of this side
	memory    int
	chunkSize int
	lanes     int
	maxState  uint64
	notes     func(device int) *copyNote // nil for a copy that does not outlive the process
	control   *wire.Control
	quit      <-chan struct{} // closed when the loop ends
}

// start allocates the memory and starts the loaders.
func (p *pipeline) start(devices []*device, b streamTerms) error {
	arena, err := wire.NewArena(b.memory, b.chunkSize, minChunks(b.lanes, len(devices)))
	if err != nil {
		return err
	}
	p.devices, p.arena, p.lanes = devices, arena, make([]*receiver, b.lanes)
	needs := make([]share.Need, len(devices))
	for i, d := range devices {
		d.estimate = wire.DeviceEstimate{StopCopy: d.offer.Estimate, Known: d.offer.Estimate > 0}
		needs[i] = d.need(false)
	}
	p.credit = newCredit(arena.Count()-b.lanes, b.chunkSize, needs)
	merges := make([]*merge, len(devices))
	for i, d := range devices {
		merges[i] = newMerge(p.credit, i, b.maxState)
		d.merge = merges[i]
	}
	p.acks = &acker{attempt: b.attempt, journal: b.journal,
		credit: p.credit, merges: merges, read: make([]atomic.Uint64, b.lanes), due: make(chan struct{}, 1), quit: b.quit}
	p.acks.control.Store(b.control)
	for i, d := range devices {
		d.loader = &loader{
			device: i, name: d.Name, dev: d.Device, stream: d.stream, note: b.notes(i),
			merge: d.merge, digest: wire.NewDigest(), post: p.post, noteApplied: func() { p.acks.noteApplied(i) },
		}
		p.loading.Go(d.loader.run)
	}
	p.acking.Go(p.acks.run)
	return nil
}

// started reports whether the memory is allocated and the loaders run.
func (p *pipeline) started() bool { return p.acks != nil }

// allEnded reports whether every END has come.
func (p *pipeline) allEnded() bool { return p.started() && p.endsReceived == len(p.devices) }

// dialledLanes are the receivers of the lanes that the source has dialled so far.
func (p *pipeline) dialledLanes() []*receiver {
	return slices.DeleteFunc(slices.Clone(p.lanes), func(r *receiver) bool { return r == nil })
}

// lacksLane reports whether a lane is not dialled yet, or is lost.
func (p *pipeline) lacksLane() bool {
	return slices.ContainsFunc(p.lanes, func(r *receiver) bool { return r == nil || r.lost })
}

// addLane receives from a lane, in place of the lane with its number.
func (p *pipeline) addLane(number int, lane transport.Lane, codecs [256]bool, local bool) {
	r := &receiver{lane: lane, arena: p.arena, devices: p.devices, codecs: codecs, local: local, done: make(chan struct{}),
		read: &p.acks.read[number], notePadding: p.acks.notePadding}
	before := p.lanes[number]
	if before != nil { // the source has lost it, and this side may not know
		before.lane.SetDeadline(aLongTimeAgo)
	}
	p.lanes[number] = r
	p.receiving.Go(func(ctx context.Context) { r.receive(ctx, before, p.post) })
}

// holdLateLane holds a lane open that comes when the attempt is over: closing it at once would hide
// the cause from the source.
func (p *pipeline) holdLateLane(lane transport.Lane) {
	if len(p.lateLanes) == len(p.lanes) {
		lane.Close()
		return
	}
	p.lateLanes = append(p.lateLanes, lane)
}

// wakeReceivers wakes everything that waits for a lane.
func (p *pipeline) wakeReceivers() {
	for _, r := range p.dialledLanes() {
		r.lane.SetDeadline(aLongTimeAgo)
	}
}

// joinLimit bounds the wait for a driver that does not return from a write although its device is
// being reset.
const joinLimit = 5 * time.Second

// join joins everything that carries chunks, and frees the chunks that will not be written. It
// reports whether all ended within joinLimit. If not, it calls release when the last write has
// ended: until then the write uses the memory.
func (p *pipeline) join(release func()) bool {
	p.wakeReceivers()
	return tasks.Within(joinLimit, func() {
		p.receiving.Wait()
		p.loading.Wait()
		for _, d := range p.devices {
			d.merge.discardAll()
		}
	}, release)
}

// closeLanes closes the data lanes.
func (p *pipeline) closeLanes() {
	for _, r := range p.dialledLanes() {
		r.lane.Close()
	}
	for _, l := range p.lateLanes {
		l.Close()
	}
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

// bytesApplied is how much of all streams was applied, in bytes.
func (p *pipeline) bytesApplied() (sum uint64) {
	for _, d := range p.devices {
		sum += d.bytesApplied()
	}
	return sum
}

// bytesReceived is how many bytes the lanes have brought.
func (p *pipeline) bytesReceived() (sum uint64) {
	if p.started() {
		for i := range p.acks.read {
			sum += p.acks.read[i].Load()
		}
	}
	return sum
}

func (p *pipeline) currentProgress() progress {
	now := make(progress, len(p.devices))
	for i, d := range p.devices {
		now[i] = d.merge.usage()
	}
	return now
}

// occupancies returns the occupancy of the stages: in all, and from the pause of the guest until
// every device had its state.
func (p *pipeline) occupancies(stopped bool) (all, stop migration.Occupancy) {
	if !p.started() {
		return
	}
	end := p.atReady
	if end == nil {
		end = p.currentProgress()
	}
	all = end.Occupancy(p.credit.chunks)
	if stopped {
		stop = end.Since(p.atStop).Occupancy(p.credit.chunks)
	}
	return all, stop
}
