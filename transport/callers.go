package transport

import (
	"hash/maphash"
	"net"
	"net/netip"

	"golang.org/x/time/rate"
)

// callers limits how often one address may open a connection: a handshake costs
// this side more than it costs who has it made. Every address has a bucket of
// ConnBurst connections that fills again at ConnRate.
//
// The first packet of a connection proves nothing, so that others may send it in
// an address's name. Therefore the lower half of a bucket is for connections that
// have proved their address by a Retry (RFC 9000, section 8.1): nobody else can
// keep an address out.
//
// The table is as large as it will ever be. Two addresses may share a bucket; who
// shares it with whom differs with every process and cannot be chosen.
type callers struct {
	seed    maphash.Seed
	buckets [callerBuckets]*rate.Limiter
}

// callerBuckets makes it unlikely that a peer shares one with somebody hostile,
// and costs 100 KiB.
const callerBuckets = 1 << 10

func newCallers() *callers {
	c := &callers{seed: maphash.MakeSeed()}
	for i := range c.buckets {
		c.buckets[i] = rate.NewLimiter(ConnRate, ConnBurst)
	}
	return c
}

// hurried says that an address has to be proved before its next connection.
func (c *callers) hurried(from net.Addr) bool {
	return c.bucket(from).Tokens() < ConnBurst/2
}

// admit takes a connection out of an address's bucket, if there is one left.
func (c *callers) admit(from net.Addr) bool {
	return c.bucket(from).Allow()
}

func (c *callers) bucket(from net.Addr) *rate.Limiter {
	return c.buckets[maphash.Comparable(c.seed, callerOf(from))%callerBuckets]
}

// caller is what counts as one address.
type caller struct {
	network netip.Prefix
	zone    string // of a network that every link has (RFC 4007, section 5)
}

// callerOf takes the network of an IPv6 address, since whoever has one address has 2^64 of
// them (RFC 4291, section 2.5.4).
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
