package cli

import (
	"context"
	"errors"

	"github.com/migpipe/migpipe/cmd/internal/continuing"
	"github.com/migpipe/migpipe/cmd/internal/input"
	"github.com/migpipe/migpipe/cmd/internal/ui"
	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
)

// dryRunHelp is the part of mig-send's help about --dry-run.
const dryRunHelp = `With --dry-run it only asks. The waiting mig-recv checks identity, versions, names
and devices as it would for a migration, and goes on waiting; the round trip is
measured and, for a second at most, the rate of the path; and what a migration
would take at least is predicted. Both sides ask their witness. The prediction leaves
out the journals' records, for a dry run writes none. No device is touched on either
side. Exit status 0 then says that a migration would be accepted, any other why not:
also that the steps of a stop that no pre-copy shortens are over --downtime-target.

A migration itself measures a path that it has not filled before it stops a guest:
for a second at most the lanes carry padding (the phase "warm-up").`

// dryRun is the job of --dry-run. Its outcome is that nothing was migrated.
func (s *sendFlags) dryRun(end input.Endpoint) job {
	found := &migration.Preflight{}
	return job{end: end, preflight: found, engine: func(ctx context.Context, devices []input.Opened, show *ui.Observer) (migration.Report, error) {
		err := s.startBroker(end, devices)
		if err == nil {
			err = s.confine(end, devices, show)
		}
		if err != nil {
			return migration.Report{Outcome: migration.Aborted}, err
		}
		*found, err = s.preflight(ctx, end, devices, show)
		return migration.Report{Outcome: migration.Aborted, Peer: found.Peer, Warnings: ui.Optional(found.Warning)}, err
	}}
}

// measure looks at both carriers of a dialler, which then prefers the better one.
func (s *sendFlags) measure(ctx context.Context, d *transport.EitherDialer, devices []input.Opened, observe migration.Observer, show *ui.Observer) ([]reader.Candidate, error) {
	o := s.options(devices, migration.Attempt{}, show)
	o.Observe = observe
	all, err := reader.Choose(ctx, d, s.sources(devices), o)
	if err == nil && ctx.Err() == nil {
		show.Carrying(all)
	}
	return all, err
}

// dialer is the dialer of the migration. It fails if no carrier reaches the peer and the
// migration has not begun. Dial reports every other fault.
func (s *sendFlags) dialer(ctx context.Context, end input.Endpoint, o *continuing.Outgoing, devices []input.Opened, show *ui.Observer) (transport.Dialer, error) {
	d := end.Dialer(s.lookup())
	if either, ok := d.(*transport.EitherDialer); ok && o.Journal.Last().Record == handoff.None {
		connects := func(ev migration.Event) { // the migration emits the other events
			if ev.Phase == migration.Connect {
				show.Observe(ev)
			}
		}
		if _, err := s.measure(ctx, either, devices, connects, show); errors.Is(err, transport.ErrUnreachable) {
			return nil, err
		}
	}
	return d, nil
}

// preflight asks over the only carrier, or over both.
func (s *sendFlags) preflight(ctx context.Context, end input.Endpoint, devices []input.Opened, show *ui.Observer) (migration.Preflight, error) {
	d := end.Dialer(s.lookup())
	either, ok := d.(*transport.EitherDialer)
	if !ok {
		return reader.Preflight(ctx, d, s.sources(devices), s.options(devices, migration.Attempt{}, show))
	}
	all, err := s.measure(ctx, either, devices, show.Observe, show)
	if err != nil {
		return migration.Preflight{}, err
	}
	return all[0].Found, all[0].Err
}
