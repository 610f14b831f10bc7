package transport

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"
)

// ListenOptions tunes a listener of any carrier between hosts. Nil, or a zero field, means the default.
type ListenOptions struct {
	// Refused is called for every refused peer, with a [WrongPeerError] or a [CertificateError]
	// if the peer showed a key. Several goroutines may call it at once, at any rate: a stranger
	// can try as often as it likes. Default: no call.
	Refused func(error)
	// Idle is as in the carrier's dialler.
	Idle time.Duration
}

// acceptGate is common to the listeners between hosts. It refuses connections above the limits,
// and holds lanes until Accept returns them.
type acceptGate struct {
	refused  func(error)
	idle     time.Duration
	callers  *rateLimit
	halfOpen halfOpen
	lanes    chan Lane
	closing  chan struct{} // is closed by shut
	serving  sync.WaitGroup
	close    sync.Once
}

func (o *ListenOptions) withDefaults() ListenOptions {
	v := *cmp.Or(o, new(ListenOptions))
	if v.Refused == nil {
		v.Refused = func(error) {}
	}
	return v
}

// newAcceptGate makes the acceptGate of a listener with these options.
func newAcceptGate(opts *ListenOptions) *acceptGate {
	o := opts.withDefaults()
	return &acceptGate{refused: o.Refused, idle: o.Idle, callers: newRateLimit(), lanes: make(chan Lane), closing: make(chan struct{})}
}

// config is a TLS configuration that reports refused peers. Each connection uses the present
// content of the files of the credentials.
func (d *acceptGate) config(c Credentials) (*tls.Config, error) {
	config, err := d.configNow(c)
	if err == nil {
		config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return d.configNow(c) }
	}
	return config, err
}

func (d *acceptGate) configNow(c Credentials) (*tls.Config, error) {
	config, err := tlsConfig(c.renew(), RoleDestination)
	if err != nil {
		return nil, err
	}
	config.VerifyConnection = nil // judge does it
	return config, nil
}

// judge returns why the client of a connection is refused. It runs after the handshake, and before
// any byte of the client is read: an alert of TLS cannot carry the reason, and the connection can.
// TLS has proved by then that the client holds the key of its certificate.
func (d *acceptGate) judge(c Credentials, s tls.ConnectionState) error {
	err := verifyPeer(c.renew(), s, RoleSource)
	if err != nil {
		d.refused(err)
	}
	return err
}

// maxReason is the longest reason of a refusal, in bytes: QUIC's close frame, which has it, has
// to fit in one packet (RFC 9000, section 10.2).
const maxReason = 1000

// refusal is the text for the client, in one line.
func refusal(err error) string {
	text := strings.ToValidUTF8(toldRefused(err), "?")
	return strings.ToValidUTF8(text[:min(len(text), maxReason)], "")
}

// enter gives a connection a place in the table of half-open ones, until leave, or reports why
// there is none: see [halfOpen.enter].
func (d *acceptGate) enter(ctx context.Context, from net.Addr, proven bool) (within context.Context, p *place, err error) {
	if d.callers.admit(from) {
		within, p, err = d.halfOpen.enter(ctx, from, proven)
	} else {
		err = fmt.Errorf("transport: more than %d connections at once, and %d a second after that, from %v", ConnBurst, ConnRate, from)
	}
	if err != nil {
		d.refused(err)
	}
	return within, p, err
}

// refusedBy reports a peer that does not want this side's identity.
func (d *acceptGate) refusedBy(from net.Addr, cause error) {
	d.refused(fmt.Errorf("the client at %v: %w", from, &carrierError{kind: ErrRefusedByPeer, cause: cause}))
}

// Accept implements [Listener].
func (d *acceptGate) Accept(ctx context.Context) (Lane, error) {
	select {
	case lane := <-d.lanes:
		return lane, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("transport: accept: %w", context.Cause(ctx))
	case <-d.closing:
		return nil, fmt.Errorf("transport: accept: %w", net.ErrClosed)
	}
}

// shut ends, once, the handshakes in progress and the lanes that were not accepted. refuse ends the
// source of new connections, and release comes last.
func (d *acceptGate) shut(refuse, release func()) {
	d.close.Do(func() {
		close(d.closing)
		refuse() // first: QUIC refuses no peer whose connection's context has ended
		d.halfOpen.shut()
		d.serving.Wait()
		release()
	})
}
