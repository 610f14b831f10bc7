package main

import (
	"fmt"
	"time"

	"github.com/migpipe/migpipe/test/chaos/relay"
	"github.com/migpipe/migpipe/transport"
)

// path is a long way, which a relay in this process makes: every packet passes user space
// once more, by the cores that both ends have too.
type path struct {
	rtt  time.Duration
	loss float64 // share of the packets, in either direction
}

func (p path) String() string {
	if p.loss > 0 {
		return fmt.Sprintf("relay, %v, %g %% lost", p.rtt, 100*p.loss)
	}
	return fmt.Sprintf("relay, %v", p.rtt)
}

// lay puts the path between the dialler and its server.
func (p path) lay(d *transport.QUICDialer) (*relay.Relay, error) {
	r, err := relay.Listen(d.Addr, 1)
	if err != nil {
		return nil, err
	}
	r.Set(func(l *relay.Link) { l.Delay, l.Loss = p.rtt/2, p.loss })
	d.Addr = r.Addr()
	return r, nil
}

// lossy is the share of the bytes that go over a path with loss, which is slow.
const lossy = 16

// far are the ways over paths, with the lanes that a migration takes by itself.
func far() (list []way) {
	for _, p := range []path{
		{}, {rtt: time.Millisecond}, {rtt: 10 * time.Millisecond}, {rtt: 50 * time.Millisecond}, {rtt: 100 * time.Millisecond},
		{10 * time.Millisecond, 0.001}, {10 * time.Millisecond, 0.01},
	} {
		w := pipeline{over: "quic", content: "random", codec: "raw", far: &p}.way()
		if p.loss > 0 {
			w.part = lossy
		}
		list = append(list, w)
	}
	return list
}
