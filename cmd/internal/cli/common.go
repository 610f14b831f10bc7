package cli

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/cmd/internal/broker"
	"github.com/migpipe/migpipe/internal/lockfile"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
)

// common is what both programs are told by flags, and what tells them apart.
type common struct {
	program     string
	peerProgram string
	keyName     string // of the file with this side's key
	role        role

	identity  string
	state     stateFlags
	continues continueFlags
	reconnect time.Duration
	idle      time.Duration
	stall     time.Duration
	doubt     doubtFlags
	owner     ownerFlag
	hooks     []*hookFlag
	metrics   metricsFlag
	peers     []string
	peersFile string
	tlsDir    string
	peerNames []string
	devices   []string
	specs     []device // of devices, once checked
	memory    size
	chunk     size
	json      bool
	quiet     bool

	unconfined bool
	broker     *broker.Broker // nil without a sandbox, and where it has nothing to do

	warn      func(string)            // tells of what has gone wrong beside the migration
	impatient func() (waiting string) // does what a second signal asks for
}

// opened is a device that is ready to migrate.
type opened struct {
	name string
	vfio.Device
	ours      bool   // and nobody else's: its state ends when it is closed
	lent      bool   // by somebody who has it open too, so that a process before this one may have used it
	directory string // where it still makes files, "" for nowhere
	claim     *lockfile.Lock
}

// Close implements [vfio.Device]. Another process may use what the device is after that.
func (o opened) Close() error { return errors.Join(o.Device.Close(), o.claim.Release()) }

// job is a migration whose command line was found good.
type job struct {
	end       endpoint
	preflight *migration.Preflight // nil but for --dry-run, where the engine fills it
	outgoing  *outgoing            // of mig-send; nil for --dry-run
	// begin finds out which migration it is, now that the devices are open, or have
	// failed to open.
	begin  func(devices []opened, failed error) error
	engine func(context.Context, []opened, *show) (migration.Report, error)
}

// addFlags adds the flags that both programs have behind the one that says
// where.
func (c *common) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&c.devices, "device", nil, "`NAME=URL` of a device; may be repeated")
	f.StringArrayVar(&c.peers, "peer", nil, c.peerHelp())
	f.StringVar(&c.peersFile, "peers-file", "", "`FILE` with more such IDs, one per line")
	f.StringVar(&c.tlsDir, "tls-dir", "", "`DIR` with certificates of a CA, in place of --identity and --peer")
	f.StringArrayVar(&c.peerNames, "peer-name", nil, c.peerNameHelp())
	f.BoolVar(&c.json, "json", false, "write events to stdout, one JSON object per line")
	f.BoolVarP(&c.quiet, "quiet", "q", false, "no progress and no report, only errors")
	c.memory = size{bytes: 32 << 20, min: 4096, max: 1 << 40}
	c.chunk = size{bytes: 1 << 20, min: 4096, max: wire.MaxChunk}
	f.Var(&c.memory, "memory", "`SIZE` of the chunk buffers")
	f.Var(&c.chunk, "chunk-size", "largest chunk, a `SIZE`; the smaller value of the two sides counts")
	f.DurationVar(&c.state.keep, "expire-state-after", keepState, "`TIME` after which --state-dir removes the record of a migration that has ended")
	c.continues.add(cmd, c.role, c.completeMigration)
	f.DurationVar(&c.reconnect, "reconnect-for", time.Minute, "`TIME` for which a lost peer is dialled again before COMMIT; then the attempt ends")
	f.DurationVar(&c.idle, "lost-after", transport.IdleTimeout, "`TIME` of silence after which a connection counts as lost; above 5s the smaller value of the two sides counts")
	f.DurationVar(&c.stall, "stalled-after", 30*time.Second, c.stallHelp())
	c.doubt.add(cmd)
	c.owner.add(cmd)
	c.metrics.add(cmd)
	f.BoolVar(&c.unconfined, "no-sandbox", false, "keep access to files that the program does not need")
	_ = cmd.RegisterFlagCompletionFunc("device", completeDevice)
	_ = cmd.RegisterFlagCompletionFunc("peer", cobra.NoFileCompletions)
	_ = cmd.RegisterFlagCompletionFunc("peer-name", cobra.NoFileCompletions)
	_ = cmd.MarkFlagDirname("tls-dir")
}

func (c *common) peerHelp() string {
	if c.role == sink {
		return "`ID` of a peer that may send; may be repeated"
	}
	return "`ID` that the peer must have; may be repeated"
}

func (c *common) peerNameHelp() string {
	if c.role == sink {
		return "`NAME` in the certificate of a peer that may send; may be repeated"
	}
	return "`NAME` that the peer's certificate must have; may be repeated (default the host of --to)"
}

func (c *common) stallHelp() string {
	if c.role == sink {
		return "`TIME` after which the attempt ends if the devices write nothing, or the source sends nothing although bytes are left"
	}
	return "`TIME` after which the attempt ends if no byte moves while the guest is paused"
}

// check finds what flags say together and none says alone.
func (c *common) check() error {
	switch {
	case c.json && c.quiet:
		return mistakef("", "--json and --quiet exclude each other")
	case c.memory.bytes < c.chunk.bytes:
		return mistakef("give a smaller --chunk-size too, or more --memory", "--memory %s is less than one chunk of %s", &c.memory, &c.chunk)
	case c.state.keep <= 0:
		return mistakef("", "--expire-state-after %v: must be more than 0", c.state.keep)
	case c.reconnect <= 0:
		return mistakef("", "--reconnect-for %v: must be more than 0", c.reconnect)
	case c.idle < transport.MinIdleTimeout:
		return mistakef("", "--lost-after %v: must be at least %v, since one that lives proves it every %v", c.idle, transport.MinIdleTimeout, transport.KeepAlive)
	case c.stall <= 0:
		return mistakef("", "--stalled-after %v: must be more than 0", c.stall)
	}
	return cmp.Or(c.checkMemory(leastMemory("/")), c.continues.check(&c.state, c.role.journal()), c.owner.check(c.json))
}

// comingBack is what nobody's impatience shortens.
const comingBack = "waiting for the devices to come back"

// memoryError finds buffers that this host could not give.
func (c *common) memoryError(err error) error {
	if f, ok := errors.AsType[*transport.Fault](err); errors.Is(err, unix.ENOMEM) && (!ok || f.Device == "" && !f.Remote) {
		return mistakef("give a smaller --memory", "--memory %s: %s", &c.memory, plainText(err))
	}
	return err
}

// run carries a command line out and tells how it went. Every way from here
// leads through show.end, which writes the done event.
func (c *common) run(prepare func() (job, error)) int {
	limitHeap(c.memory.bytes, leastMemory("/"))
	keepCollectorAway(c.role == source)
	show := newShow(c)
	c.warn = show.warn
	ctx, stop := cancelOnSignal(c.program, show.to.err, c.impatient)
	devices, j, v := c.attempt(ctx, prepare, show)
	stop() // nothing is being waited for any more
	c.endBroker()
	j.outgoing.close() // before the wait, in which a person may decide
	v.hold(devices, show)
	v.close(devices)
	c.metrics.close()
	return show.end(v)
}

// attempt does everything from flags to what became of the devices, which are
// still open.
func (c *common) attempt(ctx context.Context, prepare func() (job, error), show *show) ([]opened, job, verdict) {
	devices, j, err := c.setUp(prepare, show)
	v := verdict{report: migration.Report{Outcome: migration.Aborted}, err: err, preflight: j.preflight}
	v.scene = scene{sending: c.role == source, self: j.end.id(), certified: c.tlsDir != "", prefix: j.end.prefix, address: j.end.address}
	if d, ok := errors.AsType[*decided](err); ok {
		v.started, v.report, v.err = true, d.report, d.err
	}
	if err == nil {
		c.tidy(j, show)
		v.started = true
		v.report, v.err = j.engine(ctx, devices, show)
		if v.report.Outcome == migration.Aborted {
			v.err = c.memoryError(v.err)
		}
		v.moved = v.bytes() > 0
	}
	if v.sending && c.state.directory() != "" {
		v.again = v.report.Attempt.Mig.String()
	}
	if h := v.report.CopyThere; h != nil {
		v.there = &copyThere{*h, v.report.Attempt.Mig}
	}
	if c.role == sink && v.report.Outcome == migration.Committed {
		v.verify(devices)
	}
	return devices, j, v
}

// tidy is what a run does beside its migration. A dry run changes nothing.
func (c *common) tidy(j job, show *show) {
	if j.preflight == nil {
		c.state.prune(c.role.journal(), show.warn)
	}
}

// setUp checks the whole command line before it opens the first device. Metrics come
// before keys and journals, which are made on first use.
func (c *common) setUp(prepare func() (job, error), show *show) ([]opened, job, error) {
	var err error
	if c.specs, err = parseDevices(c.devices, c.role); err == nil {
		c.state.devices = journalDevices(c.specs)
		err = cmp.Or(c.check(), c.checkFDs(c.specs))
	}
	if err == nil {
		err = c.metrics.open(c.role, show)
	}
	if err != nil {
		return nil, job{}, err
	}
	j, err := prepare()
	if err != nil {
		return nil, j, err
	}
	devices, err := openAll(c.specs, c.role)
	if j.begin != nil {
		err = j.begin(devices, err)
	}
	return devices, j, err
}

// openAll opens every device or none.
func openAll(specs []device, r role) ([]opened, error) {
	var list []opened
	for _, d := range specs {
		o, err := d.take(r)
		if err != nil {
			for _, o := range list {
				o.Close()
			}
			return nil, deviceFault(d.name, err)
		}
		list = append(list, o)
	}
	return list, nil
}

// take opens a device that no other process uses. What else is wrong with its path, opening it
// tells better than locking it.
func (d device) take(r role) (opened, error) {
	claim, unclaimed := d.claim(r)
	if errors.Is(unclaimed, vfio.ErrBusy) {
		return opened{}, unclaimed
	}
	dev, err := d.open(r)
	if err != nil {
		return opened{}, errors.Join(err, claim.Release())
	}
	if unclaimed != nil {
		return opened{}, errors.Join(unclaimed, dev.Close())
	}
	return opened{d.name, dev, d.ours(), d.lent(dev), d.directory(r), claim}, nil
}

// software is how the program introduces itself to the peer.
func (c *common) software() string { return c.program + " " + release() }
