package transport

import (
	"time"

	"github.com/migpipe/migpipe/codec"
)

// Limits of what an unauthenticated or hostile peer may cost. They are
// constants, so that no option weakens them by mistake; of IdleTimeout alone the
// owner of a carrier may want more or less.
const (
	// MaxLanes is the number of data lanes of one migration; the control lane
	// comes on top.
	MaxLanes = 16

	// RetryHalfOpen is the number of half-open connections from which a new one
	// must prove its address first (a QUIC Retry, RFC 9000, section 8.1.2): a
	// flood from forged addresses holds no more than these.
	RetryHalfOpen = 16

	// MaxHalfOpen is the number of connections that may be in their handshake, or
	// before their first byte, at once. It leaves room above RetryHalfOpen for
	// peers that have proved their address, and for a migration that dials its
	// 1+MaxLanes lanes together.
	MaxHalfOpen = 4 * RetryHalfOpen

	// SilentTime is the silence after which a half-open connection gives its place to the
	// next one, where all places are taken.
	SilentTime = time.Second

	// KnownTime is how long an address that has authenticated gets a place although all are
	// taken.
	KnownTime = 10 * time.Minute

	// KnownAddresses is the number of addresses that are remembered for that.
	KnownAddresses = 256

	// ConnBurst is the number of connections that one address, or one /64 of
	// IPv6, may open at once: those of several migrations. From half of them on it
	// must prove first that it is its own.
	ConnBurst = 4 * (1 + MaxLanes)

	// ConnRate is the number of connections a second that it may open after that.
	ConnRate = 1 + MaxLanes

	// HandshakeTimeout bounds the wait for a peer that is silent before its lane
	// is open.
	HandshakeTimeout = 3 * time.Second

	// LanesTimeout bounds the wait for the first data lane of a source that was sent WELCOME.
	LanesTimeout = 10 * time.Second

	// IdleTimeout is the silence after which an open lane is lost, unless its carrier
	// is told otherwise.
	IdleTimeout = 2 * time.Second

	// MinIdleTimeout is the shortest that a carrier may be told: less is spent by the
	// loss of one heartbeat.
	MinIdleTimeout = 2 * KeepAlive

	// KeepAlive is the interval at which an idle lane proves that it lives.
	KeepAlive = 500 * time.Millisecond

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

	// InitialWindow is what a lane's peer may send before anything is read. It
	// doubles every round trip that consumes it, as fast as QUIC's slow start
	// opens the sender's side, so a larger one would only cost memory.
	InitialWindow = 2 << 20

	// MaxWindow is where a lane's receive window ends: above 14.5 MB, quic-go's
	// largest congestion window (10,000 packets of 1,452 bytes), it has no effect.
	MaxWindow = 16 << 20

	// MaxWindowGrowth is what the windows of all lanes together may have above
	// InitialWindow each.
	MaxWindowGrowth = 64 << 20

	// maxKeyFile is far above any private key in PEM.
	maxKeyFile = 16 << 10

	// maxPublicFile is far above any list of CAs, and room for a list of some
	// 20,000 certificates that were revoked.
	maxPublicFile = 1 << 20

	// maxPeersFile and maxPeers bound a file with peers, in bytes and in IDs.
	maxPeersFile = 64 << 10
	maxPeers     = 512
)
