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

	// MinChunk is the least that may be negotiated as the largest chunk: a page,
	// which is also the least that some drivers give (hisi_acc before Linux 6.2).
	MinChunk = 4096

	// MaxControl is the largest body of a control message, in bytes.
	MaxControl = 16 << 10

	// MaxDevices is the number of devices of one migration.
	MaxDevices = 64

	// MaxName is the longest name of a device, in bytes.
	MaxName = 64

	// MaxPriority is how many times its share a device may be given.
	MaxPriority = 16

	// MaxStream is the longest stream of one device, in bytes: far above any
	// device, and low enough that no sum of offsets overflows.
	MaxStream = 1 << 60

	// PreflightTimeout bounds a preflight, from its first lane to its last answer.
	PreflightTimeout = 5 * time.Second

	// ProbeTime is how long a preflight may load the path, or padding.
	ProbeTime = time.Second

	// MaxProbe is the most that the probe lanes of one preflight may carry, and the
	// padding of one attempt, in bytes: a quarter of a second at 10 Gbit/s.
	MaxProbe = 256 << 20

	// Heartbeat is the longest silence on the control lane: an ACK goes out at
	// least this often, and while streams move an ESTIMATE.
	Heartbeat = 500 * time.Millisecond

	// SilenceLimit is how long a control lane may stand on which the source's program
	// says nothing, although it has to: while streams move, ESTIMATE at least every
	// Heartbeat. After that it is taken for lost.
	SilenceLimit = 10 * time.Second

	// UnreadTimeout is how long a lane may stand still that has unread bytes, or four round
	// trips if that is longer: after that it is given up, whatever else its connection
	// carries.
	UnreadTimeout = 2 * time.Second
)
