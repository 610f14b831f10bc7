package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"time"

	"github.com/migpipe/migpipe/bench/downtime/model"
	"github.com/migpipe/migpipe/bench/downtime/replica"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio/sim"
	"github.com/migpipe/migpipe/writer"
)

// scenario is the setting of a comparison.
type scenario struct {
	Devices int     `json:"devices"`
	Rounds  int     `json:"rounds"`
	Stops   int     `json:"stops"` // without and with durable journals
	Share   int     `json:"share"`
	Scale   float64 `json:"scale"`
	Carrier string  `json:"carrier"`
}

func (s *scenario) check() error {
	switch {
	case s.Devices < 1 || s.Devices > wire.MaxDevices:
		return fmt.Errorf("--devices is %d, must be 1 to %d", s.Devices, wire.MaxDevices)
	case s.Rounds < 1:
		return fmt.Errorf("--rounds is %d, must be 1 or more", s.Rounds)
	case s.Stops < 1:
		return fmt.Errorf("--stops is %d, must be 1 or more", s.Stops)
	case !(s.Scale >= 0.001 && s.Scale <= 100):
		return fmt.Errorf("--scale is %v, must be 0.001 to 100", s.Scale)
	case carriers[s.Carrier] == nil:
		return fmt.Errorf("--carrier is %q, must be quic or pipe", s.Carrier)
	}
	return nil
}

// moved names the share of the bytes that a migration moves.
func (s *scenario) moved() string {
	if s.Share == 1 {
		return "every byte"
	}
	return fmt.Sprintf("1 byte of %d", s.Share)
}

// field is one of the devices, and the link between the hosts. A device that moves 1/Share
// of the bytes, into buffers and at rates to match, has the same durations.
func (s *scenario) field() (model.Device, model.Link) {
	d, link := model.Field()
	for _, n := range []*int64{&d.Initial, &d.Dirty, &d.Save, &d.Buffer, &d.Load, &d.Record, &link.Rate} {
		*n /= int64(s.Share)
	}
	for _, size := range []*int64{&d.Initial, &d.Dirty} {
		*size = int64(float64(*size) * s.Scale)
	}
	for _, took := range []*time.Duration{&d.Alloc, &d.Stop, &d.Start} {
		*took = time.Duration(float64(*took) * s.Scale)
	}
	return d, link
}

// options are the options of simulated devices with these figures. The guest writes fast
// enough to have dirtied the whole state whenever it is stopped: it writes all of it twenty
// times a second, at random.
func options(d model.Device, seed int) (source, sink *sim.Options) {
	const eachSecond = 20
	return &sim.Options{Size: d.Dirty, DirtyRate: eachSecond * d.Dirty, SaveRate: d.Save, Buffer: d.Buffer, Stop: d.Stop, Seed: uint64(seed)},
		&sim.Options{LoadRate: d.Load, Record: d.Record, Alloc: d.Alloc, Start: d.Start}
}

// downtimeLimit is far above the downtime of any strategy. As in the published figures, the
// guest is stopped once the initial bytes are there.
const downtimeLimit = 10 * time.Second

// ways are the real migrations, by strategy.
var ways = []func(context.Context, *replica.Job) error{
	func(ctx context.Context, j *replica.Job) error { return j.Serial(ctx, false) },
	func(ctx context.Context, j *replica.Job) error { return j.Serial(ctx, true) },
	func(ctx context.Context, j *replica.Job) error { return j.Multifd(ctx, 4) },
	migpipe,
}

// migpipe migrates with the programs' default options.
func migpipe(ctx context.Context, j *replica.Job) error {
	var sources []reader.Source
	var sinks []writer.Target
	for i := range j.Sources {
		name := fmt.Sprintf("vf%d", i)
		sources = append(sources, reader.Source{Name: name, Device: j.Sources[i]})
		sinks = append(sinks, writer.Target{Name: name, Device: j.Sinks[i]})
	}
	_, err := migrate(ctx, j.Dialer, j.Listener, sources, sinks, &reader.Options{
		DowntimeTarget: downtimeLimit,
		PauseGuest:     func(context.Context) error { j.Paused(); return nil },
	}, nil)
	return err
}

// migrate runs both sides, and returns the source's report.
func migrate(ctx context.Context, dialer transport.Dialer, listener transport.Listener, sources []reader.Source, sinks []writer.Target,
	send *reader.Options, receive *writer.Options) (migration.Report, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	received := make(chan error, 1)
	go func() { // ends with the migration, or with ctx
		_, err := writer.Receive(ctx, listener, sinks, receive)
		received <- err
	}()
	r, err := reader.Send(ctx, dialer, sources, send)
	if err != nil {
		cancel()
	}
	return r, errors.Join(err, <-received)
}

// compare computes and measures every strategy. The measurements alternate, and every
// second round runs backwards, so that other load on the machine affects all of them.
func (s *scenario) compare(ctx context.Context, progress io.Writer) (*comparison, error) {
	device, link := s.field()
	c := &comparison{Scenario: *s}
	devices := make([]model.Device, s.Devices)
	for i := range devices {
		devices[i] = device
	}
	for _, strategy := range model.Strategies(s.Devices) {
		m, err := model.Run(strategy, link, devices)
		if err != nil {
			return nil, err
		}
		c.Strategies = append(c.Strategies, outcome{Name: strategy.Name, Model: m})
	}
	for round := range s.Rounds {
		fmt.Fprintf(progress, "bench: %s, round %d of %d\n", s.moved(), round+1, s.Rounds)
		for i := range ways {
			if round%2 == 1 {
				i = len(ways) - 1 - i
			}
			m, err := s.measure(ctx, ways[i])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.Strategies[i].Name, err)
			}
			c.Strategies[i].Measured = append(c.Strategies[i].Measured, m)
		}
	}
	return c, nil
}

// measure migrates once, and verifies the copies.
func (s *scenario) measure(ctx context.Context, way func(context.Context, *replica.Job) error) (model.Result, error) {
	debug.FreeOSMemory() // no run pays for the garbage of another
	job := &replica.Job{}
	dialer, listener, err := carriers[s.Carrier]()
	if err != nil {
		return model.Result{}, err
	}
	defer listener.Close()
	job.Dialer, job.Listener = dialer, listener
	device, _ := s.field()
	watch := newWatch(s.Devices)
	job.Paused = watch.pause
	var sinks []*sim.Device
	for i := range s.Devices {
		forSource, forSink := options(device, i)
		source, err := sim.Open("mlx5", forSource)
		if err != nil {
			return model.Result{}, err
		}
		defer source.Close()
		sink, err := sim.Open("mlx5", forSink)
		if err != nil {
			return model.Result{}, err
		}
		defer sink.Close()
		sinks = append(sinks, sink)
		job.Sources = append(job.Sources, &sourceProbe{source, watch, i})
		job.Sinks = append(job.Sinks, &sinkProbe{sink, watch, i})
	}
	if err := way(ctx, job); err != nil {
		return model.Result{}, err
	}
	for _, d := range sinks {
		if err := d.Verify(); err != nil {
			return model.Result{}, err
		}
	}
	return watch.result(), nil
}

// carriers connect the two sides.
var carriers = map[string]func() (transport.Dialer, transport.Listener, error){
	"quic": overQUIC,
	"pipe": func() (transport.Dialer, transport.Listener, error) {
		d, l := transport.Pipe()
		return d, l, nil
	},
}

func overQUIC() (transport.Dialer, transport.Listener, error) {
	source, err := transport.NewIdentity()
	if err != nil {
		return nil, nil, err
	}
	destination, err := transport.NewIdentity()
	if err != nil {
		return nil, nil, err
	}
	l, err := transport.ListenQUIC("127.0.0.1:0", transport.Pinned{Identity: destination, Peers: []transport.PeerID{source.ID()}}, nil)
	if err != nil {
		return nil, nil, err
	}
	return &transport.QUICDialer{Addr: l.Addr().String(), Credentials: transport.Pinned{Identity: source, Peers: []transport.PeerID{destination.ID()}}}, l, nil
}
