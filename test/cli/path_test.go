package cli

import (
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/migpipe/migpipe/test/netns"
)

// These tests have a path between the two programs, in network namespaces: an MTU, dead
// addresses, links.

// twoHosts are the programs on two hosts.
type twoHosts struct {
	*netns.Network
	t          *testing.T
	send, recv string // their identities
	files      string // the directory of the files that names makes
}

func newTwoHosts(t *testing.T) *twoHosts {
	t.Helper()
	n := netns.New(t)
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	return &twoHosts{Network: n, t: t, send: identity(t, "mig-send"), recv: identity(t, "mig-recv")}
}

// listen starts mig-recv for one migration on a host, and returns its address.
func (h *twoHosts) listen(on netns.Host, address, device string) (*exec.Cmd, string) {
	h.t.Helper()
	recv := command(h.t, "mig-recv", "--json", "--listen", address, "--peer", h.send, "--device", "d="+device)
	if h.files != "" {
		recv = h.named(recv)
	}
	recv = on.Enter(recv)
	return recv, listen(h.t, recv)
}

// names makes these lines of /etc/hosts the only names of both programs: no nameserver answers.
func (h *twoHosts) names(lines ...string) {
	dir := h.t.TempDir()
	writeFile(h.t, filepath.Join(dir, "hosts"), []byte(strings.Join(lines, "\n")+"\n"))
	writeFile(h.t, filepath.Join(dir, "resolv.conf"), []byte("nameserver 127.0.0.1\n"))
	h.files = dir
}

// named gives a program the files of names as its /etc: a machine may have no /etc/hosts.
func (h *twoHosts) named(cmd *exec.Cmd) *exec.Cmd {
	const script = `mount --bind "$0" /etc; exec "$@"`
	cmd.Args = append([]string{"sh", "-ec", script, h.files, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
	return cmd
}

// otherDevices is the hint of a source that has reached a destination with other devices.
const otherDevices = "hint: give the same names to --device"

// asks runs mig-send on the source against a destination with other devices, and returns its stderr.
func (h *twoHosts) asks(to string, args ...string) string {
	send := command(h.t, "mig-send", append(args, "--dry-run", "--to", to, "--peer", h.recv, "--device", "other=sim:mtty")...)
	send.Stderr = nil
	if h.files != "" {
		send = h.named(send)
	}
	out, err := h.Source.Enter(send).CombinedOutput()
	if err == nil {
		h.t.Errorf("%s: a destination with other devices is pleased", to)
	}
	return string(out)
}

// moves runs one migration to the end.
func (h *twoHosts) moves(on netns.Host, listen, to string) {
	h.t.Helper()
	recv, _ := h.listen(on, listen, "sim:mlx5")
	send := command(h.t, "mig-send", "-q", "--to", to, "--peer", h.recv, "--device", "d=sim:mlx5?size=16MiB")
	if err := h.Source.Enter(send).Run(); err != nil {
		h.t.Errorf("mig-send --to %s: %v", to, err)
		recv.Process.Kill()
	}
	if err := recv.Wait(); err != nil {
		h.t.Errorf("mig-recv: %v", err)
	}
}

// needPacketFilter skips a test where a router can neither count nor drop packets.
func needPacketFilter(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("SKIP: there is no nft(8), which counts and drops packets: apt-get install nftables")
	}
}

// TestPathMTU: QUIC connects over a path that carries UDP payloads of 1200 bytes (RFC 9000,
// section 14), and grows its packets to the size that the path allows.
func TestPathMTU(t *testing.T) {
	h := newTwoHosts(t)
	needPacketFilter(t)
	h.Router.Run(t, "nft", "add table inet count; add chain inet count forward { type filter hook forward priority 0; }")
	for _, c := range []struct {
		mtu     int
		address string
		headers int // of IP and UDP
	}{{1307, h.Destination.IPv4, 28}, {1500, h.Destination.IPv6, 48}} {
		h.SetMTU(t, c.mtu)
		// quic-go's packets have at most 1452 bytes, and its search stops 20 bytes below the limit.
		most := min(c.mtu-c.headers, 1452)
		h.Router.Run(t, "nft", fmt.Sprintf("flush chain inet count forward; add rule inet count forward udp length %d-%d counter", most-21+8, most+8))
		at := net.JoinHostPort(c.address, "7000")
		h.moves(h.Destination, at, at)
		m := regexp.MustCompile(`packets (\d+)`).FindStringSubmatch(h.Router.Run(t, "nft", "list chain inet count forward"))
		if m == nil {
			t.Fatal("nft has no counter")
		}
		if n, _ := strconv.Atoi(m[1]); n < 30 {
			t.Errorf("MTU %d to %s: %d packets were as long as the path takes, want more than probes", c.mtu, at, n)
		}
	}
	h.listen(h.Destination, "[::]:7000", "sim:mtty") // ends with the test
	for mtu, address := range map[int]string{1228: h.Destination.IPv4, 1280: h.Destination.IPv6} {
		h.SetMTU(t, mtu)
		contains(t, h.asks(net.JoinHostPort(address, "7000")), otherDevices)
	}
}

// TestPathTooNarrow: if QUIC's packets do not pass, the error names that, and TLS uses the
// path.
func TestPathTooNarrow(t *testing.T) {
	h := newTwoHosts(t)
	h.SetMTU(t, 1227)
	at := net.JoinHostPort(h.Destination.IPv4, "7000")
	h.listen(h.Destination, "auto:"+at, "sim:mtty") // ends with the test
	contains(t, h.asks(at, "--connect-for", "1s"),
		at+": the path's MTU is 1227 bytes, and QUIC needs 1228", "hint: raise the MTU of the path; or use TLS")
	for _, carrier := range []string{"tls://", "auto:"} {
		contains(t, h.asks(carrier+at), otherDevices)
	}
}

// TestPathNames: a name leads to the address that answers, over both carriers and in both
// families. An error names the fault of a name.
func TestPathNames(t *testing.T) {
	h := newTwoHosts(t)
	h.names("10.77.2.8 two-dead", "10.77.2.9 two-dead", h.Destination.IPv4+" two-dead",
		"fd77:2::8 only4", h.Destination.IPv4+" only4",
		"10.77.2.8 only6", h.Destination.IPv6+" only6",
		"10.77.2.8 none", "fd77:2::8 none")
	h.listen(h.Destination, "auto:[::]:7000", "sim:mtty") // ends with the test
	for _, carrier := range []string{"", "tls://"} {
		for _, name := range []string{"two-dead", "only4", "only6"} {
			contains(t, h.asks(carrier+name+":7000"), otherDevices)
		}
		contains(t, h.asks(carrier+"none:7000", "--connect-for", "1s"),
			"10.77.2.8:7000: ", "[fd77:2::8]:7000: ", "hint: is mig-recv listening at "+carrier+"none:7000")
		contains(t, h.asks(carrier+"other:7000"), "the resolver gave no answer: ", "hint: see whether the nameservers")
	}
}

// TestPathZone: an address of a link, which needs its zone, works over both carriers and at
// both sides.
func TestPathZone(t *testing.T) {
	h := newTwoHosts(t)
	// Without a zone the kernel chooses the link whose route comes first.
	h.Source.Run(t, "sh", "-ec", "ip link add other type veth peer name dead; ip link set other up; ip -6 route add fe80::/64 dev other metric 1")
	to, _, _ := strings.Cut(h.Router.LinkLocal, "%")
	to = net.JoinHostPort(to+"%"+netns.Interface, "7000")
	at := net.JoinHostPort(h.Router.LinkLocal, "7000")
	for _, carrier := range []string{"", "tls://"} {
		if _, got := h.listen(h.Router, carrier+at, "sim:mtty"); got != carrier+at { // ends with the test
			t.Errorf("mig-recv --listen %s says that it listens at %s", carrier+at, got)
		}
		contains(t, h.asks(carrier+to), otherDevices)
		contains(t, h.asks(carrier+"[fe80::fe%none9]:7000"), "zone none9: no such device")
	}
	at = net.JoinHostPort(h.Router.LinkLocal, "9100")
	recv := command(t, "mig-recv", "--json", "--metrics", at, "--listen", "unix:"+filepath.Join(t.TempDir(), "sock"), "--device", "d=sim:mtty")
	if got := listen(t, h.Router.Enter(recv)); got != at { // what comes first
		t.Errorf("mig-recv --metrics %s says that it listens at %s", at, got)
	}
}

// TestPathListenName: a destination listens at the one address of a name that its host has.
func TestPathListenName(t *testing.T) {
	h := newTwoHosts(t)
	h.names("10.77.2.8 here", h.Destination.IPv4+" here")
	for i, carrier := range []string{"", "tls://", "auto:"} {
		port := fmt.Sprint(7000 + i)
		if _, at := h.listen(h.Destination, carrier+"here:"+port, "sim:mtty"); at != carrier+net.JoinHostPort(h.Destination.IPv4, port) {
			t.Errorf("%shere: mig-recv listens at %s", carrier, at)
		}
	}
}
