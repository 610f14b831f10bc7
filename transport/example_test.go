package transport_test

import (
	"context"
	"fmt"
	"io"
	"net"

	"github.com/migpipe/migpipe/transport"
)

// Each side has a key, and names the other one by its identity, as SSH does.
func ExampleListenQUIC() {
	source, err := transport.NewIdentity() // LoadIdentity keeps it in a file
	if err != nil {
		panic(err)
	}
	destination, err := transport.NewIdentity()
	if err != nil {
		panic(err)
	}
	listener, err := transport.ListenQUIC("127.0.0.1:0", transport.Pinned{Identity: destination, Peers: []transport.PeerID{source.ID()}}, nil)
	if err != nil {
		panic(err)
	}
	defer listener.Close()

	dialer := &transport.QUICDialer{
		Addr:        listener.Addr().String(),
		Credentials: transport.Pinned{Identity: source, Peers: []transport.PeerID{destination.ID()}},
	}
	lane, err := dialer.Dial(context.Background())
	if err != nil {
		panic(err)
	}
	lane.Write([]byte("hello"))
	lane.CloseWrite()
	accepted, err := listener.Accept(context.Background())
	if err != nil {
		panic(err)
	}
	text, err := io.ReadAll(accepted)
	accepted.CloseWrite()
	fmt.Printf("%s %v, from the source: %v\n", text, err, transport.PeerOf(accepted) == source.ID())
	lane.Close()
	accepted.Close()
	// Output: hello <nil>, from the source: true
}

// A carrier is a Dialer and a Listener. This one runs over TCP without a key: it is for a
// network that keeps strangers out itself.
func ExampleDialer() {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	listener := plainListener{tcp}
	defer listener.Close()
	var dialer transport.Dialer = plainDialer{tcp.Addr().String()}

	lane, err := dialer.Dial(context.Background())
	if err != nil {
		panic(err)
	}
	defer lane.Close()
	accepted, err := listener.Accept(context.Background())
	if err != nil {
		panic(err)
	}
	defer accepted.Close()
	lane.Write([]byte("hello"))
	lane.CloseWrite()
	text, err := io.ReadAll(accepted)
	fmt.Printf("%s %v\n", text, err)
	// Output: hello <nil>
}

type plainDialer struct{ addr string }

func (d plainDialer) Dial(ctx context.Context) (transport.Lane, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", d.addr)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", transport.ErrUnreachable, err)
	}
	return conn.(*net.TCPConn), nil
}

type plainListener struct{ net.Listener }

func (l plainListener) Accept(ctx context.Context) (transport.Lane, error) {
	stop := context.AfterFunc(ctx, func() { l.Listener.Close() })
	defer stop()
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}
