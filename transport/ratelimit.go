package transport

import (
	"hash/maphash"
	"net"
	"net/netip"

	"golang.org/x/time/rate"
)

// rateLimit limits how often one address may open a connection: a handshake costs this side more
// than it costs the peer. Every address has a bucket of ConnBurst connections, which fills again
// at ConnRate.
//
// The first packet of a connection proves no address: a stranger may forge it. So the lower half
// of a bucket is for connections that have proved their address by a Retry (RFC 9000, section
// 8.1). A stranger cannot use that half up.
//
// The table never grows. Two addresses may share a bucket. Which addresses share one differs with
// every process, and no peer can choose it.
type rateLimit struct {
	seed    maphash.Seed
	buckets [callerBuckets]*rate.Limiter
}

// callerBuckets makes it unlikely that a peer shares a bucket with an attacker. It costs 100 KiB.
const callerBuckets = 1 << 10

func newRateLimit() *rateLimit {
	c := &rateLimit{seed: maphash.MakeSeed()}
	for i := range c.buckets {
		c.buckets[i] = rate.NewLimiter(ConnRate, ConnBurst)
	}
	return c
}

// hurried reports whether an address has to be proved before its next connection.
func (c *rateLimit) hurried(from net.Addr) bool {
	return c.bucket(from).Tokens() < ConnBurst/2
}

// admit takes a connection out of an address's bucket, if there is one left.
func (c *rateLimit) admit(from net.Addr) bool {
	return c.bucket(from).Allow()
}

func (c *rateLimit) bucket(from net.Addr) *rate.Limiter {
	return c.buckets[maphash.Comparable(c.seed, callerOf(from))%callerBuckets]
}

// caller is what counts as one address.
type caller struct {
	network netip.Prefix
	zone    string // of a network that every link has (RFC 4007, section 5)
}

// callerOf is the network of an IPv6 address: a host with one address has 2^64 of them (RFC
// 4291, section 2.5.4).
func callerOf(from net.Addr) caller {
	at, ok := from.(interface{ AddrPort() netip.AddrPort }) // of UDP or TCP
	if !ok {
		return caller{}
	}
	ip, bits := at.AddrPort().Addr().Unmap(), 32
	if ip.Is6() {
		bits = 64
	}
	network, _ := ip.WithZone("").Prefix(bits) // the zero address gives the zero prefix
	return caller{network, ip.Zone()}
}
