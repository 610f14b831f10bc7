// Package netns gives tests two hosts and a router between them, in network namespaces of
// this machine: paths with an MTU, a firewall and addresses of their own.
package netns

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// Network is two hosts, each with one interface, and the router that joins them.
type Network struct {
	Source, Router, Destination Host
}

// Host is one host of a network, or its router.
type Host struct {
	Name       string // of its network namespace
	IPv4, IPv6 string // its addresses; the router's are those at the source's side
	LinkLocal  string // with its zone; the router's is at the source's side
}

// Names of the interfaces.
const (
	Interface      = "eth0"        // of a host
	ToSource       = "source"      // of the router
	ToDestination  = "destination" // as well
	sourceNet      = "10.77.1."
	destinationNet = "10.77.2."
)

var networks atomic.Int64

// NeedMounts skips the test, with the reason, if this process may not mount in its own name
// space: a normal user, and root in a container. A user namespace would allow it, but would not
// help: root's directories belong there to an unmapped user, and are not trusted.
func NeedMounts(t testing.TB) {
	t.Helper()
	if err := tryMount(); err != nil {
		t.Skipf("SKIP: only root mounts, with CAP_SYS_ADMIN: %v", err)
	}
}

var tryMount = sync.OnceValue(func() error {
	out, err := exec.Command("unshare", "--mount", "mount", "--bind", "/proc/version", "/proc/sys/kernel/random/boot_id").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	}
	return nil
})

// New makes a network, which ends with the test. It skips the test, with the reason, if this
// process may not make one.
func New(t testing.TB) *Network {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIP: only root makes network namespaces")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("SKIP: there is no ip(8), which makes network namespaces")
	}
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
		t.Skip("SKIP: the kernel has no IPv6")
	}
	removeDead()
	prefix := fmt.Sprintf("%s%d-%d-", ours, os.Getpid(), networks.Add(1))
	n := &Network{
		Source:      Host{prefix + "source", sourceNet + "1", "fd77:1::1", "fe80::1%" + Interface},
		Router:      Host{prefix + "router", sourceNet + "254", "fd77:1::fe", "fe80::fe%" + ToSource},
		Destination: Host{prefix + "destination", destinationNet + "1", "fd77:2::1", "fe80::1%" + Interface},
	}
	t.Cleanup(func() { remove(n.Source.Name, n.Router.Name, n.Destination.Name) })
	for _, h := range []Host{n.Source, n.Router, n.Destination} {
		if out, err := exec.Command("ip", "netns", "add", h.Name).CombinedOutput(); err != nil {
			t.Skipf("SKIP: no network namespace can be made: %v: %s", err, out)
		}
		// Addresses are usable at once, and only ours are there.
		h.Run(t, "sh", "-ec", `cd /proc/sys/net/ipv6/conf
			echo 0 >default/accept_dad; echo 0 >all/disable_ipv6; echo 0 >default/disable_ipv6
			ip link set lo up`)
	}
	n.Router.Run(t, "sh", "-ec", `echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
		echo 0 >/proc/sys/net/ipv4/icmp_ratelimit; echo 0 >/proc/sys/net/ipv6/icmp/ratelimit`)
	n.join(t, n.Source, ToSource, sourceNet, "fd77:1::")
	n.join(t, n.Destination, ToDestination, destinationNet, "fd77:2::")
	return n
}

// join links a host to the router. The host cuts a GSO packet before it leaves, so that the
// router sees, counts and drops the packets of a wire.
func (n *Network) join(t testing.TB, h Host, port, net4, net6 string) {
	t.Helper()
	n.Router.Run(t, "ip", "link", "add", port, "type", "veth", "peer", "name", Interface, "netns", h.Name)
	n.Router.Run(t, "sh", "-ec", fmt.Sprintf(`
		ip link set %[1]s gso_max_segs 1 addrgenmode none
		ip address add %[2]s254/24 dev %[1]s; ip address add %[3]sfe/64 dev %[1]s; ip address add fe80::fe/64 dev %[1]s
		ip link set %[1]s up`, port, net4, net6))
	h.Run(t, "sh", "-ec", fmt.Sprintf(`
		ip link set %[1]s gso_max_segs 1 addrgenmode none
		ip address add %[2]s/24 dev %[1]s; ip address add %[3]s/64 dev %[1]s; ip address add fe80::1/64 dev %[1]s
		ip link set %[1]s up
		ip route add default via %[4]s254; ip -6 route add default via %[5]sfe`, Interface, h.IPv4, h.IPv6, net4, net6))
}

// SetMTU limits the length of the packets that the router forwards in either direction.
// The router answers longer ones by ICMP. The hosts' links keep their MTU of 1500. For
// IPv6 the kernel forwards 1280 bytes at any MTU (RFC 8200, section 5).
func (n *Network) SetMTU(t testing.TB, mtu int) {
	t.Helper()
	n.Router.Run(t, "sh", "-ec", fmt.Sprintf(`
		ip route replace %[3]s0/24 dev %[1]s mtu lock %[5]d; ip route replace fd77:1::/64 dev %[1]s metric 256 mtu lock %[5]d
		ip route replace %[4]s0/24 dev %[2]s mtu lock %[5]d; ip route replace fd77:2::/64 dev %[2]s metric 256 mtu lock %[5]d`,
		ToSource, ToDestination, sourceNet, destinationNet, mtu))
}

// Run runs a command to its end in the host, and returns its output. A failure fails the test.
func (h Host) Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := h.Enter(exec.Command(name, args...)).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %s %s: %v\n%s", h.Name, name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Enter has a command run in the host once it is started. Its process is the command's own:
// ip(8) becomes it. Only that process sees its mounts.
func (h Host) Enter(cmd *exec.Cmd) *exec.Cmd {
	path, err := exec.LookPath("ip")
	if err != nil {
		cmd.Err = err
		return cmd
	}
	cmd.Args = append([]string{"ip", "netns", "exec", h.Name, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = path
	return cmd
}

// Do calls f on a thread that is in the host: the sockets that f opens are the host's.
func (h Host) Do(t testing.TB, f func()) {
	t.Helper()
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		space, err := os.Open("/run/netns/" + h.Name)
		if err == nil {
			defer space.Close()
			err = unix.Setns(int(space.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			f()
		}
		failed <- err
	}()
	if err := <-failed; err != nil {
		t.Fatalf("%s: %v", h.Name, err)
	}
}

// ours is the prefix of our namespaces' names; the PID follows.
const ours = "migtest-"

// removeDead removes the namespaces of killed tests.
func removeDead() {
	entries, _ := os.ReadDir("/run/netns")
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), ours)
		pid, _, _ := strings.Cut(rest, "-")
		if _, err := os.Stat("/proc/" + pid); ok && os.IsNotExist(err) {
			remove(e.Name())
		}
	}
}

func remove(names ...string) {
	for _, name := range names {
		_ = exec.Command("ip", "netns", "del", name).Run() // one that is not there is removed
	}
}
