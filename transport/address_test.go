package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// hosts is a network of addresses, and a resolver for the one name in it.
type hosts struct {
	answers map[string]hostAnswer // by address; others are silent
	lookup  LookupFunc
	looked  int
	tried   []string
	peer    peerAddress
	mu      sync.Mutex // of what try counts
	lanes   []*namedLane
}

// hostAnswer is how a host takes a Dial.
type hostAnswer struct {
	after time.Duration
	err   error
}

// namedLane is a lane to one address.
type namedLane struct {
	Lane
	firstByte
	to     string
	closed bool
}

func (l *namedLane) Close() error { l.closed = true; return nil }

func (h *hosts) try(ctx context.Context, to netip.AddrPort) (Lane, error) {
	h.mu.Lock()
	h.tried = append(h.tried, to.Addr().String())
	h.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, HandshakeTimeout)
	defer cancel()
	a, ok := h.answers[to.Addr().String()]
	if !ok {
		a.after = time.Hour
	}
	select {
	case <-time.After(a.after):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if a.err != nil {
		return nil, a.err
	}
	lane := &namedLane{to: to.Addr().String()}
	h.mu.Lock()
	h.lanes = append(h.lanes, lane)
	h.mu.Unlock()
	return lane, nil
}

func (h *hosts) dial(ctx context.Context) (*namedLane, error) {
	lane, err := h.peer.dial(ctx, "dest:7000", func(ctx context.Context, host string) ([]netip.Addr, error) {
		h.looked++
		return h.lookup(ctx, host)
	}, func(err error) error { return identityError(err, false) }, h.try)
	if err != nil {
		return nil, err
	}
	return lane.(*namedLane), nil
}

// finds is a resolver that answers with addresses.
func finds(ips ...string) LookupFunc {
	return func(context.Context, string) (all []netip.Addr, err error) {
		for _, ip := range ips {
			all = append(all, netip.MustParseAddr(ip))
		}
		return all, nil
	}
}

// silentResolver never answers.
func silentResolver(ctx context.Context, _ string) ([]netip.Addr, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestDialAddresses: an address that answers is found beside any others, and an error
// says what was tried.
func TestDialAddresses(t *testing.T) {
	const s, ms = time.Second, time.Millisecond
	refused := &net.OpError{Op: "dial", Addr: &net.TCPAddr{}, Err: errors.New("connection refused")}
	up := hostAnswer{after: ms}
	many := make([]string, 2*addressesMost)
	for i := range many {
		many[i] = fmt.Sprintf("10.0.0.%d", 100+i)
	}
	for _, c := range []struct {
		name    string
		answers map[string]hostAnswer
		lookup  LookupFunc
		within  time.Duration
		took    time.Duration
		want    string   // the address
		errs    []string // or parts of the error
		is      error
	}{
		{"one", map[string]hostAnswer{"10.0.0.1": up}, finds("10.0.0.1"), 0, ms, "10.0.0.1", nil, nil},
		{"the first is dead", map[string]hostAnswer{"10.0.0.2": up}, finds("10.0.0.1", "10.0.0.2"), 0, addressDelay + ms, "10.0.0.2", nil, nil},
		{"two are dead", map[string]hostAnswer{"10.0.0.3": up}, finds("10.0.0.1", "10.0.0.2", "10.0.0.3"), 0, 2*addressDelay + ms, "10.0.0.3", nil, nil},
		{"the first is dead, and found twice", map[string]hostAnswer{"10.0.0.2": up}, finds("10.0.0.1", "10.0.0.1", "10.0.0.2"), 0, addressDelay + ms, "10.0.0.2", nil, nil},
		{"two refuse", map[string]hostAnswer{"10.0.0.1": {err: refused}, "10.0.0.2": {err: refused}, "10.0.0.3": up}, finds("10.0.0.1", "10.0.0.2", "10.0.0.3"), 0, ms, "10.0.0.3", nil, nil},
		{"the first is late", map[string]hostAnswer{"10.0.0.1": {after: s}, "10.0.0.2": {after: 2 * s}}, finds("10.0.0.1", "10.0.0.2"), 0, s, "10.0.0.1", nil, nil},
		{"the last takes its whole time", map[string]hostAnswer{"10.0.0.3": {after: HandshakeTimeout - ms}}, finds("10.0.0.1", "10.0.0.2", "10.0.0.3"), 0, 2*addressDelay + HandshakeTimeout - ms, "10.0.0.3", nil, nil},
		{"the families take turns", map[string]hostAnswer{"10.0.0.1": up}, finds("fd00::1", "fd00::2", "fd00::3", "10.0.0.1"), 0, addressDelay + ms, "10.0.0.1", nil, nil},
		{"IPv4 came first", map[string]hostAnswer{"fd00::1": up}, finds("10.0.0.1", "10.0.0.2", "fd00::1"), 0, addressDelay + ms, "fd00::1", nil, nil},
		{"there is little time", map[string]hostAnswer{"10.0.0.4": up}, finds("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"), 400 * ms, 0, "10.0.0.4", nil, nil},
		{"a stranger comes first", map[string]hostAnswer{"10.0.0.1": {err: &WrongPeerError{}}, "10.0.0.2": up}, finds("10.0.0.1", "10.0.0.2"), 0, ms, "10.0.0.2", nil, nil},
		{"a stranger is all there is", map[string]hostAnswer{"10.0.0.1": {err: &WrongPeerError{}}}, finds("10.0.0.2", "10.0.0.1"), 0, 0, "", []string{"(at 10.0.0.1:7000)"}, ErrAuth},
		{"nobody answers", map[string]hostAnswer{"10.0.0.2": {err: refused}}, finds("10.0.0.1", "10.0.0.2", "fd00::1"), 0, 0, "",
			[]string{"cannot be reached", "10.0.0.1:7000: no answer", "10.0.0.2:7000: connection refused", "[fd00::1]:7000: no answer"}, ErrUnreachable},
		{"too many", nil, finds(many...), 0, 0, "", nil, ErrUnreachable},
		{"no address", nil, func(context.Context, string) ([]netip.Addr, error) { return nil, ErrNoAddress }, 0, 0, "", []string{"cannot be reached: the name has no address"}, ErrNoAddress},
		{"an empty answer", nil, finds(), 0, 0, "", []string{"the name has no address: dest"}, ErrNoAddress},
		{"no resolver", nil, func(context.Context, string) ([]netip.Addr, error) { return nil, errors.New("server misbehaving") }, 0, 0, "",
			[]string{"cannot be reached: the resolver gave no answer: server misbehaving"}, ErrNoResolver},
		{"a silent resolver", nil, silentResolver, 0, lookupLimit, "", []string{"the resolver gave no answer"}, ErrNoResolver},
		{"a silent resolver, and little time", nil, silentResolver, s, s, "", []string{"the resolver gave no answer"}, ErrNoResolver},
	} {
		synctest.Test(t, func(t *testing.T) {
			h := &hosts{answers: c.answers, lookup: c.lookup}
			ctx := t.Context()
			if c.within > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, c.within)
				defer cancel()
			}
			began := time.Now()
			lane, err := h.dial(ctx)
			if took := time.Since(began); c.took != 0 && took != c.took {
				t.Errorf("%s: it took %v, want %v", c.name, took, c.took)
			}
			if len(h.tried) > addressesMost {
				t.Errorf("%s: %d addresses were tried", c.name, len(h.tried))
			}
			if c.want != "" {
				if err != nil || lane.to != c.want {
					t.Errorf("%s: %v, %v, want %s", c.name, lane, err, c.want)
				}
				return
			}
			if err == nil || !errors.Is(err, c.is) || errors.Is(err, ErrAuth) == errors.Is(err, ErrUnreachable) {
				t.Fatalf("%s: %v, want %v", c.name, err, c.is)
			}
			for _, part := range c.errs {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%s: %v, want %q in it", c.name, err, part)
				}
			}
		})
	}
}

// TestDialClosesLosers: an address that answers while another is taken is hung up on.
func TestDialClosesLosers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hosts{lookup: finds("10.0.0.1", "10.0.0.2"), answers: map[string]hostAnswer{"10.0.0.1": {after: addressDelay + time.Second}, "10.0.0.2": {after: time.Second}}}
		lane, err := h.dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range h.lanes {
			if l.closed == (l == lane) {
				t.Errorf("the lane to %s, closed: %v, %s was taken", l.to, l.closed, lane.to)
			}
		}
	})
}

// TestDialAgain: the address that worked last is tried first, without a lookup, and stays in
// use while the resolver gives no answer.
func TestDialAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := hostAnswer{after: time.Millisecond}
		h := &hosts{lookup: finds("10.0.0.1", "10.0.0.2"), answers: map[string]hostAnswer{"10.0.0.2": up}}
		dials := func(want string, took time.Duration) *namedLane {
			t.Helper()
			h.tried = nil
			began := time.Now()
			lane, err := h.dial(t.Context())
			if err != nil || lane.to != want || time.Since(began) != took {
				t.Fatalf("%v, %v after %v, want %s after %v", lane, err, time.Since(began), want, took)
			}
			return lane
		}
		dials("10.0.0.2", addressDelay+time.Millisecond)
		lane := dials("10.0.0.2", addressDelay+time.Millisecond) // nothing has come from it
		lane.read(0)
		lane.read(1)
		h.looked = 0
		dials("10.0.0.2", time.Millisecond)
		if h.looked != 0 || len(h.tried) != 1 {
			t.Errorf("%d lookups, %q were tried", h.looked, h.tried)
		}
		h.lookup = silentResolver
		h.answers["10.0.0.2"] = hostAnswer{after: HandshakeTimeout - time.Millisecond}
		dials("10.0.0.2", HandshakeTimeout-time.Millisecond)
		h.lookup = func(context.Context, string) ([]netip.Addr, error) { return nil, ErrNoAddress }
		dials("10.0.0.2", HandshakeTimeout-time.Millisecond)
		delete(h.answers, "10.0.0.2")
		_, err := h.dial(t.Context())
		if err == nil || !strings.Contains(err.Error(), "10.0.0.2:7000: no answer") || !strings.Contains(err.Error(), "no address") || errors.Is(err, ErrNoAddress) {
			t.Errorf("silent, and without a name: %v", err)
		}
		// The host has moved, and the old address is silent.
		h.answers["10.0.0.3"], h.lookup = up, finds("10.0.0.2", "10.0.0.3")
		lane = dials("10.0.0.3", headStart+time.Millisecond)
		if !slices.Equal(h.tried, []string{"10.0.0.2", "10.0.0.3"}) {
			t.Errorf("%q were tried", h.tried)
		}
		lane.read(1)
		dials("10.0.0.3", time.Millisecond)
	})
}

// TestDialIsCancelled: a Dial that is cancelled ends at once, says why, and leaves nothing.
func TestDialIsCancelled(t *testing.T) {
	for _, lookup := range []LookupFunc{silentResolver, finds("10.0.0.1", "10.0.0.2")} {
		synctest.Test(t, func(t *testing.T) {
			h := &hosts{lookup: lookup}
			ctx, cancel := context.WithCancelCause(t.Context())
			gone := errors.New("the user pressed a key")
			time.AfterFunc(time.Second, func() { cancel(gone) })
			began := time.Now()
			if _, err := h.dial(ctx); !errors.Is(err, gone) || errors.Is(err, ErrUnreachable) || time.Since(began) != time.Second {
				t.Errorf("%v after %v", err, time.Since(began))
			}
		})
	}
}

// nameserver answers queries as answer says, by type: no answer at all where that is nil.
func nameserver(t *testing.T, answer map[dnsmessage.Type]func(*dnsmessage.Message)) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() { // ends with conn
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || answer[m.Questions[0].Type] == nil {
				continue
			}
			m.Response, m.Additionals = true, nil
			answer[m.Questions[0].Type](&m)
			if reply, err := m.Pack(); err == nil {
				conn.WriteTo(reply, from)
			}
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

func has(body dnsmessage.ResourceBody) func(*dnsmessage.Message) {
	return func(m *dnsmessage.Message) {
		q := m.Questions[0]
		m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 60}, Body: body}}
	}
}

// TestLookupHost: names that do not exist are told from servers that do not answer, and an
// missing IPv6 answer delays no connection.
func TestLookupHost(t *testing.T) {
	const name = "dest.example."
	ip4 := has(&dnsmessage.AResource{A: [4]byte{192, 0, 2, 1}})
	ip6 := has(&dnsmessage.AAAAResource{AAAA: netip.MustParseAddr("2001:db8::1").As16()})
	unknown := func(m *dnsmessage.Message) { m.RCode = dnsmessage.RCodeNameError }
	broken := func(m *dnsmessage.Message) { m.RCode = dnsmessage.RCodeServerFailure }
	for _, c := range []struct {
		name   string
		answer map[dnsmessage.Type]func(*dnsmessage.Message)
		want   []string
		is     error
	}{
		{"both", map[dnsmessage.Type]func(*dnsmessage.Message){dnsmessage.TypeA: ip4, dnsmessage.TypeAAAA: ip6}, []string{"192.0.2.1", "2001:db8::1"}, nil},
		{"no AAAA comes", map[dnsmessage.Type]func(*dnsmessage.Message){dnsmessage.TypeA: ip4}, []string{"192.0.2.1"}, nil},
		{"unknown", map[dnsmessage.Type]func(*dnsmessage.Message){dnsmessage.TypeA: unknown, dnsmessage.TypeAAAA: unknown}, nil, ErrNoAddress},
		{"broken", map[dnsmessage.Type]func(*dnsmessage.Message){dnsmessage.TypeA: broken, dnsmessage.TypeAAAA: broken}, nil, ErrNoResolver},
		{"silent", nil, nil, ErrNoResolver},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			resolver := nameserver(t, c.answer)
			limit := 10 * time.Second
			if c.answer == nil {
				limit = 100 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			ips, err := find(ctx, func(ctx context.Context, host string) ([]netip.Addr, error) {
				return lookupHost(ctx, resolver, host)
			}, name)
			var got []string
			for _, ip := range ips {
				got = append(got, ip.String())
			}
			slices.Sort(got)
			if !slices.Equal(got, c.want) || !errors.Is(err, c.is) {
				t.Errorf("%q, %v, want %q, %v", got, err, c.want, c.is)
			}
		})
	}
}

// TestZone: the zone of an address reaches the socket as Go knows it, however it is written,
// from names and from addresses, when dialling and when listening. One that no interface has
// is an error.
func TestZone(t *testing.T) {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Skip("SKIP: no loopback interface: ", err)
	}
	if index, err := interfaceIndex("lo"); err != nil || index != lo.Index {
		t.Errorf("without netlink lo is interface %d, %v, want %d", index, err, lo.Index)
	}
	failed := errors.New("enough")
	for _, c := range []struct{ addr, named, want string }{
		{"[fe80::1%lo]:7000", "", "fe80::1%lo"},
		{fmt.Sprintf("[fe80::1%%%d]:7000", lo.Index), "", "fe80::1%lo"},
		{"dest:7000", "fe80::1%lo", "fe80::1%lo"},
		{"[fe80::1%none9]:7000", "", ""},
	} {
		want, wantErr := c.want, failed
		if want == "" {
			wantErr = unix.ENODEV
		}
		var got string
		var p peerAddress
		_, err := p.dial(t.Context(), c.addr, finds(c.named), func(error) error { return nil }, func(_ context.Context, to netip.AddrPort) (Lane, error) {
			got = to.Addr().String()
			return nil, failed
		})
		if !errors.Is(err, wantErr) || got != want {
			t.Errorf("%s leads to %q, %v, want %q", c.addr, got, err, want)
		}
		if c.named != "" {
			continue
		}
		got = ""
		_, err = listenFirst(c.addr, func(at netip.AddrPort) (int, error) {
			got = at.Addr().String()
			return 0, failed
		})
		if !errors.Is(err, wantErr) || got != want {
			t.Errorf("a listener at %s is at %q, %v, want %q", c.addr, got, err, want)
		}
	}
	if ips := plainAddrs([]net.IPAddr{{IP: net.ParseIP("fe80::1"), Zone: "lo"}}); len(ips) != 1 || ips[0].String() != "fe80::1%lo" {
		t.Errorf("a resolver's answer becomes %v", ips)
	}
}

// TestDialersRemember: over both carriers a name is looked up once, and not again once
// something has come from its address.
func TestDialersRemember(t *testing.T) {
	sender, receiver := testIdentity(t), testIdentity(t)
	l, err := ListenEither("127.0.0.1:0", Pinned{receiver, []PeerID{sender.ID()}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	var looked atomic.Int64
	lookup := func(context.Context, string) ([]netip.Addr, error) {
		if looked.Add(1) > 1 {
			return nil, errors.New("the resolver is away")
		}
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
	}
	addr, credentials := net.JoinHostPort("dest.example", port), Pinned{sender, []PeerID{receiver.ID()}}
	for _, d := range []Dialer{
		&QUICDialer{Addr: addr, Credentials: credentials, Lookup: lookup},
		&TLSDialer{Addr: addr, Credentials: credentials, Lookup: lookup},
	} {
		looked.Store(0)
		for range 3 {
			ours, err := d.Dial(t.Context())
			if err != nil {
				t.Fatalf("%T: %v", d, err)
			}
			ours.Write([]byte{1})
			theirs, err := l.Accept(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			theirs.Write([]byte{2})
			if _, err := ours.Read(make([]byte, 1)); err != nil {
				t.Errorf("%T: %v", d, err)
			}
			ours.Close()
			theirs.Close()
		}
		if n := looked.Load(); n != 1 {
			t.Errorf("%T: %d lookups", d, n)
		}
	}
}
