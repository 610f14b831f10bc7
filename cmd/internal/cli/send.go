package cli

import (
	"cmp"
	"context"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
)

const sendLong = `mig-send migrates the state of devices on this host to another one, where
mig-recv waits for it. All of them run there in the end, or none.

` + deviceHelp + `

` + identityHelp + `

` + carrierHelp + `

With --to unix:PATH the peer is a process of the same host; the kernel vouches
that it belongs to the same user or root, and neither side has an identity.

` + dryRunHelp + `

` + stateHelp + `

` + sendContinueHelp + `

` + linkHelp + `

` + doubtHelp + `

` + sendHookHelp + `

` + sendOwnerHelp + `

` + confineHelp + `

` + metricsHelp + `

` + figuresHelp + "\n" + rateHelp + `

` + exitHelp + "\n\n" + holdHelp

const sendExample = `  # on the destination: its name, then wait for the source
  mig-recv id
  mig-recv --listen 192.0.2.7:7000 --device nic0=vfio:0000:3b:00.1 --peer mig1SOURCE...

  # on the source
  mig-send id
  mig-send --to 192.0.2.7:7000 --device nic0=vfio:0000:5e:00.2 --peer mig1DEST...

  # try it without hardware: two simulated devices, no identities
  mig-recv --listen unix:/tmp/mig --device nic0=sim:mlx5 --device acc0=sim:qat &
  mig-send --to unix:/tmp/mig --device 'nic0=sim:mlx5?dirty=20MiB/s' --device acc0=sim:qat`

// codecPolicies are the values of --codec; auto leaves the choice to the engine,
// which knows the lanes.
var codecPolicies = map[string]codec.Policy{
	"auto": nil, "raw": codec.Fixed(codec.Raw), "s2": codec.Fixed(codec.S2), "zstd": codec.Fixed(codec.Zstd),
}

// sendFlags are what only mig-send is told.
type sendFlags struct {
	common
	to         string
	lanes      int
	codec      string
	downtime   time.Duration
	maxDown    time.Duration
	onLimit    string
	timeout    time.Duration
	withoutP2P bool
	maxPrecopy time.Duration
	maxRounds  int
	connect    time.Duration
	cancel     time.Duration
	doubtLimit time.Duration
	dry        bool
	onCommit   hookFlag
	onRevert   hookFlag
	bandwidth  string
	priorities []string
	perSecond  uint64         // of bandwidth, once checked
	priority   map[string]int // by device, once checked
	tuning     reader.Tuning
}

// Send is mig-send: it carries out a command line and returns the exit code.
func Send(args []string) int { return newSend().run(args) }

func newSend() *program {
	s := &sendFlags{common: common{program: "mig-send", peerProgram: "mig-recv", keyName: "send.key", role: source}}
	s.impatient = func() string {
		s.tuning.SetDoubtFor(time.Nanosecond) // which has passed
		return comingBack + "; what is in doubt is left in doubt"
	}
	root := &cobra.Command{
		Use:     "mig-send --to ADDR:PORT --device NAME=URL --peer ID [flags]",
		Short:   "Migrate the state of devices to another host",
		Long:    sendLong,
		Example: sendExample,
	}
	root.Flags().StringVar(&s.to, "to", "", "`ADDR:PORT` of mig-recv, or tls://ADDR:PORT, or auto:ADDR:PORT, or unix:PATH")
	s.addFlags(root)
	root.Flags().BoolVar(&s.dry, "dry-run", false, "ask whether the migration would be accepted, and predict it; touch no device")
	s.onCommit.add(root, "commit", "`PROGRAM` that is run when this side has given the devices up")
	s.onRevert.add(root, "revert", "`PROGRAM` that is run before devices come back after that")
	s.hooks = []*hookFlag{&s.onCommit, &s.onRevert}
	s.addTuning(root)
	p := newProgram(root, &s.common)
	root.RunE = func(*cobra.Command, []string) error {
		p.exit = s.run(s.prepare)
		return nil
	}
	return p
}

func (s *sendFlags) addTuning(root *cobra.Command) {
	f := root.Flags()
	f.IntVar(&s.lanes, "lanes", 0, "`NUMBER` of data lanes (default: the largest of 2, half of the cores, and what the round trip needs)")
	f.StringVar(&s.codec, "codec", "auto", "`CODEC` of every chunk: auto, raw, s2 or zstd; within a host auto means raw")
	f.StringVar(&s.bandwidth, "max-bandwidth", "", "limit of the payload that is sent, a `RATE` like 100MiB/s (default none)")
	f.StringArrayVar(&s.priorities, "priority", nil, "`NAME=N` gives a device N times its share of memory and lanes; may be repeated (default 1)")
	f.DurationVar(&s.downtime, "downtime-target", 300*time.Millisecond, "pause the guest only if the predicted downtime is at most `TIME`; if it cannot be predicted, pause and warn")
	f.StringVar(&s.onLimit, "on-limit", "refuse", "`WHAT` to do when pre-copy cannot bring the downtime down to --downtime-target: refuse, continue or force")
	f.DurationVar(&s.timeout, "abort-after", 0, "`TIME` after which the attempt ends if the guest is not paused by then (default none)")
	f.BoolVar(&s.withoutP2P, "without-p2p", false, "accept several devices although one lacks the P2P states: only safe if no device reaches another by DMA")
	f.DurationVar(&s.maxDown, "resume-after", 0, "`TIME` after which a paused guest resumes here unless the destination is ready (default 10s, or twice --downtime-target if that is more; none for files)")
	f.DurationVar(&s.maxPrecopy, "max-precopy", time.Minute, "`TIME` that pre-copy may last before --on-limit decides")
	f.IntVar(&s.maxRounds, "max-rounds", 30, "`NUMBER` of pre-copy rounds, a second apart, before --on-limit decides")
	f.DurationVar(&s.connect, "connect-for", 5*time.Second, "`TIME` for which the destination is dialled, and then may take to answer; a larger value waits for a mig-recv that starts later")
	f.DurationVar(&s.cancel, "ask-back-after", 5*time.Second, "`TIME` that COMMIT may be unanswered before the source asks for the devices back")
	f.DurationVar(&s.doubtLimit, "doubt-for", 0, "`TIME` that COMMIT may be unanswered before the program exits with 11, in doubt (default for ever)")
	_ = root.RegisterFlagCompletionFunc("codec", completeWords("auto", "raw", "s2", "zstd"))
	_ = root.RegisterFlagCompletionFunc("on-limit", completeWords("refuse", "continue", "force"))
}

func (s *sendFlags) checkTuning() error {
	_, known := codecPolicies[s.codec]
	_, policy := onLimits[s.onLimit]
	switch {
	case !policy:
		return mistakef("it is refuse, continue or force", "--on-limit: unknown %.20q", s.onLimit)
	case s.timeout < 0:
		return mistakef("", "--abort-after %v: must be more than 0", s.timeout)
	case !known:
		return mistakef("the codecs are auto, raw, s2 and zstd", "--codec: unknown codec %.20q", s.codec)
	case s.lanes < 0 || s.lanes > transport.MaxLanes:
		return mistakef("", "--lanes %d: must be 1 to %d, or 0 for what the path needs", s.lanes, transport.MaxLanes)
	case s.downtime <= 0:
		return mistakef("", "--downtime-target %v: must be more than 0", s.downtime)
	case s.maxDown < 0 || s.maxDown > 0 && s.maxDown < s.downtime:
		return mistakef("", "--resume-after %v: must be at least --downtime-target, %v", s.maxDown, s.downtime)
	case s.maxPrecopy <= 0:
		return mistakef("", "--max-precopy %v: must be more than 0", s.maxPrecopy)
	case s.connect <= 0:
		return mistakef("", "--connect-for %v: must be more than 0", s.connect)
	case s.cancel <= 0:
		return mistakef("", "--ask-back-after %v: must be more than 0", s.cancel)
	case s.doubtLimit < 0:
		return mistakef("", "--doubt-for %v: must not be negative", s.doubtLimit)
	case s.maxRounds < 1:
		return mistakef("", "--max-rounds %d: must be at least 1", s.maxRounds)
	}
	return nil
}

func (s *sendFlags) prepare() (job, error) {
	if err := s.checkTuning(); err != nil {
		return job{}, err
	}
	var err error
	if err := s.parsePriorities(); err != nil {
		return job{}, err
	}
	if s.perSecond, err = parseRate("--max-bandwidth", s.bandwidth); err != nil {
		return job{}, err
	}
	if err := cmp.Or(s.doubt.open(), findHooks(s.hooks...)); err != nil {
		return job{}, err
	}
	end, err := s.newEndpoint("--to", s.to)
	if s.dry {
		return s.dryRun(end), err
	}
	if err != nil {
		return job{end: end}, err
	}
	o := &outgoing{}
	if err := s.openNamed(o); err != nil {
		return job{end: end}, err
	}
	begin := func(devices []opened, failed error) error { return s.begin(o, devices, failed) }
	return job{end: end, outgoing: o, begin: begin, engine: func(ctx context.Context, devices []opened, show *show) (migration.Report, error) {
		return s.send(ctx, end, o, devices, show)
	}}, nil
}

func (s *sendFlags) send(ctx context.Context, end endpoint, out *outgoing, devices []opened, show *show) (migration.Report, error) {
	show.about(out.attempt)
	err := s.startBroker(end, devices)
	if err == nil {
		err = s.confine(end, devices, show)
	}
	if err != nil {
		return migration.Report{Outcome: out.untouched(), Attempt: out.attempt}, err
	}
	dialer, err := s.dialer(ctx, end, out, devices, show)
	if err != nil {
		return migration.Report{Outcome: out.untouched(), Attempt: out.attempt}, err
	}
	out.announce(show)
	o := s.options(devices, out.attempt, show)
	o.Attempt, o.Journal, o.Anew = out.attempt, out.journal, out.named
	return reader.Send(ctx, dialer, s.sources(devices), o)
}

func (s *sendFlags) sources(devices []opened) []reader.Source {
	list := make([]reader.Source, len(devices))
	for i, d := range devices {
		list[i] = reader.Source{Name: d.name, Device: d.Device, Priority: s.priority[d.name]}
	}
	return list
}

// parsePriorities reads the --priority flags of one command line.
func (s *sendFlags) parsePriorities() error {
	const hint = "write --priority NAME=N with the name of a --device"
	s.priority = map[string]int{}
	for _, flag := range s.priorities {
		name, value, _ := strings.Cut(flag, "=")
		n, err := strconv.Atoi(value)
		switch {
		case err != nil || n < 1 || n > wire.MaxPriority:
			return mistakef(hint, "--priority %.80q: the priority must be 1 to %d", flag, wire.MaxPriority)
		case !slices.ContainsFunc(s.devices, func(d string) bool { return strings.HasPrefix(d, name+"=") }):
			return mistakef(hint, "--priority %.80q: no --device has that name", flag)
		}
		s.priority[name] = n
	}
	return nil
}

// onLimits are the values of --on-limit.
var onLimits = map[string]reader.OnLimit{"refuse": reader.Refuse, "continue": reader.Continue, "force": reader.Force}

// options bounds the downtime where there is one: no guest waits for files. A witness is
// needed for files as well.
func (s *sendFlags) options(devices []opened, a migration.Attempt, show *show) *reader.Options {
	downtime, maxDown, onLimit := s.downtime, s.maxDown, onLimits[s.onLimit]
	if !slices.ContainsFunc(devices, func(d opened) bool { return !isFile(d.Device) }) {
		downtime, maxDown, onLimit = math.MaxInt64, math.MaxInt64, reader.Force
	}
	o := &reader.Options{
		Memory: int(s.memory.bytes), ChunkSize: int(s.chunk.bytes), Lanes: s.lanes,
		Codec: codecPolicies[s.codec], MaxBandwidth: s.perSecond, DowntimeTarget: downtime, ResumeAfter: maxDown,
		OnLimit: onLimit, IgnoreSilentWitness: onLimits[s.onLimit] == reader.Force, AbortAfter: s.timeout, WithoutP2P: s.withoutP2P,
		MaxPrecopy: s.maxPrecopy, MaxRounds: s.maxRounds, StalledAfter: s.stall,
		ConnectFor: s.connect, ReconnectFor: s.reconnect, AskBackAfter: s.cancel, DoubtFor: s.doubtLimit,
		Tuning: &s.tuning, Observe: show.observe, Software: s.software(), Witness: s.doubt.used,
		OnCommit: s.onCommit.hook(handoff.SourceSide), OnRevert: s.onRevert.hook(handoff.SourceSide),
		StepTimes: s.state.times(),
	}
	s.owner.by(os.Stdin, show).decides(a, o)
	return o
}
