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

// Source is one device to migrate, under the name by which the destination knows it. The caller
// opened the device, and closes it after Send.
type Source struct {
	Name   string
	Device vfio.Device
	// Priority multiplies the device's share of memory and lanes, on both sides.
	// Default 1, at most wire.MaxPriority.
	Priority int
}

// Options tunes Send. Nil, or a zero field, means the default.
type Options struct {
	// Memory, and how bytes travel.

	// Memory is the size of the chunk buffers, in bytes. Default 32 MiB.
	Memory int
	// ChunkSize is the largest payload of one frame, in bytes. The destination may ask for less.
	// Default 1 MiB, at most wire.MaxChunk.
	ChunkSize int
	// Lanes is the number of data lanes, at most transport.MaxLanes. Default: the largest of 2,
	// half of the cores, and what the round trip and Memory need.
	Lanes int
	// MaxBandwidth limits the payload on all data lanes together, in bytes per second. Default: no
	// limit.
	MaxBandwidth uint64
	// Codec chooses how each chunk is encoded. Default: codec.Auto, among the codecs that both
	// sides have. On lanes that stay in this host the default is no codec: bytes are spliced past
	// user space where the device's stream allows it.
	Codec codec.Policy

	// When the guest is paused, and for how long.

	// DowntimeTarget is the longest downtime that may be predicted when the guest is paused.
	// Default 300 ms. math.MaxInt64 is no limit.
	DowntimeTarget time.Duration
	// OnLimit says what to do when the predicted downtime is still above DowntimeTarget at
	// MaxPrecopy or MaxRounds, and when fixed steps alone are above it. Default Refuse.
	OnLimit OnLimit
	// MaxPrecopy and MaxRounds bound PRE_COPY, in time and in rounds. A round counts if it ends
	// at least a second after the last one that counted. Default 60 s and 30 rounds.
	MaxPrecopy time.Duration
	MaxRounds  int
	// ResumeAfter ends an attempt in which the destination is not ready, or Approve has not
	// returned, that long after the pause of the guest. The devices then run at the source. Default
	// 10 s, or twice DowntimeTarget if that is more.
	ResumeAfter time.Duration
	// StalledAfter ends an attempt in which no byte moves for that long while the guest is paused.
	// ResumeAfter applies as well. Default 30 s, because some drivers load for seconds in one
	// write.
	StalledAfter time.Duration
	// AbortAfter ends an attempt that has not paused the guest within that time. Default: none.
	AbortAfter time.Duration
	// WithoutP2P accepts a set of several devices in which one lacks RUNNING_P2P. The other devices
	// could reach that one by DMA while it is stopped: the caller asserts that they do not.
	WithoutP2P bool

	// How long a silent peer is waited for.

	// ConnectFor bounds three waits, each by itself: for a connection to the destination, for its
	// answer to HELLO, and for the data lanes. The destination's devices enter RESUMING before it
	// answers HELLO. With a Witness the answer to HELLO may take longer by witness.Timeout, the
	// time of a probe. Default 5 s. A larger value also waits for a destination that is not started
	// yet.
	ConnectFor time.Duration
	// ReconnectFor is how long Send dials a destination that was lost before COMMIT. ResumeAfter
	// ends that too. Default 60 s.
	ReconnectFor time.Duration
	// AskBackAfter is how long COMMIT may be unanswered before Send asks the destination to give
	// the devices back. The destination does so unless it has accepted them by then. Default 5 s.
	AskBackAfter time.Duration
	// DoubtFor is how long Send waits for the answer to COMMIT, over any number of connections.
	// After that, and soon after a cancel without an answer, Send returns in doubt. Default: no
	// limit.
	DoubtFor time.Duration

	// The VMM, and hooks.

	// PauseGuest stops the vCPUs before any device leaves RUNNING. Its ctx ends after ResumeAfter,
	// and with the attempt: PauseGuest must return then. An error that is a *transport.Fault keeps
	// its code.
	//
	// ResumeGuest starts the vCPUs again, on every way back and after a switchover that was called
	// off. Before that call all devices run, and this side's right to run them is recorded. An
	// earlier process may have paused the guest, so ResumeGuest may be called without PauseGuest.
	// Its ctx ends after 10 s. If it fails, the outcome is that of the devices, and the report says
	// GuestUnheard. Default: there is no guest.
	PauseGuest, ResumeGuest func(context.Context) error
	// Approve has the last word before COMMIT. Send calls it once, when the destination has loaded
	// everything. An error returns the devices to RUNNING at the source. An owner can so decide
	// about the VM and its devices at once. Until Approve returns, other causes may still end the
	// attempt, ResumeAfter included. Its ctx ends then, and Approve must return: ResumeGuest waits
	// for that. A nil error is not the end: only the Outcome says which side may run. Default: no
	// approval is needed.
	Approve func(context.Context) error
	// OnCommit runs when COMMIT is recorded: this side no longer has the right to run the devices. It
	// runs while Send waits for the destination. OnRevert runs before devices that the destination
	// gave back are resumed. A failure of either is a warning.
	OnCommit, OnRevert handoff.Hook

	// The right to run: its record, and who decides in doubt.

	// Attempt names the attempt. Default: a new id, epoch 1.
	Attempt migration.Attempt
	// StartOver begins the attempt although an earlier process left an attempt open, and the
	// devices hold nothing of it. Without it Send asks the destination first whether it has a
	// complete copy, which may be the only one. If it has, Send changes nothing and returns
	// ErrOnlyCopy.
	StartOver bool
	// Journal takes the records of the hand-off. Default: a journal in memory.
	Journal handoff.Journal
	// Witness decides in doubt which side may run the devices, if the destination does not answer
	// COMMIT. The destination must have the same one. Both sides probe it before the guest is
	// paused, with a random migration. Default: none. Then Send asks the destination for as long as
	// DoubtFor allows.
	Witness witness.Witness
	// IgnoreSilentWitness begins a migration, with a warning, although the witness does not answer
	// one side. Default: such a migration ends before a device is touched.
	IgnoreSilentWitness bool

	// What others see, and what may change while Send runs.

	// Observe receives every event. It must not block.
	Observe migration.Observer
	// Software is the name and version that this side sends to its peer.
	Software string
	// Tuning changes limits while Send runs. Send first sets MaxBandwidth there, if it is given.
	// Default: a new Tuning.
	Tuning *Tuning
	// StepTimes stores how long PauseGuest and Approve took. The next prediction uses that.
	// Default: none, and the prediction is a lower bound.
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
		return fmt.Errorf("reader: Options.ResumeAfter is %v, less than DowntimeTarget, %v: a switchover of that length would be begun and ended", o.ResumeAfter, o.DowntimeTarget)
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

// doubtLimit is how long Send waits for the answer to COMMIT, as set now; 0 is no limit.
func (o *Options) doubtLimit() time.Duration {
	return cmp.Or(time.Duration(o.Tuning.doubt.Load()), o.DoubtFor)
}

// assumedRate is the assumed rate of a path without a known limit, in bytes a second: 100 Gbit/s.
const assumedRate = 12.5e9

// nearRTT is the round trip below which the hosts' own time dominates. A handshake contains a key
// agreement and signatures, on processors that may be busy.
const nearRTT = 5 * time.Millisecond

// minLanes is the number of lanes for a short path: one lane sends while the other encodes. Each
// lane has one goroutine that seals packets and one that opens them. A host with many cores needs
// more lanes to use half of its cores, on either side.
func minLanes(cores int) int { return min(max(2, cores/2), transport.MaxLanes) }

// lanesFor is the number of lanes that carry the bytes which a path can hold in flight. Two bounds
// apply: memory, which retains a chunk until it is acknowledged, and the bytes that perSecond
// allows in one round trip (0 is no limit).
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

// laneCount is how many lanes to offer over a control lane's carrier.
func (o *Options) laneCount(c transport.Carrier) uint16 {
	if o.Lanes > 0 {
		return uint16(o.Lanes)
	}
	return uint16(lanesFor(c, o.Memory, o.Tuning.MaxBandwidth(), runtime.GOMAXPROCS(0)))
}

// connectLimit is the default of Options.ConnectFor. It also bounds one try to reach the
// destination, answer included.
const connectLimit = 5 * time.Second

// Limits of time that end an attempt.
var (
	ErrNoWelcome = errors.New("no answer to HELLO")                       // Options.ConnectFor
	ErrDowntime  = errors.New("the guest was paused for too long")        // Options.ResumeAfter
	ErrNotPaused = errors.New("the pause of the guest was not confirmed") // Options.PauseGuest, ResumeAfter
	ErrStalled   = errors.New("no progress within the stall limit")       // Options.StalledAfter
)

// OnLimit says what to do with devices whose predicted downtime is above Options.DowntimeTarget
// when PRE_COPY reaches a cap.
type OnLimit = plan.OnLimit

// The reactions to a limit.
const (
	Refuse   = plan.Refuse   // end the attempt: the guest runs on at the source
	Continue = plan.Continue // continue PRE_COPY until the downtime fits, or Options.AbortAfter ends the attempt; refuse a downtime that no PRE_COPY shortens
	Force    = plan.Force    // pause the guest nevertheless
)

// Limit is a bound that applies before the switchover.
type Limit = plan.Limit

// The limits.
const (
	LimitDowntime = plan.LimitDowntime // no device has PRE_COPY to shorten the downtime
	LimitPrecopy  = plan.LimitPrecopy  // Options.MaxPrecopy
	LimitRounds   = plan.LimitRounds   // Options.MaxRounds
	LimitTimeout  = plan.LimitTimeout  // Options.AbortAfter
	LimitReinit   = plan.LimitReinit   // a device was initialised again in every switchover
	LimitPath     = plan.LimitPath     // the speed of the path is unknown
	LimitFixed    = plan.LimitFixed    // the steps of a switchover that no PRE_COPY shortens take longer than Options.DowntimeTarget
)

// LimitError ends an attempt that could not keep within a limit. The guest was not paused, or runs
// again. Its fields are the Limit and its value, the time Allowed or the Count. Ready says whether
// the destination has applied the initial bytes. Predicted is the downtime of a switchover, with
// its Stages.
type LimitError = plan.LimitError
