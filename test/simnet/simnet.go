// Package simnet is a bad network in virtual time. Unmodified hosts speak QUIC over the sockets
// of quic-go's simnet, inside a bubble of testing/synctest. There, 40 seconds of silence cost
// no more than the packets.
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

// Path describes the path between any two hosts, the same in both directions.
type Path struct {
	Delay     time.Duration // of every packet, one way
	Jitter    time.Duration // at most this in addition, drawn for each packet: later packets overtake
	Rate      float64       // bytes a second that all packets to a host share, 0 is no limit
	Queue     time.Duration // a packet that would wait longer than this is lost
	Loss      float64       // share of the packets that are lost
	Duplicate float64       // share that arrives twice
	Reorder   float64       // share that arrives later by up to four times Delay
}

// Network carries packets between the sockets that it has opened.
type Network struct {
	nodes simnet.PerfectRouter
	path  Path

	mu   sync.Mutex // never held while waiting
	rand *rand.Rand
	free map[netip.Addr]time.Time           // when the path to a host has carried all queued packets
	lost func(from, to netip.AddrPort) bool // packets that a cut loses; nil for none
	most int                                // length of a datagram that is not lost between old sockets; 0 is no limit
	open map[netip.AddrPort]bool            // which sockets were ever opened
	old  map[netip.AddrPort]bool            // the sockets that were open when the network became narrow
	seen map[netip.AddrPort]netip.AddrPort  // the address under which others see a socket
	real map[netip.AddrPort]netip.AddrPort  // and the reverse
}

// New returns a network whose faults are drawn from the seed. The affected packets also depend
// on the order of goroutines, so a seed repeats the shares of faults, but not each fault.
func New(seed uint64, path Path) *Network {
	return &Network{
		path: path, rand: rand.New(rand.NewPCG(seed, 0)), free: map[netip.Addr]time.Time{},
		open: map[netip.AddrPort]bool{}, seen: map[netip.AddrPort]netip.AddrPort{}, real: map[netip.AddrPort]netip.AddrPort{},
	}
}

// Socket opens a socket on an address. A later socket on the same address gets the packets
// from then on.
func (n *Network) Socket(local netip.AddrPort) net.PacketConn {
	return simnet.NewBlockingSimConn(net.UDPAddrFromAddrPort(local), n)
}

// Cut loses, from now on, the packets for which lost returns true; nil heals the network.
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

// All is the cut that loses every packet.
func All(from, to netip.AddrPort) bool { return true }

// Rebind shows others the address outside for packets from local, like a NAT that has replaced
// a mapping. Packets to local are lost.
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

// translate translates a packet's addresses like a NAT. It reports whether the packet passes
// the NAT and the cut.
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

// fate returns the delay of a packet, ok = false for a lost one.
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
