package chaos

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/file"
)

// driver is a hostile source with the right key.
type driver struct {
	*cluster
	dialer  transport.Dialer
	attempt migration.Attempt
	lane    transport.Lane // control
	control *wire.Control
	data    transport.Lane
	arena   *wire.Arena
	welcome *wire.Welcome
}

// newDriver returns a source of one file device that has sent nothing yet. The
// destination writes the device into a file.
func newDriver(w *cluster) *driver {
	w.t.Helper()
	id, err := transport.LoadIdentity(source.key())
	if err != nil {
		w.t.Fatal(err)
	}
	arena, err := wire.NewArena(0, 4096, 1)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { arena.Close() })
	peer, err := transport.ParsePeerID(shared.ids[destination])
	if err != nil {
		w.t.Fatal(err)
	}
	w.mig = migration.NewID()
	return &driver{cluster: w, arena: arena, attempt: migration.Attempt{Mig: w.mig, Epoch: 2},
		dialer: &transport.QUICDialer{Addr: w.relay.Addr(), Credentials: transport.Pinned{Identity: id, Peers: []transport.PeerID{peer}}}}
}

func (p *driver) dial(kind wire.LaneKind) transport.Lane {
	p.t.Helper()
	lane, err := p.dialer.Dial(p.t.Context())
	if err == nil {
		err = wire.WritePreamble(lane, wire.Preamble{Kind: kind, Mig: p.attempt.Mig, Epoch: p.attempt.Epoch})
	}
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { lane.Close() })
	return lane
}

func (p *driver) hello() *wire.Hello {
	p.t.Helper()
	path := filepath.Join(p.dir, "played.state")
	err := os.WriteFile(path, make([]byte, 100), 0o600)
	var d vfio.Device
	if err == nil {
		d, err = file.NewSource(path)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	defer d.Close()
	info := vfio.Describe(d)
	return &wire.Hello{
		Attempt: p.attempt, Versions: wire.Versions{Min: wire.Version, Max: wire.Version}, Journal: migration.NewJournalID(),
		ChunkSize: 4096, Lanes: 1, Codecs: []codec.ID{codec.IDRaw},
		Devices: []wire.DeviceOffer{{Name: "d", Driver: info.Driver, Format: info.Format, Flags: d.Features().MigrationFlags()}},
	}
}

// greet opens the control lane and says HELLO.
func (p *driver) greet(change func(*wire.Hello)) {
	p.t.Helper()
	p.lane = p.dial(wire.LaneControl)
	p.control = wire.NewControl(p.lane)
	m := p.hello()
	if change != nil {
		change(m)
	}
	p.control.Send(m)
}

// open makes the destination receive.
func (p *driver) open() {
	p.t.Helper()
	p.greet(nil)
	m := p.receive()
	w, ok := m.(*wire.Welcome)
	if !ok {
		p.t.Fatalf("HELLO was answered by %+v", m)
	}
	p.welcome, p.data = w, p.dial(wire.LaneData)
}

// receive gives the next message but ACK, nil at the end.
func (p *driver) receive() wire.Message {
	for {
		m, err := p.control.Receive()
		if err != nil {
			return nil
		}
		if m.Type() != wire.TypeAck {
			return m
		}
	}
}

// declined waits for the refusal, which has to name a reason.
func (p *driver) declined(code transport.Code) {
	p.t.Helper()
	for m := p.receive(); m != nil; m = p.receive() {
		if d, ok := m.(*wire.Declined); ok {
			if d.Code != code {
				p.t.Errorf("declined with %v %q, want %v", d.Code, d.Text, code)
			}
			return
		}
	}
	p.t.Error("the destination has hung up without DECLINED")
}

// chunk sends a chunk of 100 bytes after change has edited it.
func (p *driver) chunk(seq, offset uint64, change func(*wire.Chunk)) wire.ChunkHead {
	c, err := p.arena.TryGet()
	if err != nil {
		p.t.Fatal(err)
	}
	defer c.Release()
	c.ReadRaw(bytes.NewReader(make([]byte, 100)), 100)
	c.Seal(0, seq, offset)
	if change != nil {
		change(c)
	}
	c.WriteFrame(p.data)
	return c.ChunkHead
}

// truncated sends less than END says.
func truncated(w *cluster) {
	p := newDriver(w)
	p.open()
	p.chunk(0, 0, nil)
	p.data.CloseWrite()
	p.control.Send(&wire.End{Attempt: p.attempt, Bytes: 200, Chunks: 2})
	p.declined(transport.CodeIncomplete)
}

// hostileFrame sends a chunk that no source may send.
func hostileFrame(change func(*wire.Chunk)) func(*cluster) {
	return func(w *cluster) {
		p := newDriver(w)
		p.open()
		p.chunk(0, 0, change)
		p.declined(transport.CodeProtocol)
	}
}

// overlapping sends a chunk that begins within the one before.
func overlapping(w *cluster) {
	p := newDriver(w)
	p.open()
	p.chunk(0, 0, nil)
	p.chunk(1, 99, nil)
	p.declined(transport.CodeProtocol)
}

// longMessage announces a control message of one byte too many.
func longMessage(w *cluster) {
	p := newDriver(w)
	p.open()
	var head [12]byte
	binary.BigEndian.PutUint32(head[:], wire.MaxControl+1)
	p.lane.Write(head[:])
	p.declined(transport.CodeProtocol)
}

// wrongState sends COMMIT before there is a copy.
func wrongState(w *cluster) {
	p := newDriver(w)
	p.open()
	p.control.Send(&wire.Commit{Attempt: p.attempt, Journal: p.welcome.Journal})
	p.declined(transport.CodeProtocol)
}

// otherVersion speaks protocol versions that do not exist yet.
func otherVersion(w *cluster) {
	p := newDriver(w)
	p.greet(func(m *wire.Hello) { m.Versions = wire.Versions{Min: 8, Max: 9} })
	p.declined(transport.CodeVersion)
}

// replay sends COMMIT of an older attempt to a destination that is READY.
func replay(w *cluster) {
	p := newDriver(w)
	p.open()
	sum := wire.NewDigest()
	sum.Add(p.chunk(0, 0, nil))
	p.control.Send(&wire.End{Attempt: p.attempt, Bytes: 100, Chunks: 1, Digest: sum.Sum()})
	p.data.CloseWrite()
	ready, ok := p.receive().(*wire.Ready)
	if !ok {
		p.t.Fatal("no READY")
	}
	old := migration.Attempt{Mig: p.attempt.Mig, Epoch: p.attempt.Epoch - 1}
	p.control.Send(&wire.Commit{Attempt: old, Journal: ready.Journal, Digest: ready.Digest})
	m := p.receive()
	if d, ok := m.(*wire.Declined); !ok || d.Attempt != old {
		p.t.Errorf("COMMIT of an old attempt was answered by %+v", m)
	}
	p.control.Send(&wire.Query{Attempt: p.attempt})
	m = p.receive()
	if s, ok := m.(*wire.Status); !ok || s.Record != handoff.Ready.String() {
		p.t.Errorf("after that the destination is not READY but %+v", m)
	}
	p.control.Send(&wire.Abort{Attempt: p.attempt, Code: transport.CodeCancelled})
	p.declined(transport.CodeCancelled)
}

// withoutCertificate dials as a TLS client without a certificate. The client's handshake is
// complete before the destination has checked it.
func withoutCertificate(w *cluster) {
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
	defer cancel()
	conn, err := quic.DialAddr(ctx, w.relay.Addr(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{transport.ALPN}}, nil)
	if err == nil {
		_, err = conn.AcceptStream(ctx)
		conn.CloseWithError(0, "")
	}
	if refused, ok := errors.AsType[*quic.TransportError](err); !ok || !refused.Remote {
		w.t.Errorf("without a certificate: %v, want the destination's refusal", err)
	}
}
