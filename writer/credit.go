package writer

import "github.com/migpipe/migpipe/transport"

// promise is the memory set aside for one device: so many chunks of so many
// bytes. A window is a promise of memory, so a lane never waits for any, and
// lanes that all devices share cannot block each other.
type promise struct {
	chunks    uint64
	chunkSize uint64
}

// divide sets aside equal shares of the arena's chunks for the devices, after
// one for each lane to read encoded payloads into.
func divide(chunks, lanes, devices, chunkSize int) promise {
	return promise{chunks: uint64((chunks - lanes) / devices), chunkSize: uint64(chunkSize)}
}

// least is how many chunks divide needs: two for each device, so that one can
// arrive while the other is written.
func least(lanes, devices int) int { return lanes + 2*devices }

// window is what may be sent when so much was applied.
func (p promise) window(next, applied uint64) transport.Window {
	return transport.Window{Seq: next + p.chunks, Offset: applied + p.chunks*p.chunkSize}
}
