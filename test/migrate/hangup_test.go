package migrate

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// firstLanes keeps the first lane of each side of a carrier, which is the control lane.
type firstLanes struct {
	transport.Dialer
	transport.Listener

	mu                  sync.Mutex
	source, destination transport.Lane
}

func (f *firstLanes) Dial(ctx context.Context) (transport.Lane, error) {
	lane, err := f.Dialer.Dial(ctx)
	return f.note(&f.source, lane), err
}

func (f *firstLanes) Accept(ctx context.Context) (transport.Lane, error) {
	lane, err := f.Listener.Accept(ctx)
	return f.note(&f.destination, lane), err
}

func (f *firstLanes) note(first *transport.Lane, lane transport.Lane) transport.Lane {
	f.mu.Lock()
	defer f.mu.Unlock()
	if *first == nil {
		*first = lane
	}
	return lane
}

// TestControlLaneEnds: the end of a control lane, by a deadline (as after silence) or by
// CloseWrite, ends no attempt. Only DECLINED, ABORT and FIN do.
func TestControlLaneEnds(t *testing.T) {
	for _, side := range []string{"source", "destination"} {
		for _, way := range []string{"is abandoned", "is finished"} {
			t.Run(way+" at the "+side, func(t *testing.T) {
				eachCarrier(t, func(t *testing.T, c carrier) {
					lanes := &firstLanes{}
					p := newPair(t, func(t testing.TB) (transport.Dialer, transport.Listener) {
						lanes.Dialer, lanes.Listener = c(t)
						return lanes, lanes
					})
					p.resends = true
					p.add(t, "d0", "mlx5?size=4MiB&dirty=1MiB/s", "mlx5?size=4MiB")
					p.send.Lanes, p.send.OnLimit, p.receive.ReconnectFor = 2, reader.Force, patience
					var told []string
					p.send.Observe = func(ev migration.Event) {
						if ev.Kind == migration.Lost || ev.Kind == migration.Restored {
							told = append(told, string(ev.Kind))
						}
						if ev.Kind != migration.Phase || ev.Phase != migration.PreCopy {
							return
						}
						lane := lanes.source
						if side == "destination" {
							lane = lanes.destination
						}
						if way == "is finished" {
							lane.CloseWrite()
						}
						lane.SetDeadline(time.Unix(1, 0))
					}
					p.succeed(t)
					if len(told) < 2 {
						t.Errorf("the source reported %v", told)
					}
				})
			})
		}
	}
}

// hangingUp is a listener that closes its first lanes at their first bytes.
type hangingUp struct {
	transport.Listener
	mu   sync.Mutex
	left int
}

func (l *hangingUp) Accept(ctx context.Context) (transport.Lane, error) {
	for {
		lane, err := l.Listener.Accept(ctx)
		l.mu.Lock()
		l.left--
		hangUp := err == nil && l.left >= 0
		l.mu.Unlock()
		if !hangUp {
			return lane, err
		}
		lane.Read(make([]byte, 1))
		lane.Close()
	}
}

// TestHelloHungUpOn: a destination closes the lane instead of an answer to HELLO, for example
// because it is between two migrations. The source sends HELLO again.
func TestHelloHungUpOn(t *testing.T) {
	eachCarrier(t, func(t *testing.T, c carrier) {
		p := newPair(t, func(t testing.TB) (transport.Dialer, transport.Listener) {
			d, l := c(t)
			return d, &hangingUp{Listener: l, left: 2}
		})
		p.add(t, "d0", "mtty", "mtty")
		p.succeed(t)
	})
}

// deafOnce is a dialler whose first lane is lost at its first received bytes.
type deafOnce struct {
	transport.Dialer
	once sync.Once
}

func (d *deafOnce) Dial(ctx context.Context) (lane transport.Lane, err error) {
	lane, err = d.Dialer.Dial(ctx)
	d.once.Do(func() { lane = lostLane{lane} })
	return lane, err
}

type lostLane struct{ transport.Lane }

func (l lostLane) Read(p []byte) (int, error) {
	l.Lane.Read(p)
	return 0, transport.ErrLost
}

// TestWelcomeLost: a source that has not received WELCOME sends HELLO again, and counts as the same source.
func TestWelcomeLost(t *testing.T) {
	p := newPair(t, func(t testing.TB) (transport.Dialer, transport.Listener) {
		d, l := pipe(t)
		return &deafOnce{Dialer: d}, l
	})
	p.add(t, "d0", "mtty", "mtty")
	p.succeed(t)
}
