//go:build !race

package wire

import (
	"bytes"
	"testing"

	"github.com/migpipe/migpipe/transport/migration"
)

// The race detector has sync.Pool lose some of what it is given: it is left out here.

// said is an ACK's way from the one side to the other.
func said(t testing.TB) func() {
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

// TestAckAllocations: an ACK is encoded into, and decoded from, memory that is there.
func TestAckAllocations(t *testing.T) {
	if n := testing.AllocsPerRun(200, said(t)); n != 0 {
		t.Errorf("an ACK costs %v allocations", n)
	}
}

// BenchmarkAck is that of four devices, sent and received.
func BenchmarkAck(b *testing.B) {
	say := said(b)
	b.ReportAllocs()
	for b.Loop() {
		say()
	}
}
