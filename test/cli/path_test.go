package cli

import (
	"bytes"
	"fmt"
	"net"
	"os/exec"
	"regexp"
	"strconv"
	"testing"

	"github.com/migpipe/migpipe/test/netns"
)

// The tests here have a path between the two programs, in network namespaces: an MTU, dead
// addresses, links.

// twoHosts are the programs on two hosts.
type twoHosts struct {
	*netns.Network
	t          *testing.T
	send, recv string // their identities
}

func newTwoHosts(t *testing.T) *twoHosts {
	t.Helper()
	n := netns.New(t)
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	return &twoHosts{n, t, identity(t, "mig-send"), identity(t, "mig-recv")}
}

// listen has mig-recv await one migration on a host, and gives its address.
func (h *twoHosts) listen(on netns.Host, address string) (*exec.Cmd, string) {
	h.t.Helper()
	recv := on.Enter(command(h.t, "mig-recv", "--json", "--listen", address, "--peer", h.send, "--device", "d=sim:mlx5"))
	return recv, listen(h.t, recv)
}

// from is a mig-send on the source.
func (h *twoHosts) from(to string, args ...string) *exec.Cmd {
	args = append([]string{"-q", "--to", to, "--peer", h.recv, "--device", "d=sim:mlx5?size=16MiB"}, args...)
	return h.Source.Enter(command(h.t, "mig-send", args...))
}

// moves runs one migration to the end.
func (h *twoHosts) moves(on netns.Host, listen, to string) {
	h.t.Helper()
	recv, _ := h.listen(on, listen)
	if err := h.from(to).Run(); err != nil {
		h.t.Errorf("mig-send --to %s: %v", to, err)
		recv.Process.Kill()
	}
	if err := recv.Wait(); err != nil {
		h.t.Errorf("mig-recv: %v", err)
	}
}

// TestPathMTU: QUIC connects where a path carries UDP payloads of 1200 bytes (RFC 9000,
// section 14), and grows its packets to what the path has.
func TestPathMTU(t *testing.T) {
	h := newTwoHosts(t)
	h.Router.Run(t, "nft", "add table inet count; add chain inet count forward { type filter hook forward priority 0; }")
	for _, c := range []struct {
		mtu     int
		address string
		headers int // of IP and UDP
	}{
		{1228, h.Destination.IPv4, 28},
		{1307, h.Destination.IPv4, 28},
		{1500, h.Destination.IPv4, 28},
		{1280, h.Destination.IPv6, 48},
	} {
		t.Run(fmt.Sprintf("%d-%s", c.mtu, c.address), func(t *testing.T) {
			h.t = t
			h.SetMTU(t, c.mtu)
			// quic-go's packets have at most 1452 bytes, and it stops 20 below what fits.
			most := min(c.mtu-c.headers, 1452)
			h.Router.Run(t, "nft", fmt.Sprintf("flush chain inet count forward; add rule inet count forward udp length %d-%d counter", max(1200, most-21)+8, most+8))
			at := net.JoinHostPort(c.address, "7000")
			h.moves(h.Destination, at, at)
			m := regexp.MustCompile(`packets (\d+)`).FindStringSubmatch(h.Router.Run(t, "nft", "list chain inet count forward"))
			if m == nil {
				t.Fatal("nft has no counter")
			}
			if n, _ := strconv.Atoi(m[1]); n < 30 {
				t.Errorf("%d packets were as long as the path takes, want more than probes", n)
			}
		})
	}
}

// TestPathTooNarrow: where QUIC's packets do not pass, that is what the error says, and TLS
// takes the path.
func TestPathTooNarrow(t *testing.T) {
	h := newTwoHosts(t)
	h.SetMTU(t, 1227)
	at := net.JoinHostPort(h.Destination.IPv4, "7000")
	recv, _ := h.listen(h.Destination, "auto:"+at)
	send := h.from(at, "--connect-limit", "1s")
	var stderr bytes.Buffer
	send.Stderr = &stderr
	if err := send.Run(); err == nil {
		t.Error("QUIC took a path that is too narrow")
	}
	contains(t, stderr.String(), at+": the path's MTU is 1227 bytes, and QUIC needs 1228", "hint: raise the MTU of the path; or use TLS")
	if err := h.from("auto:" + at).Run(); err != nil {
		t.Errorf("auto: %v", err)
	}
	if err := recv.Wait(); err != nil {
		t.Errorf("mig-recv: %v", err)
	}
}
