package cli

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/migpipe/migpipe/cmd/internal/continuing"
	"github.com/migpipe/migpipe/cmd/internal/input"
	"github.com/migpipe/migpipe/cmd/internal/ui"
	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/transport/migration"
)

const sendLong = `mig-send migrates the state of devices on this host to another one, where
mig-recv waits for it. All of them run there in the end, or none.

` + input.DeviceHelp + `

` + input.IdentityHelp + `

` + input.CarrierHelp + `

With --to unix:PATH the peer is a process of the same host; the kernel vouches
that it belongs to the same user or root, and neither side has an identity.

` + dryRunHelp + `

` + continuing.StateHelp + `

` + continuing.SendContinueHelp + `

` + continuing.LinkHelp + `

` + doubtHelp + `

` + sendHookHelp + `

` + sendOwnerHelp + `

` + confineHelp + `

` + ui.MetricsHelp + `

` + figuresHelp + "\n" + rateHelp + `

` + ui.ExitHelp + "\n\n" + ui.HoldHelp

const sendExample = `  # on the destination: its name, then wait for the source
  mig-recv id
  mig-recv --listen 192.0.2.7:7000 --device nic0=vfio:0000:3b:00.1 --peer mig1SOURCE...

  # on the source
  mig-send id
  mig-send --to 192.0.2.7:7000 --device nic0=vfio:0000:5e:00.2 --peer mig1DEST...

  # try it without hardware: two simulated devices, no identities
  mig-recv --listen unix:/tmp/mig --device nic0=sim:mlx5 --device acc0=sim:qat &
  mig-send --to unix:/tmp/mig --device 'nic0=sim:mlx5?dirty=20MiB/s' --device acc0=sim:qat`

// codecPolicies are the values of --codec. auto leaves the choice to the engine.
var codecPolicies = map[string]codec.Policy{
	"auto": nil, "raw": codec.Fixed(codec.Raw), "s2": codec.Fixed(codec.S2), "zstd": codec.Fixed(codec.Zstd),
}

// sendFlags are the flags of mig-send.
type sendFlags struct {
	common
	to         string
	dry        bool
	onCommit   hookFlag
	onRevert   hookFlag
	priorities []string
	priority   map[string]int // by device, once checked
	tuning     reader.Tuning
	opts       reader.Options // what flags set; options adds the rest
}

// Send is mig-send: it carries out a command line and returns the exit code.
func Send(args []string) int { return newSend().run(args) }

func newSend() *program {
	s := &sendFlags{common: common{Side: input.Side{Program: "mig-send", PeerProgram: "mig-recv", KeyName: "send.key", Role: journal.Source}}}
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

// addTuning registers the flags that set an option of the engine.
func (s *sendFlags) addTuning(root *cobra.Command) {
	f, o := root.Flags(), &s.opts
	input.Int(f, &o.Lanes, "lanes", 0, lanesFit, "`NUMBER` of data lanes (default: the largest of 2, half of the cores, and what the round trip needs)")
	input.Choice(root, &o.Codec, "codec", "`CODEC` of every chunk: auto, raw, s2 or zstd; within a host auto means raw", []string{"auto", "raw", "s2", "zstd"}, codecPolicies)
	input.Rate(f, &o.MaxBandwidth, "max-bandwidth", "limit of the payload that is sent, a `RATE` like 100MiB/s (default none)")
	f.StringArrayVar(&s.priorities, "priority", nil, "`NAME=N` gives a device N times its share of memory and lanes; may be repeated (default 1)")
	input.Duration(f, &o.DowntimeTarget, "downtime-target", 300*time.Millisecond, input.Positive, "pause the guest only if the predicted downtime is at most `TIME`; if it cannot be predicted, pause and warn")
	input.Choice(root, &o.OnLimit, "on-limit", "`WHAT` to do when pre-copy cannot bring the downtime down to --downtime-target: refuse, continue or force", []string{"refuse", "continue", "force"}, onLimits)
	input.Duration(f, &o.AbortAfter, "abort-after", 0, input.NotNegative, "`TIME` after which the attempt ends if the guest is not paused by then (default none)")
	f.BoolVar(&o.WithoutP2P, "without-p2p", false, "accept several devices although one lacks the P2P states: only safe if no device reaches another by DMA")
	input.Duration(f, &o.ResumeAfter, "resume-after", 0, input.NotNegative, "`TIME` after which a paused guest resumes here unless the destination is ready (default 10s, or twice --downtime-target if that is more; none for files)")
	input.Duration(f, &o.MaxPrecopy, "max-precopy", time.Minute, input.Positive, "`TIME` that pre-copy may last before --on-limit decides")
	input.Int(f, &o.MaxRounds, "max-rounds", 30, input.Positive, "`NUMBER` of pre-copy rounds, a second apart, before --on-limit decides")
	input.Duration(f, &o.ConnectFor, "connect-for", 5*time.Second, input.Positive, "`TIME` for which the destination is dialled, and then may take to answer; a larger value waits for a mig-recv that starts later")
	input.Duration(f, &o.AskBackAfter, "ask-back-after", 5*time.Second, input.Positive, "`TIME` that COMMIT may be unanswered before the source asks for the devices back")
	input.Duration(f, &o.DoubtFor, "doubt-for", 0, input.NotNegative, "`TIME` that COMMIT may be unanswered before the program exits with 11, in doubt (default for ever)")
}

// lanesFit refuses more lanes than a migration may have.
func lanesFit(n int) error {
	if n < 0 || n > transport.MaxLanes {
		return fmt.Errorf("must be 1 to %d, or 0 for what the path needs", transport.MaxLanes)
	}
	return nil
}

// checkTuning refuses flags that contradict each other.
func (s *sendFlags) checkTuning() error {
	if o := &s.opts; o.ResumeAfter > 0 && o.ResumeAfter < o.DowntimeTarget {
		return ui.Mistakef("", "--resume-after %v: must be at least --downtime-target, %v", o.ResumeAfter, o.DowntimeTarget)
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
	if err := cmp.Or(s.doubt.open(), findHooks(s.hooks...)); err != nil {
		return job{}, err
	}
	end, err := s.auth.NewEndpoint("--to", s.to, s.descriptors())
	if s.dry {
		return s.dryRun(end), err
	}
	if err != nil {
		return job{end: end}, err
	}
	o := &continuing.Outgoing{Flags: &s.continues, State: &s.state}
	if err := o.OpenNamed(); err != nil {
		return job{end: end}, err
	}
	begin := func(devices []input.Opened, failed error) error { return o.Begin(devices, failed) }
	return job{end: end, outgoing: o, begin: begin, engine: func(ctx context.Context, devices []input.Opened, show *ui.Observer) (migration.Report, error) {
		return s.send(ctx, end, o, devices, show)
	}}, nil
}

func (s *sendFlags) send(ctx context.Context, end input.Endpoint, out *continuing.Outgoing, devices []input.Opened, show *ui.Observer) (migration.Report, error) {
	show.About(out.Attempt)
	err := s.startBroker(end, devices)
	if err == nil {
		err = s.confine(end, devices, show)
	}
	if err != nil {
		return migration.Report{Outcome: out.Untouched(), Attempt: out.Attempt}, err
	}
	dialer, err := s.dialer(ctx, end, out, devices, show)
	if err != nil {
		return migration.Report{Outcome: out.Untouched(), Attempt: out.Attempt}, err
	}
	out.Announce(show.Warn)
	o := s.options(devices, out.Attempt, show)
	o.Attempt, o.Journal, o.StartOver = out.Attempt, out.Journal, out.Named
	return reader.Send(ctx, dialer, s.sources(devices), o)
}

func (s *sendFlags) sources(devices []input.Opened) []reader.Source {
	list := make([]reader.Source, len(devices))
	for i, d := range devices {
		list[i] = reader.Source{Name: d.Name, Device: d.Device, Priority: s.priority[d.Name]}
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
			return ui.Mistakef(hint, "--priority %.80q: the priority must be 1 to %d", flag, wire.MaxPriority)
		case !slices.ContainsFunc(s.devices, func(d string) bool { return strings.HasPrefix(d, name+"=") }):
			return ui.Mistakef(hint, "--priority %.80q: no --device has that name", flag)
		}
		s.priority[name] = n
	}
	return nil
}

// onLimits are the values of --on-limit.
var onLimits = map[string]reader.OnLimit{"refuse": reader.Refuse, "continue": reader.Continue, "force": reader.Force}

// options are those of the flags, with what a run adds. No guest waits for files: without a
// device that is none, nothing bounds the downtime. A witness is needed for files as well.
func (s *sendFlags) options(devices []input.Opened, a migration.Attempt, show *ui.Observer) *reader.Options {
	o := s.opts
	o.IgnoreSilentWitness = o.OnLimit == reader.Force
	if !slices.ContainsFunc(devices, func(d input.Opened) bool { return !input.IsFile(d.Device) }) {
		o.DowntimeTarget, o.ResumeAfter, o.OnLimit = math.MaxInt64, math.MaxInt64, reader.Force
	}
	o.Memory, o.ChunkSize = int(s.memory.Bytes), int(s.chunk.Bytes)
	o.StalledAfter, o.ReconnectFor = s.stall, s.reconnect
	o.Tuning, o.Observe, o.Software, o.Witness = &s.tuning, show.Observe, s.software(), s.doubt.used
	o.OnCommit, o.OnRevert = s.onCommit.hook(handoff.SourceSide), s.onRevert.hook(handoff.SourceSide)
	o.StepTimes = s.state.Times()
	s.owner.by(os.Stdin, show).decides(a, &o)
	return &o
}
