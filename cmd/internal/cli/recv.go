package cli

import (
	"cmp"
	"context"
	"errors"
	"os"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/migpipe/migpipe/cmd/internal/continuing"
	"github.com/migpipe/migpipe/cmd/internal/input"
	"github.com/migpipe/migpipe/cmd/internal/ui"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/writer"
)

const recvLong = `mig-recv takes the state of devices that mig-send sends from another host, and
starts them here. All of them run here in the end, or none: then those that were
touched are reset. It serves one migration and exits with its outcome; before
that it answers any mig-send --dry-run. It reports a source that it refuses, and waits
for the next one. It does the same if a source goes before it opens a data lane, opens
none for 10 s, or refuses the migration by a limit or by the witness before its first
byte. A source that says that bytes are left, and sends none for --stalled-after, ends the
attempt.

` + input.DeviceHelp + `

` + input.IdentityHelp + `

` + input.CarrierHelp + `

Only peers that --peer or --peer-name lists are heard. With --listen unix:PATH the peer is a
process of the same host; the kernel vouches that it belongs to the same user or
root, and neither side has an identity.

Port 0 means any that is free; the line about listening, or with --json the
event, says which it is. --listen fd:N or fdname:NAME takes a UDP socket that is
bound already, as systemd hands it over.

` + continuing.StateHelp + `

` + continuing.RecvContinueHelp + `

` + continuing.LinkHelp + `

` + doubtHelp + `

` + recvHookHelp + `

` + recvOwnerHelp + `

` + confineHelp + `

` + ui.MetricsHelp + `

` + figuresHelp + `

` + ui.ExitHelp + "\n\n" + ui.HoldHelp + "\n\n" + ui.CopyHelp

const recvExample = `  # on the destination: its name, then wait for the source
  mig-recv id
  mig-recv --listen 192.0.2.7:7000 --device nic0=vfio:0000:3b:00.1 --peer mig1SOURCE...

  # into a file that appears when all is committed
  mig-recv --listen 192.0.2.7:7000 --device nic0=file:/var/tmp/nic0.state --peer mig1SOURCE...

  # into a device that a VMM has opened as descriptor 7
  mig-recv --listen unix:/run/mig --device nic0=fd:7 --json`

// recvFlags are the flags of mig-recv.
type recvFlags struct {
	common
	listen   string
	maxState input.Size
	alarm    time.Duration
	lease    time.Duration
	onAccept hookFlag
	incoming *continuing.Incoming
	leave    chan struct{} // a signal that may leave a copy
	copy     *ui.HeldCopy  // the last that stayed, nil for none
	holds    atomic.Bool   // it still does
}

// Recv is mig-recv: it carries out a command line and returns the exit code.
func Recv(args []string) int { return newRecv().run(args) }

func newRecv() *program {
	r := &recvFlags{common: common{Side: input.Side{Program: "mig-recv", PeerProgram: "mig-send", KeyName: "recv.key", Role: journal.Destination}}, leave: make(chan struct{}, 1)}
	r.impatient = r.signalled
	root := &cobra.Command{
		Use:     "mig-recv --listen ADDR:PORT --device NAME=URL --peer ID [flags]",
		Short:   "Receive the state of devices from another host",
		Long:    recvLong,
		Example: recvExample,
	}
	root.Flags().StringVar(&r.listen, "listen", "", "`ADDR:PORT` to listen on, or tls://ADDR:PORT, or auto:ADDR:PORT, or unix:PATH, or fd:N")
	r.addFlags(root)
	r.maxState = input.Size{Bytes: 1 << 40, Min: 1, Max: wire.MaxStream}
	root.Flags().Var(&r.maxState, "max-state", "largest state of one device, a `SIZE`")
	input.Duration(root.Flags(), &r.alarm, "warn-ready-after", time.Minute, input.Positive, "`TIME` for which a complete copy may wait for COMMIT before a warning")
	input.Duration(root.Flags(), &r.lease, "discard-ready-after", 0, input.NotNegative, "`TIME` after which a complete copy without COMMIT is discarded, even if it is the only copy left (default never)")
	r.onAccept.add(root, "accept", "`PROGRAM` that is run when the devices are this side's, before they are started")
	r.hooks = []*hookFlag{&r.onAccept}
	p := newProgram(root, &r.common)
	root.RunE = func(*cobra.Command, []string) error {
		p.exit = r.run(r.prepare)
		return nil
	}
	return p
}

func (r *recvFlags) prepare() (job, error) {
	if err := cmp.Or(r.doubt.open(), findHooks(r.hooks...)); err != nil {
		return job{}, err
	}
	r.incoming = &continuing.Incoming{Flags: &r.continues, State: &r.state, Specs: r.specs, Reconnect: r.reconnect}
	end, err := r.auth.NewEndpoint("--listen", r.listen, r.descriptors())
	if err == nil {
		err = r.incoming.FindNamed()
	}
	return job{end: end, begin: r.incoming.Begin, engine: func(ctx context.Context, devices []input.Opened, show *ui.Observer) (migration.Report, error) {
		return r.receive(ctx, end, devices, show)
	}}, err
}

func (r *recvFlags) receive(ctx context.Context, end input.Endpoint, devices []input.Opened, show *ui.Observer) (migration.Report, error) {
	if err := r.startBroker(end, devices); err != nil {
		return r.incoming.Unserved(err)
	}
	listener, err := end.Listen(show.Refused)
	if err != nil {
		return r.incoming.Unserved(err)
	}
	defer listener.Close()
	show.Listening(end.HeardAt(listener), end.ID())
	r.state.Sweep(devices, r.incoming.Continued, show.Warn)
	// Before the sandbox: the service manager may listen to an abstract socket.
	if err := input.NotifyReady(); err != nil {
		show.Warn("the service manager was not told that this is ready: " + err.Error())
	}
	if err := r.confine(end, devices, show); err != nil {
		return r.incoming.Unserved(err)
	}
	r.incoming.Announce(show.Warn)
	var left migration.ID
	if r.incoming.Continued != nil {
		left = r.incoming.Continued.Attempt.Mig
	}
	rep, err := writer.Receive(ctx, listener, sinks(devices), &writer.Options{
		Memory: int(r.memory.Bytes), ChunkSize: int(r.chunk.Bytes), MaxState: r.maxState.Bytes,
		Journals: r.state.Journals(journal.Destination), Continue: left, ReconnectFor: r.reconnect,
		StalledAfter: r.stall, WarnReadyAfter: r.alarm, DiscardReadyAfter: r.lease,
		Observe: r.observe(devices, show), HoldCopy: r.leave, Software: r.software(),
		Witness: r.doubt.used, OnAccept: r.onAccept.hook(handoff.DestSide), StartGuest: r.owner.by(os.Stdin, show).starts(),
		StepTimes: r.state.Times(),
	})
	if errors.Is(err, writer.ErrCopyHeld) {
		err = &ui.LeftCopy{Err: err, Copy: r.copy}
	}
	return rep, err
}

// signalled is called at a second signal, and returns what mig-recv still waits for.
func (r *recvFlags) signalled() string {
	select {
	case r.leave <- struct{}{}:
	default:
	}
	if r.holds.Load() {
		return "the copy is left as it is recorded"
	}
	return comingBack
}

// observe adds to the event of a held copy the devices that end with this process.
func (r *recvFlags) observe(devices []input.Opened, show *ui.Observer) migration.Observer {
	return func(ev migration.Event) {
		collect(ev)
		r.holds.Store(ev.Kind == migration.Held || r.holds.Load() && ev.Kind != migration.Restored)
		if ev.Kind != migration.Held {
			show.Observe(ev)
			return
		}
		s := ui.Scene{Copy: &ui.HeldCopy{Attempt: ev.Attempt, Peer: ev.Peer, Journal: r.state.Directory() != ""}}
		for _, d := range devices {
			if d.Ours {
				s.Kept = append(s.Kept, d.Name)
			}
		}
		r.copy = s.Copy
		show.Stay(s.Copy.String(), s)
	}
}

// collect sets the collector for a migration, and back after it.
func collect(ev migration.Event) {
	if ev.Kind == migration.Phase {
		keepCollectorAway(ev.Phase != migration.Rollback)
	}
}

func sinks(devices []input.Opened) []writer.Target {
	list := make([]writer.Target, len(devices))
	for i, d := range devices {
		list[i] = writer.Target{Name: d.Name, Device: d.Device, HeldOpen: d.Lent}
	}
	return list
}
