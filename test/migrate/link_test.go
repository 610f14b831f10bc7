package migrate

import (
	"context"
	"errors"
	"math"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/migpipe/migpipe/transport"
)

// way is one direction of a path, with a rate and a delay that all lanes share.
type way struct {
	path
	since time.Time // when the first byte was sent

	mu   sync.Mutex
	free time.Time // when the last byte so far will have left
}

// send returns when n bytes will have left, and when they arrive.
func (w *way) send(n int) (left, there time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if now := time.Now(); w.free.Before(now) {
		w.free = now
	}
	rate := w.rate
	if w.since.IsZero() {
		w.since = w.free
	}
	if w.grows > 0 {
		rate *= math.Pow(w.grows, w.free.Sub(w.since).Seconds())
	}
	w.free = w.free.Add(time.Duration(float64(n) / rate * float64(time.Second)))
	return w.free, w.free.Add(w.delay)
}

// path has the properties of one direction over a network.
type path struct {
	rate  float64 // bytes a second, at first
	grows float64 // by this factor each second; 0 is not at all
	delay time.Duration
}

// paced is a carrier over memory with a path's rate and round trip. It uses virtual time,
// so that the duration of a migration depends on nothing else.
func paced(rate float64, rtt time.Duration) carrier {
	return over(path{rate: rate, delay: rtt / 2}, path{rate: rate, delay: rtt / 2})
}

// growing is a path whose rate to the destination grows by a factor each second. The
// destination's messages arrive at once.
func growing(rate, factor float64, rtt time.Duration) carrier {
	return over(path{rate: rate, grows: factor, delay: rtt / 2}, path{rate: 1 << 30, delay: rtt / 2})
}

// over is a carrier over memory with a path in each direction.
func over(there, back path) carrier {
	return func(t testing.TB) (transport.Dialer, transport.Listener) {
		d, l := pipe(t)
		return &pacedDialer{d, &way{path: there}}, &pacedListener{l, &way{path: back}}
	}
}

type pacedDialer struct {
	transport.Dialer
	way *way
}

func (d *pacedDialer) Dial(ctx context.Context) (transport.Lane, error) {
	lane, err := d.Dialer.Dial(ctx)
	return newPacedLane(lane, d.way), err
}

type pacedListener struct {
	transport.Listener
	way *way
}

func (l *pacedListener) Accept(ctx context.Context) (transport.Lane, error) {
	lane, err := l.Listener.Accept(ctx)
	return newPacedLane(lane, l.way), err
}

// pacedLane delivers written bytes when the path has carried them.
type pacedLane struct {
	transport.Lane
	way  *way
	sent chan parcel
	stop chan struct{}
	once sync.Once
}

type parcel struct {
	at    time.Time
	bytes []byte // nil is the end
}

func newPacedLane(lane transport.Lane, w *way) transport.Lane {
	if lane == nil {
		return nil
	}
	l := &pacedLane{Lane: lane, way: w, sent: make(chan parcel, 1<<12), stop: make(chan struct{})}
	go l.deliver() // ends with the lane, or with a deadline that has passed
	return l
}

func (l *pacedLane) deliver() {
	for {
		select {
		case p := <-l.sent:
			if !l.wait(p.at) {
				return
			}
			if p.bytes == nil {
				l.Lane.CloseWrite()
			} else if _, err := l.Lane.Write(p.bytes); err != nil {
				return
			}
		case <-l.stop:
			return
		}
	}
}

// wait reports whether the lane still exists at that time.
func (l *pacedLane) wait(at time.Time) bool {
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-l.stop:
		return false
	}
}

// Write waits until the data has left, like a socket with no buffer. A control message
// never waits: its writer holds a mutex, which would stop the virtual time.
func (l *pacedLane) Write(p []byte) (int, error) {
	left, there := l.way.send(len(p))
	if len(p) >= 1<<10 && !l.wait(left) {
		return 0, errors.Join(transport.ErrPeerGone, net.ErrClosed)
	}
	l.sent <- parcel{there, append([]byte(nil), p...)}
	return len(p), nil
}

func (l *pacedLane) CloseWrite() error {
	_, there := l.way.send(0)
	l.sent <- parcel{at: there}
	return nil
}

func (l *pacedLane) SetDeadline(t time.Time) error {
	if !t.IsZero() && !t.After(time.Now()) {
		l.once.Do(func() { close(l.stop) })
	}
	return l.Lane.SetDeadline(t)
}

func (l *pacedLane) Close() error {
	l.once.Do(func() { close(l.stop) })
	return l.Lane.Close()
}
