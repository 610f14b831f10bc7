package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/migpipe/migpipe/codec/codectest"
	"github.com/migpipe/migpipe/transport"
)

// blockSize is the size of a write and of a read of the bare ways, as for a lane's chunks.
const blockSize = 1 << 20

// block is the content that they move: incompressible bytes.
var block = sync.OnceValue(func() []byte {
	b := make([]byte, blockSize)
	codectest.Random(b, 1)
	return b
})

// stream is one connection, from its writer to its reader. end ends the writing, and keeps the
// connection open: a TCP connection that is closed with unread bytes loses the bytes in flight.
type stream struct {
	w   io.Writer
	end func() error
	r   io.Reader
}

// warming is how many bytes go over the streams before the measurement. The windows of a
// migration's lanes are open, too, when its guest is paused.
const warming = 32 << 20

// flow warms the streams, moves size bytes over all of them together, and measures that.
func flow(streams []stream, size int64, m *meter) error {
	block()
	errs := both(streams, warming, func(s stream, n int64) error { return fill(s.w, n) },
		func(s stream, n int64) error { return drain(s.r, n) })
	m.start()
	errs = append(errs, both(streams, size, func(s stream, n int64) error { return errors.Join(fill(s.w, n), s.end()) },
		func(s stream, n int64) error { return end(s.r, n) })...)
	m.finish(0)
	m.stop()
	return errors.Join(errs...)
}

// both writes and reads n bytes at the same time, an equal share on each stream.
func both(streams []stream, n int64, write func(stream, int64) error, read func(stream, int64) error) []error {
	var all sync.WaitGroup
	errs := make([]error, 2*len(streams))
	for i, s := range streams {
		share := n / int64(len(streams))
		if i == 0 {
			share += n % int64(len(streams))
		}
		all.Go(func() { errs[2*i] = write(s, share) })
		all.Go(func() { errs[2*i+1] = read(s, share) })
	}
	all.Wait()
	return errs
}

// fill writes n bytes.
func fill(w io.Writer, n int64) error {
	for n > 0 {
		m, err := w.Write(block()[:min(blockSize, n)])
		if err != nil {
			return err
		}
		n -= int64(m)
	}
	return nil
}

// drain reads n bytes. io.Discard would read 8 KiB at a time.
func drain(r io.Reader, n int64) error {
	b := make([]byte, blockSize)
	for n > 0 {
		m, err := r.Read(b[:min(blockSize, n)])
		if n -= int64(m); err != nil && n > 0 {
			return fmt.Errorf("%d bytes before the end: %w", n, err)
		}
	}
	return nil
}

// end reads n bytes and the end.
func end(r io.Reader, n int64) error {
	if err := drain(r, n); err != nil {
		return err
	}
	if m, err := r.Read(make([]byte, 1)); m > 0 || err != io.EOF {
		return fmt.Errorf("%d bytes behind the end: %v", m, err)
	}
	return nil
}

// quicStreams are that many connections of quic-go with one stream each. Without gro,
// everything is quic-go's default. With gro the windows are those of lanes too: the best that
// quic-go does under a lane.
func quicStreams(conns int, gro bool) func(context.Context, int64, *meter) error {
	return func(ctx context.Context, size int64, m *meter) (err error) {
		config, wrap := &quic.Config{}, func(c net.PacketConn) net.PacketConn { return c }
		if gro {
			wrap = transport.WithGRO
			config.InitialStreamReceiveWindow, config.MaxStreamReceiveWindow = transport.InitialWindow, transport.MaxWindow
			config.InitialConnectionReceiveWindow, config.MaxConnectionReceiveWindow = transport.InitialWindow, transport.MaxWindow
		}
		var streams []stream
		for range conns {
			s, release, err := quicStream(ctx, config, wrap)
			defer release()
			if err != nil {
				return err
			}
			streams = append(streams, s)
		}
		return flow(streams, size, m)
	}
}

// quicStream connects one stream. release is never nil.
func quicStream(ctx context.Context, config *quic.Config, wrap func(net.PacketConn) net.PacketConn) (s stream, release func(), err error) {
	var ends []io.Closer
	release = func() {
		for i := len(ends) - 1; i >= 0; i-- {
			ends[i].Close() // what was to be moved has been, or the error is another
		}
	}
	var transports [2]*quic.Transport
	for i := range transports {
		socket, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			return s, release, err
		}
		transports[i] = &quic.Transport{Conn: wrap(socket)}
		ends = append(ends, socket, transports[i])
	}
	server, client, err := tlsConfigs()
	if err != nil {
		return s, release, err
	}
	l, err := transports[0].Listen(server, config)
	if err != nil {
		return s, release, err
	}
	ends = append(ends, l)
	conn, err := transports[1].Dial(ctx, l.Addr(), client, config)
	if err != nil {
		return s, release, err
	}
	there, err := l.Accept(ctx)
	if err != nil {
		return s, release, err
	}
	s, err = openStream(ctx, conn, there)
	return s, release, err
}

// openStream opens a stream and lets its reader see it.
func openStream(ctx context.Context, from, to *quic.Conn) (s stream, err error) {
	w, err := from.OpenUniStream()
	if err != nil {
		return s, err
	}
	if _, err := w.Write([]byte{0}); err != nil {
		return s, err
	}
	r, err := to.AcceptUniStream(ctx)
	if err != nil {
		return s, err
	}
	_, err = io.ReadFull(r, make([]byte, 1))
	return stream{w, w.Close, r}, err
}

// tcpStreams are that many TCP connections, with or without TLS.
func tcpStreams(conns int, secure bool) func(context.Context, int64, *meter) error {
	return func(ctx context.Context, size int64, m *meter) error {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer l.Close()
		var streams []stream
		for range conns {
			w, err := (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
			if err != nil {
				return err
			}
			defer w.Close()
			r, err := l.Accept()
			if err != nil {
				return err
			}
			defer r.Close()
			s := stream{w, w.(*net.TCPConn).CloseWrite, r}
			if secure {
				if s, err = secured(ctx, w, r); err != nil {
					return err
				}
			}
			streams = append(streams, s)
		}
		return flow(streams, size, m)
	}
}

// secured puts TLS 1.3 over both ends.
func secured(ctx context.Context, w, r net.Conn) (stream, error) {
	server, client, err := tlsConfigs()
	if err != nil {
		return stream{}, err
	}
	dialled, accepted := tls.Client(w, client), tls.Server(r, server)
	done := make(chan error, 1)
	go func() { done <- accepted.HandshakeContext(ctx) }() // ends with the handshake
	err = dialled.HandshakeContext(ctx)
	if err != nil {
		err = errors.Join(err, w.Close()) // which ends the other one too
	}
	return stream{dialled, dialled.CloseWrite, accepted}, errors.Join(err, <-done)
}

// tlsConfigs encrypt without verification: the benchmark does not measure handshakes.
func tlsConfigs() (server, client *tls.Config, err error) {
	certificate, err := selfSigned()
	if err != nil {
		return nil, nil, err
	}
	protocols := []string{"bare"}
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{certificate}, NextProtos: protocols},
		&tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, NextProtos: protocols}, nil
}

func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
