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
	// Refused is told of every peer that was turned away, with a [WrongPeerError] or a
	// [CertificateError] where the peer showed a key; it may be called by several
	// goroutines at once, as often as somebody tries. Default: nobody is told.
	Refused func(error)
	// Idle is as in the carrier's dialler.
	Idle time.Duration
}

// door is what the listeners between hosts have in common: it keeps out who is too many,
// and has those wait whose lane nobody has accepted yet.
type door struct {
	refused  func(error)
	idle     time.Duration
	callers  *callers
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

// newDoor makes the door of a listener that was given these options.
func newDoor(opts *ListenOptions) *door {
	o := opts.withDefaults()
	return &door{refused: o.Refused, idle: o.Idle, callers: newCallers(), lanes: make(chan Lane), closing: make(chan struct{})}
}

// config is that of a side that hears of whom it has refused. Each connection is accepted
// with what the files of the credentials say then.
func (d *door) config(c Credentials) (*tls.Config, error) {
	config, err := d.configNow(c)
	if err == nil {
		config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return d.configNow(c) }
	}
	return config, err
}

func (d *door) configNow(c Credentials) (*tls.Config, error) {
	config, err := tlsConfig(c.renew(), RoleRecv)
	if err != nil {
		return nil, err
	}
	config.VerifyConnection = nil // judge does it
	return config, nil
}

// judge says why the client of a connection is not let in. It comes when the handshake is
// done, and before anything is read of what the client says: an alert of TLS has no words
// for the reason, and the connection has. TLS has seen by then that the client holds the key
// of the certificate that it showed.
func (d *door) judge(c Credentials, s tls.ConnectionState) error {
	err := verifyPeer(c.renew(), s, RoleSend)
	if err != nil {
		d.refused(err)
	}
	return err
}

// maxReason is the longest reason of a refusal, in bytes: QUIC's close frame, which has it, has
// to fit in one packet (RFC 9000, section 10.2).
const maxReason = 1000

// refusal is what this side tells the client, in one line.
func refusal(err error) string {
	text := strings.ToValidUTF8(toldRefused(err), "?")
	return strings.ToValidUTF8(text[:min(len(text), maxReason)], "")
}

// enter gives a connection a place in the table of half-open ones, until leave, or reports why
// there is none: see [halfOpen.enter].
func (d *door) enter(ctx context.Context, from net.Addr, proven bool) (within context.Context, p *place, err error) {
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
func (d *door) refusedBy(from net.Addr, cause error) {
	d.refused(fmt.Errorf("the client at %v: %w", from, &carrierError{kind: ErrRefusedByPeer, cause: cause}))
}

// Accept implements [Listener].
func (d *door) Accept(ctx context.Context) (Lane, error) {
	select {
	case lane := <-d.lanes:
		return lane, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("transport: accept: %w", context.Cause(ctx))
	case <-d.closing:
		return nil, fmt.Errorf("transport: accept: %w", net.ErrClosed)
	}
}

// shut ends, once, the handshakes under way and the lanes that nobody has accepted: refuse
// ends what hands out new connections, and release comes last.
func (d *door) shut(refuse, release func()) {
	d.close.Do(func() {
		close(d.closing)
		refuse() // first: QUIC refuses no peer whose connection's context has ended
		d.halfOpen.shut()
		d.serving.Wait()
		release()
	})
}
