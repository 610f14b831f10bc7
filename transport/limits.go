package transport

import (
	"cmp"
	"time"
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

	// IdleTimeout is the silence after which an open lane is lost, unless an option sets another
	// one.
	IdleTimeout = 2 * time.Second

	// MinIdleTimeout is the shortest IdleTimeout that an option may set: the loss of one heartbeat
	// takes more than a shorter one.
	MinIdleTimeout = 2 * KeepAlive

	// KeepAlive is the interval at which an idle lane proves that it lives.
	KeepAlive = 500 * time.Millisecond

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

// idleTimeout is the silence after which a lane is lost, by an option.
func idleTimeout(option time.Duration) time.Duration {
	return max(cmp.Or(option, IdleTimeout), MinIdleTimeout)
}
