package vm

import (
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// cable is the Ethernet between the two guests. QEMU sends each frame to the cable as one
// datagram, and the cable forwards it after a delay. A scenario that must catch a migration
// half-way makes the cable long.
type cable struct {
	delay atomic.Int64 // one way, nanoseconds
	cut   atomic.Bool
}

// slow makes the cable long for the rest of the scenario.
func (c *cable) slow(t *testing.T, oneWay time.Duration) {
	c.delay.Store(int64(oneWay))
	t.Cleanup(func() { c.delay.Store(0) })
}

// sever cuts the cable for the rest of the scenario: the frames in it are lost too.
func (c *cable) sever(t *testing.T) {
	c.cut.Store(true)
	t.Cleanup(func() { c.cut.Store(false) })
}

// cableEnds names the sockets of a guest: QEMU receives on local and sends to remote.
func cableEnds(dir, guest string) (local, remote string) {
	return filepath.Join(dir, guest+".net"), filepath.Join(dir, guest+".cable")
}

// layCable joins two guests.
func layCable(t *testing.T, dir, a, b string) *cable {
	c := new(cable)
	c.join(t, dir, a, b)
	c.join(t, dir, b, a)
	return c
}

// frame is a frame in the cable.
type frame struct {
	data []byte
	due  time.Time
}

func (c *cable) join(t *testing.T, dir, from, to string) {
	_, in := cableEnds(dir, from)
	out, _ := cableEnds(dir, to)
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: in, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	var ends sync.WaitGroup
	t.Cleanup(func() { socket.Close(); ends.Wait() })
	frames := make(chan frame, 4096)
	ends.Go(func() { // ends when the socket is closed
		defer close(frames)
		c.receive(socket, frames)
	})
	ends.Go(func() { // ends when frames is closed
		c.deliver(socket, &net.UnixAddr{Name: out, Net: "unixgram"}, frames)
	})
}

func (c *cable) receive(socket *net.UnixConn, frames chan<- frame) {
	buf := make([]byte, 1<<16)
	for {
		n, err := socket.Read(buf)
		if err != nil {
			return
		}
		due := time.Now().Add(time.Duration(c.delay.Load()))
		frames <- frame{append([]byte(nil), buf[:n]...), due}
	}
}

func (c *cable) deliver(socket *net.UnixConn, to *net.UnixAddr, frames <-chan frame) {
	for f := range frames {
		time.Sleep(time.Until(f.due))
		if c.cut.Load() {
			continue
		}
		socket.WriteToUnix(f.data, to) // an absent guest loses the frame, as on a wire
	}
}

// testCable checks that the guests reach each other, and that a slow cable is slow.
func testCable(t *testing.T, p pair) {
	ping := []string{"/bin/busybox", "ping", "-c", "1", "-W", "10", p.destination.address}
	p.source.run(t, ping...)
	const oneWay = 200 * time.Millisecond
	p.cable.slow(t, oneWay)
	begin := time.Now()
	p.source.run(t, ping...)
	if took := time.Since(begin); took < 2*oneWay {
		t.Errorf("a round trip of %v took %v", 2*oneWay, took)
	}
}
