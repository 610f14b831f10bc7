//go:build !race

package wire

import (
	"bytes"
	"testing"

	"github.com/migpipe/migpipe/transport/migration"
)

// The race detector makes sync.Pool drop some of its elements, so these tests do not run with it.

// ackTransfer returns a function that sends and receives an ACK.
func ackTransfer(t testing.TB) func() {
	var wire bytes.Buffer
	c := NewControl(memoryLane{&wire, &wire})
	m := &Ack{Attempt: migration.Attempt{Mig: goldenMig(), Epoch: 1}, Pad: make(Pad, 32), Echo: 1 << 40, HeldNS: 1 << 20, Devices: make([]DeviceAck, 4), Read: []uint64{1 << 40, 1 << 20}}
	return func() {
		if err := c.Send(m); err != nil {
			t.Fatal(err)
		}
		got, err := c.Receive()
		if err != nil {
			t.Fatal(err)
		}
		got.(*Ack).Release()
	}
}

// TestAckAllocations checks that an ACK needs no allocations.
func TestAckAllocations(t *testing.T) {
	if n := testing.AllocsPerRun(200, ackTransfer(t)); n != 0 {
		t.Errorf("an ACK needs %v allocations", n)
	}
}

// BenchmarkAck sends and receives an ACK of four devices.
func BenchmarkAck(b *testing.B) {
	say := ackTransfer(b)
	b.ReportAllocs()
	for b.Loop() {
		say()
	}
}
