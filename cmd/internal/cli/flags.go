package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/cmd/internal/broker"
	"github.com/migpipe/migpipe/cmd/internal/continuing"
	"github.com/migpipe/migpipe/cmd/internal/input"
	"github.com/migpipe/migpipe/cmd/internal/ui"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/transport/migration"
)

// common has the flags of both programs, and which of them this is.
type common struct {
	input.Side

	auth      input.Auth
	state     continuing.State
	continues continuing.Flags
	reconnect time.Duration
	stall     time.Duration
	doubt     doubtFlags
	owner     ownerFlag
	hooks     []*hookFlag
	metrics   ui.Metrics
	devices   []string
	specs     []input.Device // of devices, once checked
	memory    input.Size
	chunk     input.Size
	json      bool
	quiet     bool

	unconfined bool
	broker     *broker.Broker // nil without a sandbox, and where it has nothing to do

	impatient func() (waiting string) // is called at a second signal, and returns what the run still waits for
}

// job is what a run does once its command line is accepted.
type job struct {
	end       input.Endpoint
	preflight *migration.Preflight // nil but for --dry-run, where the engine fills it
	outgoing  *continuing.Outgoing // of mig-send; nil for --dry-run
	// begin finds the migration that continues, or begins a new one. The devices are open then,
	// or have failed to open.
	begin  func(devices []input.Opened, failed error) error
	engine func(context.Context, []input.Opened, *ui.Observer) (migration.Report, error)
}

// addFlags registers the flags of both programs.
func (c *common) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&c.devices, "device", nil, "`NAME=URL` of a device; may be repeated")
	f.StringArrayVar(&c.auth.Peers, "peer", nil, c.peerHelp())
	f.StringVar(&c.auth.PeersFile, "peers-file", "", "`FILE` with more such IDs, one per line")
	f.StringVar(&c.auth.TLSDir, "tls-dir", "", "`DIR` with certificates of a CA, in place of --identity and --peer")
	f.StringArrayVar(&c.auth.PeerNames, "peer-name", nil, c.peerNameHelp())
	f.BoolVar(&c.json, "json", false, "write events to stdout, one JSON object per line")
	f.BoolVarP(&c.quiet, "quiet", "q", false, "no progress and no report, only errors")
	c.memory = input.Size{Bytes: 32 << 20, Min: 4096, Max: 1 << 40}
	c.chunk = input.Size{Bytes: 1 << 20, Min: 4096, Max: wire.MaxChunk}
	f.Var(&c.memory, "memory", "`SIZE` of the chunk buffers")
	f.Var(&c.chunk, "chunk-size", "largest chunk, a `SIZE`; the smaller value of the two sides counts")
	input.Duration(f, &c.state.Keep, "expire-state-after", continuing.KeepState, input.Positive, "`TIME` after which --state-dir removes the record of a migration that has ended")
	c.continues.Add(cmd, c.Role, c.completeMigration)
	input.Duration(f, &c.reconnect, "reconnect-for", time.Minute, input.Positive, "`TIME` for which a lost peer is dialled again before COMMIT; then the attempt ends")
	input.Duration(f, &c.auth.Idle, "lost-after", transport.IdleTimeout, longEnough, "`TIME` of silence after which a connection counts as lost; above 5s the smaller value of the two sides counts")
	input.Duration(f, &c.stall, "stalled-after", 30*time.Second, input.Positive, c.stallHelp())
	c.doubt.add(cmd)
	c.owner.add(cmd)
	c.metrics.Add(cmd)
	f.BoolVar(&c.unconfined, "no-sandbox", false, "keep access to files that the program does not need")
	_ = cmd.RegisterFlagCompletionFunc("device", input.CompleteDevice)
	_ = cmd.RegisterFlagCompletionFunc("peer", cobra.NoFileCompletions)
	_ = cmd.RegisterFlagCompletionFunc("peer-name", cobra.NoFileCompletions)
	_ = cmd.MarkFlagDirname("tls-dir")
}

func (c *common) peerHelp() string {
	if c.Role == journal.Destination {
		return "`ID` of a peer that may send; may be repeated"
	}
	return "`ID` that the peer must have; may be repeated"
}

func (c *common) peerNameHelp() string {
	if c.Role == journal.Destination {
		return "`NAME` in the certificate of a peer that may send; may be repeated"
	}
	return "`NAME` that the peer's certificate must have; may be repeated (default the host of --to)"
}

func (c *common) stallHelp() string {
	if c.Role == journal.Destination {
		return "`TIME` after which the attempt ends if the devices write nothing, or the source sends nothing although bytes are left"
	}
	return "`TIME` after which the attempt ends if no byte moves while the guest is paused"
}

// check refuses flags that contradict each other.
func (c *common) check() error {
	switch {
	case c.json && c.quiet:
		return ui.Mistakef("", "--json and --quiet exclude each other")
	case c.memory.Bytes < c.chunk.Bytes:
		return ui.Mistakef("give a smaller --chunk-size too, or more --memory", "--memory %s is less than one chunk of %s", &c.memory, &c.chunk)
	}
	return cmp.Or(checkMemory(&c.memory, leastMemory("/")), c.continues.Check(&c.state, c.Role), c.owner.check(c.json))
}

// longEnough refuses a silence that a connection which is in use may have.
func longEnough(idle time.Duration) error {
	if idle < transport.MinIdleTimeout {
		return fmt.Errorf("must be at least %v, since a connection in use is never silent for more than %v", transport.MinIdleTimeout, transport.KeepAlive)
	}
	return nil
}

// comingBack is the wait that no signal shortens.
const comingBack = "waiting for the devices to come back"

// memoryError names --memory where this host could not give the buffers.
func (c *common) memoryError(err error) error {
	if f, ok := errors.AsType[*transport.Fault](err); errors.Is(err, unix.ENOMEM) && (!ok || f.Device == "" && !f.Remote) {
		return ui.Mistakef("give a smaller --memory", "--memory %s: %s", &c.memory, ui.PlainText(err))
	}
	return err
}

// run runs a command line, and returns the exit code. Every path from here ends in
// Observer.End, which emits the done event.
func (c *common) run(prepare func() (job, error)) int {
	limitHeap(c.memory.Bytes, leastMemory("/"))
	keepCollectorAway(c.Role == journal.Source)
	show := ui.NewObserver(c.Program, c.json, c.quiet)
	c.auth.Open, c.auth.Warn = c.openFile, show.Warn
	ctx, stop := cancelOnSignal(c.Program, show.Stderr(), c.impatient)
	devices, j, v := c.attempt(ctx, prepare, show)
	stop()
	c.endBroker()
	j.outgoing.Close() // before the wait, in which a person may decide
	holdDevices(&v, devices, show)
	closeDevices(&v, devices)
	c.metrics.Close()
	return show.End(v)
}

// attempt runs everything from the check of the flags to the result. The devices are still
// open then.
func (c *common) attempt(ctx context.Context, prepare func() (job, error), show *ui.Observer) ([]input.Opened, job, ui.Result) {
	devices, j, err := c.setUp(prepare, show)
	v := ui.Result{Report: migration.Report{Outcome: migration.Aborted}, Err: err, Preflight: j.preflight}
	v.Scene = ui.Scene{Sending: c.Role == journal.Source, Self: j.end.ID(), Certified: c.auth.TLSDir != "", Prefix: j.end.Prefix, Address: j.end.Address}
	if d, ok := errors.AsType[*continuing.Decided](err); ok {
		v.Started, v.Report, v.Err = true, d.Report, d.Err
	}
	if err == nil {
		c.tidy(j, show)
		v.Started = true
		v.Report, v.Err = j.engine(ctx, devices, show)
		if v.Report.Outcome == migration.Aborted {
			v.Err = c.memoryError(v.Err)
		}
		v.Moved = v.Bytes() > 0
	}
	if v.Sending && c.state.Directory() != "" {
		v.Again = v.Report.Attempt.Mig.String()
	}
	if h := v.Report.CopyThere; h != nil {
		v.There = &ui.CopyThere{CopyThere: *h, Mig: v.Report.Attempt.Mig}
	}
	if c.Role == journal.Destination && v.Report.Outcome == migration.Committed {
		verify(&v, devices)
	}
	return devices, j, v
}

// tidy is what a run does beside its migration. A dry run changes nothing.
func (c *common) tidy(j job, show *ui.Observer) {
	if j.preflight == nil {
		c.state.Prune(c.Role, show.Warn)
	}
}

// setUp checks the whole command line before it opens the first device. Metrics come
// before keys and journals, which are made on first use.
func (c *common) setUp(prepare func() (job, error), show *ui.Observer) ([]input.Opened, job, error) {
	var err error
	if c.specs, err = input.ParseDevices(c.devices, c.Role); err == nil {
		c.state.Devices = input.JournalDevices(c.specs)
		err = cmp.Or(c.check(), c.descriptors().CheckDevices())
	}
	if err == nil {
		err = c.metrics.Open(c.Role, show)
	}
	if err != nil {
		return nil, job{}, err
	}
	j, err := prepare()
	if err != nil {
		return nil, j, err
	}
	devices, err := input.OpenAll(c.specs, c.Role)
	if j.begin != nil {
		err = j.begin(devices, err)
	}
	return devices, j, err
}

// descriptors are the uses of descriptors that the command line names.
func (c *common) descriptors() input.Descriptors {
	return input.Descriptors{Side: c.Side, Devices: c.specs, Quiet: c.quiet, Answered: c.owner.external()}
}

// software is how the program introduces itself to the peer.
func (c *common) software() string { return c.Program + " " + ui.Release() }

// completeMigration offers the ids of journals that begin with the typed text.
func (c *common) completeMigration(_ *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 || c.state.Directory() == "" {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ids, err := continuing.Migrations(c.state.Directory(), c.Role, strings.ToLower(typed))
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}
