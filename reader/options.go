package reader

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"time"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/reader/internal/plan"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/handoff/witness"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
)

// Source is one device to migrate, under the name by which the destination
// knows it. The caller opened the device, and closes it after Send.
type Source struct {
	Name   string
	Device vfio.Device
	// Priority multiplies the device's share of memory and lanes, on both sides.
	// Default 1, at most wire.MaxPriority.
	Priority int
}

// Options tunes Send. Nil, or a zero field, means the default.
type Options struct {
	// Memory is the size of the chunk buffers, in bytes. Default 32 MiB.
	Memory int
	// ChunkSize is the most that one frame carries, in bytes; the destination
	// may ask for less. Default 1 MiB, at most wire.MaxChunk.
	ChunkSize int
	// Lanes is the number of data lanes, at most transport.MaxLanes. Default: 2, or half
	// of the cores, or as many as carry what the round trip and Memory allow to be on its
	// way, whichever is most.
	Lanes int
	// Codec chooses how each chunk is encoded. Default codec.Auto, among the codecs
	// that both sides have; on lanes that stay in this host none, and bytes are
	// spliced past user space where the device's stream allows it.
	Codec codec.Policy
	// DowntimeTarget is the most that the stop may take, as predicted when it is
	// decided. Default 300 ms; math.MaxInt64 is no limit, where nobody waits.
	DowntimeTarget time.Duration
	// OnLimit says what to do with devices that MaxPrecopy or MaxRounds finds too
	// dirty for DowntimeTarget, and with steps that alone take longer than that. Default
	// Refuse.
	OnLimit OnLimit
	// IgnoreSilentWitness begins a migration although the witness gives one side no
	// answer, with a warning. Default: such a migration ends before a device is touched.
	IgnoreSilentWitness bool
	// MaxPrecopy and MaxRounds are how long, and over how many rounds, PRE_COPY
	// may bring the downtime down; rounds count that are a second apart. Default
	// 60 s and 30 rounds.
	MaxPrecopy time.Duration
	MaxRounds  int
	// Timeout ends an attempt that has not stopped the guest by then. Default
	// none.
	AbortAfter time.Duration
	// WithoutP2P accepts a set of several devices in which one lacks RUNNING_P2P:
	// the others could reach it by DMA when it is stopped. Their owner knows that
	// they do not.
	WithoutP2P bool
	// ResumeAfter ends an attempt in which the destination is not ready, or Approve has
	// not returned, that long after the guest was paused: the devices run on here.
	// Default 10 s, or twice DowntimeTarget if that is more.
	ResumeAfter time.Duration
	// StalledAfter ends an attempt in which no byte moves while the guest stands
	// still, where ResumeAfter has not. Default 30 s: some drivers load for seconds in
	// one write.
	StalledAfter time.Duration
	// ConnectFor is how long the destination may take to be reached, then to answer
	// HELLO, for which its devices enter RESUMING, and then to take the data lanes.
	// With a Witness HELLO may be answered later by witness.Timeout, the time of a probe.
	// Default 5 s; with more, one that nobody has started yet is waited for.
	ConnectFor time.Duration
	// ReconnectFor is how long a destination that was lost before COMMIT is dialled
	// again; ResumeAfter ends that too. Default 60 s.
	ReconnectFor time.Duration
	// AskBackAfter is how long COMMIT may be unanswered before the destination is asked to
	// give the devices back: if it has not accepted them by then, it does. Default 5 s.
	AskBackAfter time.Duration
	// DoubtFor is how long the answer to COMMIT is waited for, over however many
	// connections. Then, and soon after a cancel that is not answered, Send returns in
	// doubt. Default: for ever.
	DoubtFor time.Duration
	// MaxBandwidth limits the payload on all data lanes together, in bytes per
	// second. Default: no limit.
	MaxBandwidth uint64
	// Tuning changes limits while Send runs; MaxBandwidth, if given, is set there
	// first. Default: a fresh one.
	Tuning *Tuning
	// PauseGuest stops the vCPUs, before any device leaves RUNNING. ResumeAfter bounds it:
	// its ctx ends then, and with the attempt, and it must return. An error that is a
	// *transport.Fault keeps its code.
	//
	// ResumeGuest starts them again, on every way back and after a stop that was called
	// off, once all devices run and this side's right to run them is recorded. A process
	// before this one may have paused them, so that it may be called without PauseGuest. It
	// has 10 s, then its ctx ends. If it fails, the outcome is that of the devices, and the
	// report says GuestUnheard. Default: there is no guest.
	PauseGuest, ResumeGuest func(context.Context) error
	// Approve has the last word before COMMIT: it is called once, when everything is
	// loaded at the destination, and an error takes the devices back. The VM and its
	// devices become one decision so. Until it returns everything else may still end
	// the attempt, ResumeAfter included; its ctx ends then, and it must return, which
	// ResumeGuest waits for. Its nil is not the end either: only the Outcome says who
	// may run. Default: there is nobody to be asked.
	Approve func(context.Context) error
	// Attempt names the attempt. Default: a fresh id, epoch 1.
	Attempt migration.Attempt
	// Anew begins the attempt although an earlier one was left open, by a process that
	// has ended, and the devices hold nothing of it any more. Without it the destination
	// is asked first whether it has a complete copy, which may be the only one: then
	// nothing is done (ErrOnlyCopy).
	StartOver bool
	// Journal keeps the hand-off's records. Default: in memory.
	Journal handoff.Journal
	// Observe is told what happens.
	Observe migration.Observer
	// Software is how this side introduces itself.
	Software string
	// Witness decides who has the devices when the destination does not answer COMMIT.
	// The destination must have the same. Both sides ask it before the guest is stopped,
	// for a random migration. Default none: the destination is asked for
	// as long as the wait may last.
	Witness witness.Witness
	// OnCommit is told that COMMIT is recorded: this side has given the devices up. It
	// runs beside the wait for the destination. OnRevert is told, before the devices
	// are resumed, that they came back from there. A failure of either is a warning.
	OnCommit, OnRevert handoff.Hook
	// StepTimes remembers how long PauseGuest and Approve took: the next downtime is
	// predicted by that. Default none: the prediction is then "at least".
	StepTimes handoff.StepTimes
}

func (o *Options) withDefaults() (Options, error) {
	v := *cmp.Or(o, new(Options))
	v.Memory = cmp.Or(v.Memory, 32<<20)
	v.ChunkSize = cmp.Or(v.ChunkSize, 1<<20)
	v.DowntimeTarget = min(cmp.Or(v.DowntimeTarget, 300*time.Millisecond), plan.Unlimited)
	v.MaxPrecopy = cmp.Or(v.MaxPrecopy, 60*time.Second)
	v.MaxRounds = cmp.Or(v.MaxRounds, 30)
	v.ResumeAfter = cmp.Or(v.ResumeAfter, max(10*time.Second, 2*v.DowntimeTarget))
	v.StalledAfter = cmp.Or(v.StalledAfter, 30*time.Second)
	v.ConnectFor = cmp.Or(v.ConnectFor, connectLimit)
	v.AskBackAfter = cmp.Or(v.AskBackAfter, 5*time.Second)
	v.ReconnectFor = cmp.Or(v.ReconnectFor, 60*time.Second)
	v.Attempt = cmp.Or(v.Attempt, migration.Attempt{Mig: migration.NewID(), Epoch: 1})
	if v.Journal == nil {
		v.Journal = handoff.NewMemory()
	}
	if v.Observe == nil {
		v.Observe = func(migration.Event) {}
	}
	v.Tuning = cmp.Or(v.Tuning, new(Tuning))
	if v.MaxBandwidth > 0 {
		v.Tuning.SetMaxBandwidth(v.MaxBandwidth)
	}
	return v, v.check()
}

func (o *Options) check() error {
	for field, d := range map[string]time.Duration{
		"DowntimeTarget": o.DowntimeTarget, "ResumeAfter": o.ResumeAfter, "MaxPrecopy": o.MaxPrecopy, "StalledAfter": o.StalledAfter, "AbortAfter": o.AbortAfter,
		"ConnectFor": o.ConnectFor, "ReconnectFor": o.ReconnectFor, "AskBackAfter": o.AskBackAfter, "DoubtFor": o.DoubtFor,
	} {
		if d < 0 {
			return fmt.Errorf("reader: Options.%s is %v, must not be negative", field, d)
		}
	}
	switch {
	case o.ChunkSize < wire.MinChunk || o.ChunkSize > wire.MaxChunk:
		return fmt.Errorf("reader: Options.ChunkSize is %d, must be %d to %d", o.ChunkSize, wire.MinChunk, wire.MaxChunk)
	case o.Memory < o.ChunkSize:
		return fmt.Errorf("reader: Options.Memory is %d, less than one chunk of %d", o.Memory, o.ChunkSize)
	case o.Lanes < 0 || o.Lanes > transport.MaxLanes:
		return fmt.Errorf("reader: Options.Lanes is %d, must be 1 to %d, or 0 for what the path needs", o.Lanes, transport.MaxLanes)
	case o.Attempt.Epoch == 0:
		return fmt.Errorf("reader: Options.Attempt.Epoch is 0, must be 1 or more")
	case o.MaxRounds < 0:
		return fmt.Errorf("reader: Options.MaxRounds is %d, must not be negative", o.MaxRounds)
	case o.ResumeAfter < o.DowntimeTarget:
		return fmt.Errorf("reader: Options.ResumeAfter is %v, less than DowntimeTarget, %v: a stop of that length would be begun and given up", o.ResumeAfter, o.DowntimeTarget)
	case o.OnLimit > Force:
		return fmt.Errorf("reader: Options.OnLimit is %d, must be Refuse, Continue or Force", o.OnLimit)
	}
	return nil
}

func checkSources(sources []Source) error {
	var names []string
	for i, s := range sources {
		if s.Device == nil {
			return fmt.Errorf("reader: device %d (%q) is nil", i, s.Name)
		}
		if s.Priority < 0 || s.Priority > wire.MaxPriority {
			return fmt.Errorf("reader: device %d (%q) has priority %d, must be 1 to %d, or 0 for 1", i, s.Name, s.Priority, wire.MaxPriority)
		}
		names = append(names, s.Name)
	}
	if err := wire.CheckNames(names); err != nil {
		return fmt.Errorf("reader: %w", err)
	}
	return nil
}

// doubtLimit is how long the answer to COMMIT is waited for as of now, 0 for ever.
func (o *Options) doubtLimit() time.Duration {
	return cmp.Or(time.Duration(o.Tuning.doubt.Load()), o.DoubtFor)
}

// fastest is the rate that a path is taken to have where no limit is known, in bytes a
// second: 100 Gbit/s.
const assumedRate = 12.5e9

// near is a round trip that is the hosts' and not the path's: that of a handshake has
// keys agreed on and signed in it, on processors that may be busy.
const nearRTT = 5 * time.Millisecond

// lanesLeast is the number of lanes that a short path gets: one sends while the other
// one encodes. Each is one goroutine that seals packets and one that opens them, so that
// a host with many cores needs more to use half of them, on either side.
func minLanes(cores int) int { return min(max(2, cores/2), transport.MaxLanes) }

// lanesFor is how many lanes carry what a path can have on its way: no more than memory,
// which keeps it until it is acknowledged, nor than what perSecond, a limit or 0, sends in
// one round trip.
func lanesFor(c transport.Carrier, memory int, perSecond uint64, cores int) int {
	rate := assumedRate
	if perSecond > 0 {
		rate = min(rate, float64(perSecond))
	}
	least := minLanes(cores)
	if c.Window <= 0 || c.RTT < nearRTT {
		return least
	}
	onTheWay := min(rate*c.RTT.Seconds(), float64(memory))
	return min(max(least, int(math.Ceil(onTheWay/float64(c.Window)))), transport.MaxLanes)
}

// lanes is how many to offer over a control lane's carrier.
func (o *Options) laneCount(c transport.Carrier) uint16 {
	if o.Lanes > 0 {
		return uint16(o.Lanes)
	}
	return uint16(lanesFor(c, o.Memory, o.Tuning.MaxBandwidth(), runtime.GOMAXPROCS(0)))
}

// connectLimit is the default of Options.ConnectFor, and what one try to reach the
// destination may take, until it answers or not.
const connectLimit = 5 * time.Second

// What ends an attempt by taking too long.
var (
	ErrNoWelcome = errors.New("no WELCOME came")                          // Options.ConnectFor
	ErrDowntime  = errors.New("the guest stood still")                    // Options.ResumeAfter
	ErrNotPaused = errors.New("the pause of the guest was not confirmed") // Options.PauseGuest, ResumeAfter
	ErrStalled   = errors.New("nothing moved")                            // Options.StalledAfter
)

// OnLimit says what to do with devices whose predicted downtime does not come
// down to Options.DowntimeTarget before a cap of PRE_COPY is reached.
type OnLimit = plan.OnLimit

// What to do on a limit.
const (
	Refuse   = plan.Refuse   // end the attempt: the guest runs on here
	Continue = plan.Continue // go on with PRE_COPY, until it fits or Options.AbortAfter ends it; refuse what no PRE_COPY makes fit
	Force    = plan.Force    // stop the guest all the same
)

// Limit is a bound of what comes before the switchover.
type Limit = plan.Limit

// The limits.
const (
	LimitDowntime = plan.LimitDowntime // no PRE_COPY could bring the downtime down
	LimitPrecopy  = plan.LimitPrecopy  // Options.MaxPrecopy
	LimitRounds   = plan.LimitRounds   // Options.MaxRounds
	LimitTimeout  = plan.LimitTimeout  // Options.AbortAfter
	LimitReinit   = plan.LimitReinit   // a device was initialised anew at every switchover
	LimitPath     = plan.LimitPath     // nothing shows how fast the path is
	LimitFixed    = plan.LimitFixed    // the steps of a switchover that no PRE_COPY shortens take longer than Options.DowntimeTarget
)

// LimitError ends an attempt that would have to break a limit. The guest was not paused for it,
// or runs again. Its fields are the Limit, the time Allowed or the Count that it is, whether
// the destination is Ready, which has then applied the initial bytes, and the downtime
// Predicted of a switchover, with its Stages.
type LimitError = plan.LimitError
