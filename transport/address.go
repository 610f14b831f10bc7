package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

// Why a name leads nowhere. A Dial that fails by one of them fails with [ErrUnreachable] too.
var (
	// ErrNoAddress is the error for a name without an address.
	ErrNoAddress = errors.New("the name has no address")

	// ErrNoResolver is the error for a lookup that the resolver did not answer.
	ErrNoResolver = errors.New("the resolver gave no answer")
)

// A LookupFunc finds the addresses of a host, the best first; those of a link have their
// zone. It ends with ctx, may be called by several goroutines at once, and fails with
// [ErrNoAddress] if the host has none. Any other error is a resolver that gave no answer.
type LookupFunc func(ctx context.Context, host string) ([]netip.Addr, error)

const (
	// lookupLimit bounds a lookup: a resolver asks each of its servers for 5 s at most
	// (resolv.conf(5), timeout), so that the second still has its turn.
	lookupLimit = 10 * time.Second

	// lateFamily is the wait for the other family's addresses once one family's are known
	// (RFC 8305, section 3, Resolution Delay).
	lateFamily = 50 * time.Millisecond

	// addressDelay is the wait for an address before the next one is tried beside it
	// (RFC 8305, section 5, Connection Attempt Delay).
	addressDelay = 250 * time.Millisecond

	// addressesMost bounds what a resolver can have a Dial try.
	addressesMost = 16
)

// LookupHost is the default [LookupFunc]: it asks the system's resolver, which sorts by
// RFC 6724. It does not wait for IPv6 addresses that come late: some servers never answer
// for those.
func LookupHost(ctx context.Context, host string) ([]netip.Addr, error) {
	return lookupHost(ctx, net.DefaultResolver, host)
}

func lookupHost(ctx context.Context, resolver *net.Resolver, host string) ([]netip.Addr, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		ips []netip.Addr
		err error
	}
	all, ip4 := make(chan answer, 1), make(chan answer, 1)
	go func() { // ends with ctx
		ips, err := resolver.LookupIPAddr(ctx, host) // LookupNetIP would lose the zone
		all <- answer{plainAddrs(ips), err}
	}()
	go func() { // as well
		ips, err := resolver.LookupNetIP(ctx, "ip4", host)
		ip4 <- answer{ips, err}
	}()
	var a answer
	select {
	case a = <-all:
	case a = <-ip4:
		if a.err != nil {
			a = <-all
			break
		}
		select {
		case a = <-all:
		case <-time.After(lateFamily):
		}
	}
	if e, ok := errors.AsType[*net.DNSError](a.err); ok && e.IsNotFound {
		return nil, fmt.Errorf("%w: %w", ErrNoAddress, a.err)
	}
	return a.ips, a.err
}

func plainAddrs(ips []net.IPAddr) (all []netip.Addr) {
	for _, ip := range ips {
		if a, ok := netip.AddrFromSlice(ip.IP); ok {
			all = append(all, a.Unmap().WithZone(ip.Zone))
		}
	}
	return all
}

// find looks a host up, and has RFC 8305's order: the families take turns (section 4).
func find(ctx context.Context, lookup LookupFunc, host string) ([]netip.Addr, error) {
	if lookup == nil {
		lookup = LookupHost
	}
	ctx, cancel := context.WithTimeout(ctx, lookupLimit)
	defer cancel()
	ips, err := lookup(ctx, host)
	switch {
	case errors.Is(err, ErrNoAddress):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrNoResolver, err)
	case len(ips) == 0:
		return nil, fmt.Errorf("%w: %s", ErrNoAddress, host)
	}
	return takeTurns(ips), nil
}

// takeTurns alternates the two families. It preserves the order within each, and begins with
// the family of the first address.
func takeTurns(ips []netip.Addr) (turns []netip.Addr) {
	var families [2][]netip.Addr
	for _, ip := range ips {
		family := 0
		if ip = ip.Unmap(); ip.Is4() != ips[0].Unmap().Is4() {
			family = 1
		}
		families[family] = append(families[family], ip)
	}
	for i := range max(len(families[0]), len(families[1])) {
		for _, f := range families {
			if i < len(f) && len(turns) < addressesMost {
				turns = append(turns, f[i])
			}
		}
	}
	return turns
}

// splitAddress parts HOST:PORT.
func splitAddress(addr string) (host string, port uint16, err error) {
	host, service, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("address %s: port %q is not a number below 65536", addr, service)
	}
	return host, uint16(n), nil
}

// listenAddresses are the addresses of HOST:PORT for a listener, IPv4 first as in net.Listen. An
// empty host is the zero Addr, which means any address.
func listenAddresses(addr string) (all []netip.AddrPort, err error) {
	host, port, err := splitAddress(addr)
	if err != nil {
		return nil, err
	}
	ips := []netip.Addr{{}}
	if ip, err := netip.ParseAddr(host); err == nil {
		ips[0] = ip
	} else if host != "" {
		if ips, err = find(context.Background(), nil, host); err != nil {
			return nil, err
		}
		slices.SortStableFunc(ips, func(a, b netip.Addr) int { return a.BitLen() - b.BitLen() })
	}
	for _, ip := range ips {
		all = append(all, netip.AddrPortFrom(ip, port))
	}
	return all, nil
}

// listenFirst listens at the first address that HOST:PORT may mean and this host has.
func listenFirst[L any](addr string, listen func(netip.AddrPort) (L, error)) (l L, err error) {
	all, err := listenAddresses(addr)
	for _, at := range all {
		if at, err = onLink(at); err == nil {
			l, err = listen(at)
		}
		if !errors.Is(err, syscall.EADDRNOTAVAIL) {
			return l, err
		}
	}
	return l, err
}

// onLink gives an address of a link the zone that sockets take. Go takes a zone that it does
// not know for none. It knows names where it may use netlink, and numbers besides: by a
// number, where the name is known, it would ask the kernel again for each packet.
func onLink(to netip.AddrPort) (netip.AddrPort, error) {
	zone := to.Addr().Zone()
	if zone == "" {
		return to, nil
	}
	index, err := strconv.Atoi(zone)
	if err != nil {
		if index, err = interfaceIndex(zone); err != nil {
			return to, fmt.Errorf("zone %s: %w", zone, err)
		}
	}
	zone = strconv.Itoa(index)
	if known, err := net.InterfaceByIndex(index); err == nil {
		zone = known.Name
	}
	return netip.AddrPortFrom(to.Addr().WithZone(zone), to.Port()), nil
}

// peerAddress is the address at which the peer of a dialler answered last. The dialler tries it
// first, and uses it while the resolver gives no answer.
type peerAddress struct {
	last atomic.Pointer[namedAddress]
}

type namedAddress struct {
	host string
	ip   netip.Addr
}

// tryFunc opens a lane to one address.
type tryFunc func(context.Context, netip.AddrPort) (Lane, error)

// dial opens a lane to the first address of HOST:PORT that answers (RFC 8305). judge returns the
// fault of a peer that answered, nil if the error of try means that no peer did.
func (p *peerAddress) dial(ctx context.Context, addr string, lookup LookupFunc, judge func(error) error, try tryFunc) (Lane, error) {
	host, port, err := splitAddress(addr)
	if err == nil && host == "" {
		err = fmt.Errorf("address %s has no host", addr)
	}
	if err != nil {
		return nil, dialError(ctx, err)
	}
	r := &race{port: port, judge: judge, try: try, ended: make(chan tried), found: make(chan found)}
	ip, err := netip.ParseAddr(host)
	if err == nil {
		r.queue = []netip.Addr{ip.Unmap()}
		t, err := r.run(ctx)
		return t.lane, err
	}
	r.lookup = func(ctx context.Context) found {
		ips, err := find(ctx, lookup, host)
		return found{ips, err}
	}
	if last := p.last.Load(); last != nil && last.host == host {
		r.queue, r.known = []netip.Addr{last.ip}, true
	}
	t, err := r.run(ctx)
	if err != nil {
		return nil, err
	}
	t.lane.(firstByteReporter).whenAnswered(func() { p.last.Store(&namedAddress{host, t.to.Addr()}) })
	return t.lane, nil
}

// firstByteReporter is a lane that reports the first byte from the peer: before it the peer
// may have refused this side, or be another one than the caller wants.
type firstByteReporter interface{ whenAnswered(func()) }

// firstByte implements firstByteReporter.
type firstByte struct{ report func() }

func (f *firstByte) whenAnswered(report func()) { f.report = report }

// read is called at every Read.
func (f *firstByte) read(n int) {
	if n > 0 && f.report != nil {
		f.report()
		f.report = nil
	}
}

// race is one Dial: which addresses are to be tried, and what became of others.
type race struct {
	port   uint16
	try    tryFunc
	judge  func(error) error
	lookup func(context.Context) found // nil once it is called, or not needed

	queue   []netip.Addr // to be tried
	known   bool         // the queue is the address that worked last
	begun   []netip.Addr // are being tried, or were
	running int
	looking bool
	ended   chan tried
	found   chan found

	failed []error // of the addresses, and of the lookup
	final  error   // of an address at which a peer answered
}

// tried is what became of an address.
type tried struct {
	to   netip.AddrPort
	lane Lane
	err  error
}

// found is what a lookup has found.
type found struct {
	ips []netip.Addr
	err error
}

// run tries the addresses in turn. An address without an answer stays in progress beside the next.
func (r *race) run(within context.Context) (tried, error) {
	ctx, cancel := context.WithCancel(within)
	defer func() { cancel(); r.join() }()
	var pause <-chan time.Time
	for due := true; ; {
		if due && within.Err() == nil && r.begin(ctx) {
			due, pause = false, time.After(r.delay(within))
		}
		if r.running == 0 && !r.looking {
			return tried{}, r.failure(within)
		}
		select {
		case <-pause:
			due = true
		case f := <-r.found:
			r.learn(f)
		case t := <-r.ended:
			if r.running--; t.err == nil {
				return t, nil
			}
			r.fail(t)
			due = true
		}
	}
}

// begin tries the next address, or looks up addresses. It reports whether an address is being
// tried.
func (r *race) begin(ctx context.Context) bool {
	if len(r.queue) == 0 {
		if lookup := r.lookup; lookup != nil {
			r.lookup, r.looking = nil, true
			go func() { r.found <- lookup(ctx) }() // ends with ctx, and is joined
		}
		return false
	}
	to := netip.AddrPortFrom(r.queue[0], r.port)
	r.begun, r.queue = append(r.begun, r.queue[0]), r.queue[1:]
	r.running++
	go func() { // as well
		var lane Lane
		at, err := onLink(to)
		if err == nil {
			lane, err = r.try(ctx, at)
		}
		r.ended <- tried{to, lane, err}
	}()
	return true
}

// delay is the time before the next address is tried. If time is short, all addresses are tried
// within the first half of it.
func (r *race) delay(ctx context.Context) time.Duration {
	if r.known {
		r.known = false
		return headStartOf(ctx)
	}
	if end, ok := ctx.Deadline(); ok {
		return min(addressDelay, time.Until(end)/time.Duration(2*(len(r.queue)+1)))
	}
	return addressDelay
}

// learn adds the addresses that were not tried yet.
func (r *race) learn(f found) {
	r.looking = false
	if err := f.err; err != nil {
		if len(r.begun) > 0 { // then it is not the name that is wrong
			err = errors.New(err.Error())
		}
		r.failed = append(r.failed, err)
	}
	for _, ip := range f.ips {
		if !slices.Contains(r.begun, ip) && !slices.Contains(r.queue, ip) {
			r.queue = append(r.queue, ip)
		}
	}
}

func (r *race) fail(t tried) {
	if err := r.judge(t.err); err != nil {
		r.final = fmt.Errorf("%w (at %v)", err, t.to)
		return
	}
	r.failed = append(r.failed, &addressError{t.to, t.err})
}

// failure is why no address will do. The fault of a peer that answered comes first.
func (r *race) failure(ctx context.Context) error {
	if r.final != nil {
		return r.final
	}
	if slices.ContainsFunc(r.failed, hungUp) && !errors.Is(ctx.Err(), context.Canceled) {
		return &carrierError{kind: ErrHungUp, cause: causes(r.failed)}
	}
	return dialError(ctx, causes(r.failed))
}

// join waits for what run has begun, and closes lanes that came too late.
func (r *race) join() {
	for r.running > 0 || r.looking {
		select {
		case <-r.found:
			r.looking = false
		case t := <-r.ended:
			r.running--
			if t.err == nil {
				t.lane.Close()
			}
		}
	}
}

// addressError is why no peer was reached at an address.
type addressError struct {
	to  netip.AddrPort
	err error
}

func (e *addressError) Error() string {
	if e.silent() {
		return fmt.Sprintf("%v: no answer", e.to)
	}
	if op, ok := errors.AsType[*net.OpError](e.err); ok { // which names the address in its own way
		return fmt.Sprintf("%v: %v", e.to, op.Err)
	}
	return fmt.Sprintf("%v: %v", e.to, e.err)
}

// silent is the error for a peer that did not answer in time.
func (e *addressError) silent() bool {
	t, ok := errors.AsType[net.Error](e.err)
	return ok && t.Timeout()
}

// Unwrap never gives os.ErrDeadlineExceeded: that is a deadline of an open lane.
func (e *addressError) Unwrap() error {
	if e.silent() {
		return context.DeadlineExceeded
	}
	return e.err
}

// causes are several errors in one line.
type causes []error

func (c causes) Error() string {
	var b []byte
	for i, err := range c {
		if i > 0 {
			b = append(b, "; "...)
		}
		b = append(b, err.Error()...)
	}
	return string(b)
}

func (c causes) Unwrap() []error { return c }
