package wire

import (
	"time"

	"github.com/migpipe/migpipe/codec"
)

// Limits of the protocol. They are constants, so that no option weakens them by mistake.
const (
	// LanesTimeout bounds the wait for the first data lane of a source that was sent WELCOME.
	LanesTimeout = 10 * time.Second

	// MaxChunk is the largest chunk, in bytes of the stream.
	MaxChunk = codec.MaxBlock

	// MinChunk is the smallest negotiable chunk size: a page. Some drivers return
	// their state only to a read of that size (hisi_acc before Linux 6.2).
	MinChunk = 4096

	// MaxControl is the largest body of a control message, in bytes.
	MaxControl = 16 << 10

	// MaxDevices is the number of devices of one migration.
	MaxDevices = 64

	// MaxName is the longest name of a device, in bytes.
	MaxName = 64

	// MaxPriority is the largest factor of a device's share.
	MaxPriority = 16

	// MaxStream is the longest stream of one device, in bytes: far above any
	// device, and low enough that no sum of offsets overflows.
	MaxStream = 1 << 60

	// PreflightTimeout bounds a preflight, from its first lane to its last message.
	PreflightTimeout = 5 * time.Second

	// ProbeTime is how long a preflight or padding may load the path.
	ProbeTime = time.Second

	// MaxProbe bounds the bytes on the probe lanes of one preflight, and the padding of
	// one attempt: a quarter of a second at 10 Gbit/s.
	MaxProbe = 256 << 20

	// Heartbeat is the longest silence on the control lane. The destination sends an
	// ACK at least this often, and the source an ESTIMATE while streams move.
	Heartbeat = 500 * time.Millisecond

	// SilenceLimit is the longest silence of the source on the control lane while streams
	// move, when it must send ESTIMATE at least every Heartbeat. After that the destination
	// treats the lane as lost.
	SilenceLimit = 10 * time.Second

	// UnreadTimeout is how long a lane may have unread bytes without progress, or four round
	// trips if that is longer. After that the lane is closed, even if other lanes of its
	// connection make progress.
	UnreadTimeout = 2 * time.Second
)
