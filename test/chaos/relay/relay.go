package relay

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Direction is the direction of a datagram.
type Direction int

// The directions.
const (
	Up   Direction = iota // from the clients to the server
	Down                  // back to them
)

// maxClients bounds the clients; datagrams of further ones are lost.
const maxClients = 256

// Relay forwards datagrams between clients and one server. The server sees each client
// under an address of its own.
type Relay struct {
	front *net.UDPConn
	to    netip.AddrPort
	lines [2]*line
	quit  chan struct{}
	done  sync.WaitGroup

	mu      sync.Mutex
	clients map[netip.AddrPort]*net.UDPConn // the sockets that the server sees
	closed  bool
}

// Listen begins to forward datagrams to a server. Both links are perfect at first.
func Listen(to string, seed uint64) (*Relay, error) {
	server, err := netip.ParseAddrPort(to)
	if err != nil {
		return nil, err
	}
	front, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		return nil, err
	}
	r := &Relay{front: front, to: server, quit: make(chan struct{}), clients: map[netip.AddrPort]*net.UDPConn{}}
	for i := range r.lines {
		l := &line{wake: make(chan struct{}, 1)}
		l.shaper.random = rand.New(rand.NewPCG(seed, uint64(i)))
		r.lines[i] = l
		r.done.Go(func() { l.run(r.quit) })
	}
	r.done.Go(r.readClients)
	return r, nil
}

// Addr is the address to which the clients send.
func (r *Relay) Addr() string { return r.front.LocalAddr().String() }

// Set changes the links of some directions, of both if none is named.
func (r *Relay) Set(change func(*Link), directions ...Direction) {
	if len(directions) == 0 {
		directions = []Direction{Up, Down}
	}
	for _, d := range directions {
		r.lines[d].set(change)
	}
}

// Cut loses every datagram until Heal.
func (r *Relay) Cut(directions ...Direction) { r.Set(func(l *Link) { l.Cut = true }, directions...) }

// Heal ends a cut.
func (r *Relay) Heal(directions ...Direction) { r.Set(func(l *Link) { l.Cut = false }, directions...) }

// Counts returns what has happened to the datagrams of a direction so far.
func (r *Relay) Counts(d Direction) Counts { return r.lines[d].counts() }

// Rebind has the server see every client under a new address, as when a NAT loses its
// table. Datagrams of the server to the old addresses are lost.
func (r *Relay) Rebind() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for client, socket := range r.clients {
		socket.Close()
		delete(r.clients, client)
	}
}

// Close ends the relay. Datagrams in flight are lost.
func (r *Relay) Close() {
	close(r.quit)
	r.front.Close()
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.Rebind()
	r.done.Wait()
}

// readClients forwards the clients' datagrams. It returns when the relay is closed.
func (r *Relay) readClients() {
	room := make([]byte, 64<<10)
	for {
		n, client, err := r.front.ReadFromUDPAddrPort(room)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an earlier datagram's error: its client has gone
		}
		r.lines[Up].put(time.Now(), append([]byte(nil), room[:n]...), func(data []byte) { r.forward(client, data) })
	}
}

// forward sends a client's datagram to the server. If no process listens there, the
// client learns nothing of that, as on a real path.
func (r *Relay) forward(client netip.AddrPort, data []byte) {
	if socket := r.socket(client); socket != nil {
		socket.Write(data)
	}
}

// socket is the socket that stands for a client at the server, nil if there cannot be one.
func (r *Relay) socket(client netip.AddrPort) *net.UDPConn {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.clients[client]; s != nil || r.closed || len(r.clients) >= maxClients {
		return s
	}
	s, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(r.to))
	if err != nil {
		return nil
	}
	r.clients[client] = s
	r.done.Go(func() { r.readServer(client, s) })
	return s
}

// readServer forwards the server's datagrams to a client. It returns when the socket is closed.
func (r *Relay) readServer(client netip.AddrPort, s *net.UDPConn) {
	room := make([]byte, 64<<10)
	for {
		n, err := s.Read(room)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // no process listens there (ICMP), or not yet
		}
		r.lines[Down].put(time.Now(), append([]byte(nil), room[:n]...), func(data []byte) { r.front.WriteToUDPAddrPort(data, client) })
	}
}
