package cli

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/migpipe/migpipe/transport"
)

// strangersMost is the limit for the memory of all strangers, in bytes.
const strangersMost = 32 << 20

// TestStrangersMemory: 1,000 QUIC connections of strangers cost mig-recv little memory.
// Every second one sends nothing after its first message.
func TestStrangersMemory(t *testing.T) {
	if raceEnabled() {
		t.Skip("the race detector keeps a shadow of the memory")
	}
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	d := startDestination(t, "", identity(t, "mig-recv"))
	before := peakOf(t, d.cmd)
	const strangers, atOnce = 1000, 50
	var wg sync.WaitGroup
	turns := make(chan int)
	for range atOnce {
		wg.Go(func() {
			for i := range turns {
				from := fmt.Sprintf("127.1.%d.%d", i/250, 1+i%250)
				stranger(t.Context(), from, d.address, i%2 == 1)
			}
		})
	}
	for i := range strangers {
		turns <- i
	}
	close(turns)
	wg.Wait()
	cost := peakOf(t, d.cmd) - before
	t.Logf("%d MiB before, %d KiB more", before>>20, cost>>10)
	if cost > strangersMost {
		t.Errorf("%d connections of strangers cost %d KiB, may cost %d", strangers, cost>>10, strangersMost>>10)
	}
}

// stranger opens a QUIC connection without a certificate and waits for its end, or sends
// nothing after its first message.
func stranger(ctx context.Context, from, to string, silent bool) {
	patience := 2 * time.Second
	if silent {
		patience = 50 * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	local, err := net.ListenPacket("udp4", from+":0")
	if err != nil {
		return
	}
	defer local.Close()
	peer, err := net.ResolveUDPAddr("udp4", to)
	if err != nil {
		return
	}
	conn, err := quic.Dial(ctx, &muted{PacketConn: local, mute: silent}, peer, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{transport.ALPN}}, &quic.Config{})
	if err != nil {
		return
	}
	conn.AcceptStream(ctx)
	conn.CloseWithError(0, "")
}

// muted is a socket that sends nothing after the first answer, if it is to be mute.
type muted struct {
	net.PacketConn
	mute     bool
	answered atomic.Bool
}

func (m *muted) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := m.PacketConn.ReadFrom(b)
	if retry := byte(0x30); n > 0 && b[0]&retry != retry { // the packet's type, RFC 9000, section 17.2
		m.answered.Store(true)
	}
	return n, from, err
}

func (m *muted) WriteTo(b []byte, to net.Addr) (int, error) {
	if m.mute && m.answered.Load() {
		return len(b), nil
	}
	return m.PacketConn.WriteTo(b, to)
}

// TestSilentCrowd: silent connections, as fast as each address may open them, keep no source
// out. Connections from four addresses replace one another. Those from ten leave a source no
// place most of the time, over either carrier, and the source tries again.
func TestSilentCrowd(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	for _, c := range []struct {
		prefix    string
		addresses int
	}{{"tls://", 4}, {"auto:", 10}} {
		t.Run(strings.TrimRight(c.prefix, ":/"), func(t *testing.T) {
			d := startDestination(t, c.prefix, identity(t, "mig-send"))
			ctx, cancel := context.WithCancel(t.Context())
			var crowd sync.WaitGroup
			defer crowd.Wait()
			defer cancel()
			full := make(chan struct{})
			for i := range c.addresses {
				crowd.Go(func() { silentCrowd(ctx, fmt.Sprintf("127.2.0.%d", 1+i), d.address, full) })
			}
			for range c.addresses {
				<-full
			}
			for range 2 {
				cmd := command(t, "mig-send", "--dry-run", "-q", "--to", c.prefix+d.address, "--device", "d=sim:mtty", "--peer", identity(t, "mig-recv"))
				if err := cmd.Run(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// silentCrowd opens connections from an address and sends nothing on them, until ctx ends. It
// reports on full when there have been more than may be half open.
func silentCrowd(ctx context.Context, from, to string, full chan<- struct{}) {
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	for n := 0; ctx.Err() == nil; n++ {
		if conn, err := dialer.DialContext(ctx, "tcp", to); err == nil {
			defer conn.Close()
		}
		if n < transport.ConnBurst {
			continue
		}
		select {
		case full <- struct{}{}:
		case <-time.After(time.Second / transport.ConnRate):
		case <-ctx.Done():
		}
	}
}

// destination is a waiting mig-recv.
type destination struct {
	cmd     *exec.Cmd
	address string
	events  *bufio.Scanner
}

// startDestination starts a destination for a peer, at a carrier's prefix.
func startDestination(t *testing.T, prefix, peer string, args ...string) *destination {
	t.Helper()
	cmd := command(t, "mig-recv", append([]string{"--listen", prefix + "127.0.0.1:0", "--json", "--memory", "1MiB", "--chunk-size", "4KiB",
		"--device", "d=sim:mtty", "--peer", peer}, args...)...)
	out := start(t, cmd)
	t.Cleanup(func() { cmd.Process.Signal(syscall.SIGTERM); cmd.Wait() })
	d := &destination{cmd: cmd, events: bufio.NewScanner(out)}
	var heard struct{ Address string }
	if err := json.Unmarshal([]byte(nextEvent(t, d.events, "listening")), &heard); err != nil {
		t.Fatal(err)
	}
	d.address = strings.TrimPrefix(heard.Address, prefix)
	return d
}

// peakOf is the peak memory of a running program.
func peakOf(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	var peak int
	if _, err := fmt.Sscanf(rowOf(string(status), "VmHWM:"), "%d kB", &peak); err != nil {
		t.Fatal(err)
	}
	return peak << 10
}
