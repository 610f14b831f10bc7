// Package simnet is a bad network in virtual time: hosts that know nothing of it
// speak QUIC over the sockets of quic-go's simnet, inside a bubble of
// testing/synctest, and 40 seconds of silence cost no more than the packets.
package simnet

import (
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-go/quic-go/testutils/simnet"
)

// Path is what the way between any two hosts is like, the same in both directions.
type Path struct {
	Delay     time.Duration // of every packet, one way
	Jitter    time.Duration // at most this on top, drawn for each packet: later ones overtake
	Rate      float64       // bytes a second that all packets to a host share, 0 is no limit
	Queue     time.Duration // what would wait longer than this for its turn, is lost
	Loss      float64       // which part of the packets is lost
	Duplicate float64       // and which comes twice
	Reorder   float64       // and which comes later by up to four times Delay
}

// Network carries packets between the sockets that it has opened.
type Network struct {
	nodes simnet.PerfectRouter
	path  Path

	mu   sync.Mutex // never held while waiting
	rand *rand.Rand
	free map[netip.Addr]time.Time           // when the way to a host has carried all that was sent
	lost func(from, to netip.AddrPort) bool // packets that a cut takes; nil for none
	most int                                // length of a datagram that is not lost between old sockets; 0 is no limit
	open map[netip.AddrPort]bool            // which sockets were ever opened
	old  map[netip.AddrPort]bool            // and which of them had been when the network became narrow
	seen map[netip.AddrPort]netip.AddrPort  // as what others see an address
	real map[netip.AddrPort]netip.AddrPort  // and the way back
}

// New is a network whose luck is drawn from the seed. Which packet it meets also
// depends on which goroutine comes first, so that a seed gives the same weather and
// not the same storm.
func New(seed uint64, path Path) *Network {
	return &Network{
		path: path, rand: rand.New(rand.NewPCG(seed, 0)), free: map[netip.Addr]time.Time{},
		open: map[netip.AddrPort]bool{}, seen: map[netip.AddrPort]netip.AddrPort{}, real: map[netip.AddrPort]netip.AddrPort{},
	}
}

// Socket opens a socket on an address. Who opens one on the same address again gets
// the packets from then on.
func (n *Network) Socket(local netip.AddrPort) net.PacketConn {
	return simnet.NewBlockingSimConn(net.UDPAddrFromAddrPort(local), n)
}

// Cut loses from now on the packets that lost says; nil heals the network.
func (n *Network) Cut(lost func(from, to netip.AddrPort) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lost = lost
}

// Narrow loses, from now on, longer datagrams between the sockets that are open now. It
// sends no message, like a router whose MTU shrank behind a filter of ICMP, for connections
// that have already found out their packet size. quic-go does not probe for it here, so
// the packets of a new socket are always short.
func (n *Network) Narrow(most int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.most, n.old = most, maps.Clone(n.open)
}

// All is the cut that lets nothing through.
func All(from, to netip.AddrPort) bool { return true }

// Rebind has others see what comes from local as coming from outside, as a NAT does
// that has forgotten a mapping and made another. What they send to local is lost.
func (n *Network) Rebind(local, outside netip.AddrPort) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seen[local], n.real[outside] = outside, local
}

// AddNode is part of simnet.Router.
func (n *Network) AddNode(addr net.Addr, receiver simnet.PacketReceiver) {
	n.mu.Lock()
	n.open[address(addr)] = true
	n.mu.Unlock()
	n.nodes.AddNode(addr, receiver)
}

// SendPacket is part of simnet.Router. It does not fail: a sender never learns the fate
// of a datagram.
func (n *Network) SendPacket(p simnet.Packet) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.tooLong(p) || !n.translate(&p) {
		return nil
	}
	copies := 1
	if n.rand.Float64() < n.path.Duplicate {
		copies = 2
	}
	for range copies {
		if after, ok := n.fate(p); ok {
			time.AfterFunc(after, func() { n.nodes.SendPacket(p) })
		}
	}
	return nil
}

func (n *Network) tooLong(p simnet.Packet) bool {
	return n.most > 0 && len(p.Data) > n.most && n.old[address(p.From)] && n.old[address(p.To)]
}

// translate does what a NAT does to a packet, and says whether it gets through the
// NAT and the cut.
func (n *Network) translate(p *simnet.Packet) bool {
	from, to := address(p.From), address(p.To)
	if n.lost != nil && n.lost(from, to) {
		return false
	}
	if outside, ok := n.seen[from]; ok {
		p.From = net.UDPAddrFromAddrPort(outside)
	}
	if _, moved := n.seen[to]; moved {
		return false
	}
	if local, ok := n.real[to]; ok {
		p.To = net.UDPAddrFromAddrPort(local)
	}
	return true
}

// fate is how long a packet takes, unless it is lost.
func (n *Network) fate(p simnet.Packet) (after time.Duration, ok bool) {
	if n.rand.Float64() < n.path.Loss {
		return 0, false
	}
	after = n.path.Delay
	if n.path.Jitter > 0 {
		after += time.Duration(n.rand.Int64N(int64(n.path.Jitter)))
	}
	if n.rand.Float64() < n.path.Reorder {
		after += time.Duration(n.rand.Float64() * 4 * float64(n.path.Delay))
	}
	wait, ok := n.queue(address(p.To).Addr(), len(p.Data))
	return after + wait, ok
}

// queue is how long a packet waits until it has left towards a host.
func (n *Network) queue(to netip.Addr, size int) (wait time.Duration, ok bool) {
	if n.path.Rate == 0 {
		return 0, true
	}
	now := time.Now()
	free := n.free[to]
	if free.Before(now) {
		free = now
	}
	if free.Sub(now) > n.path.Queue {
		return 0, false
	}
	n.free[to] = free.Add(time.Duration(float64(size) / n.path.Rate * float64(time.Second)))
	return n.free[to].Sub(now), true
}

func address(a net.Addr) netip.AddrPort { return a.(*net.UDPAddr).AddrPort() }
