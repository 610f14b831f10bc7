package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/writer"
)

// pipeline is a whole migration of one device: read, encode, digest, lanes, checks,
// decode, write, hand-off.
type pipeline struct {
	over    string // quic or tls
	lanes   int    // 0 is the default of a migration
	content string // of the device, one of contents
	codec   string // auto or one of package codec's
	procs   int    // GOMAXPROCS, 0 = one for each core
	far     *path  // nil is this host's loopback
	link    *link  // nil is no limit
}

func (p pipeline) way() way {
	w := way{Name: p.name(), Group: groupPipeline, Procs: p.procs, move: p.move, missing: p.missing,
		Bench: fmt.Sprintf("Pipeline/over=%s/lanes=%d/content=%s/codec=%s", p.over, p.lanes, p.content, p.codec)}
	if p.procs > 0 {
		w.Bench += fmt.Sprintf("/procs=%d", p.procs)
	}
	if p.far != nil {
		w.Bench += fmt.Sprintf("/rtt=%v/loss=%g", p.far.rtt, p.far.loss)
	}
	if p.link != nil {
		w.Bench += "/link=" + p.link.word
		w.Group, w.part = groupLink, p.link.part
	}
	if p.content == "zero" { // which no link holds up
		w.part, w.times = 1, 4
	}
	return w
}

func (p pipeline) missing() string {
	switch {
	case p.procs > runtime.NumCPU():
		return fmt.Sprintf("this host has only %d core", runtime.NumCPU())
	case p.content == "memory":
		return lacksMemory()
	}
	return ""
}

func (p pipeline) name() string {
	lanes := "1 lane"
	switch {
	case p.lanes == 0:
		lanes = "lanes by path"
	case p.lanes > 1:
		lanes = fmt.Sprintf("%d lanes", p.lanes)
	}
	name := fmt.Sprintf("migpipe %s, %s, %s, %s", p.over, lanes, p.content, p.codec)
	if p.procs > 0 {
		name += fmt.Sprintf(", %d proc", p.procs) // GOMAXPROCS
	}
	if p.link != nil {
		name += ", " + p.link.name
	}
	if p.far != nil {
		name = fmt.Sprintf("migpipe %s, %v", p.over, p.far)
	}
	return name
}

// patience is far above the duration of any migration here.
const patience = time.Minute

// move migrates. The time is the downtime: the source reads all of the state while the
// guest is paused, and the connections exist before.
func (p pipeline) move(ctx context.Context, size int64, m *meter) error {
	policy, err := p.policy()
	if err != nil {
		return err
	}
	content, err := contents[p.content]()
	if err != nil {
		return err
	}
	source, sink := &replay{size: size, content: content}, &replay{size: size, content: content}
	dialer, listener, err := p.carrier()
	if err != nil {
		return err
	}
	defer listener.Close()
	if d, ok := dialer.(*transport.QUICDialer); ok && p.far != nil {
		r, err := p.far.lay(d)
		if err != nil {
			return err
		}
		defer r.Close()
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	received := make(chan error, 1)
	go func() { // ends with the migration, or with ctx
		_, err := writer.Receive(ctx, listener, []writer.Target{{Name: "d0", Device: sink}}, nil)
		received <- err
	}()
	var most uint64
	if p.link != nil {
		most = p.link.rate
	}
	report, err := reader.Send(ctx, dialer, []reader.Source{{Name: "d0", Device: source}}, &reader.Options{
		Lanes: p.lanes, Codec: policy, MaxBandwidth: most, OnLimit: reader.Force, DowntimeTarget: patience, ResumeAfter: patience,
		PauseGuest: func(context.Context) error { m.start(); return nil },
	})
	if err != nil {
		cancel()
	}
	if err := errors.Join(err, <-received); err != nil {
		return err
	}
	m.finish(report.Downtime)
	m.stop()
	if moved := report.Devices[0].Bytes; int64(moved) < size {
		return fmt.Errorf("%d bytes were moved, not %d", moved, size)
	}
	return sink.Verify()
}

// policy returns the policy of the codec.
func (p pipeline) policy() (codec.Policy, error) {
	if p.codec == "auto" {
		return codec.Auto(), nil
	}
	c, err := codec.ByName(p.codec)
	return codec.Fixed(c), err
}

// carrier connects the two sides, which trust each other.
func (p pipeline) carrier() (transport.Dialer, transport.Listener, error) {
	source, err1 := transport.NewIdentity()
	destination, err2 := transport.NewIdentity()
	if err := cmp.Or(err1, err2); err != nil {
		return nil, nil, err
	}
	sends := transport.Pinned{Identity: source, Peers: []transport.PeerID{destination.ID()}}
	receives := transport.Pinned{Identity: destination, Peers: []transport.PeerID{source.ID()}}
	const anyPort = "127.0.0.1:0"
	if p.over == "tls" {
		l, err := transport.ListenTLS(anyPort, receives, nil)
		if err != nil {
			return nil, nil, err
		}
		return &transport.TLSDialer{Addr: l.Addr().String(), Credentials: sends}, l, nil
	}
	l, err := transport.ListenQUIC(anyPort, receives, nil)
	if err != nil {
		return nil, nil, err
	}
	return &transport.QUICDialer{Addr: l.Addr().String(), Credentials: sends}, l, nil
}
