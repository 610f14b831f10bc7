// Package port gives tests an address that no other process takes, so that a listener may
// end and start again there. The kernel may give a port of its own choice to another
// socket in between, such as one that dials.
package port

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"testing"
)

// Own returns an address of this host, HOST:PORT, whose TCP and UDP ports are free. Neither the
// kernel nor another caller uses it until the test ends.
func Own(t testing.TB) string {
	t.Helper()
	addr, release, err := Take()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	return addr
}

// Take is Own for a caller without testing.TB: the address is reserved until release.
func Take() (addr string, release func(), err error) {
	low, high, err := chosen()
	if err != nil {
		return "", nil, err
	}
	const first = 1024 // lower ones need a privilege
	ports := rand.Perm(1<<16 - first)
	for _, inside := range []bool{false, true} { // ports of the kernel's range too, if there are no others
		for _, i := range ports {
			p := first + i
			if (low <= p && p <= high) != inside {
				continue
			}
			if addr, release := take(p); release != nil {
				return addr, release, nil
			}
		}
	}
	return "", nil, errors.New("port: none is free")
}

// take returns no release for a port that is not free, or that another process has taken.
func take(p int) (addr string, release func()) {
	// An abstract name is a lock across all processes, and ends with this one.
	lock, err := net.Listen("unix", fmt.Sprint("@migpipe-test-port-", p))
	if err != nil {
		return "", nil
	}
	if addr = fmt.Sprintf("127.0.0.1:%d", p); !free(addr) {
		lock.Close()
		return "", nil
	}
	return addr, func() { lock.Close() }
}

// chosen is the kernel's range of ephemeral ports (ip(7), ip_local_port_range).
func chosen() (low, high int, err error) {
	const path = "/proc/sys/net/ipv4/ip_local_port_range"
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, err
	}
	if _, err := fmt.Sscan(string(text), &low, &high); err != nil {
		return 0, 0, fmt.Errorf("port: %s: %q: %w", path, text, err)
	}
	return low, high, nil
}

// free reports whether both ports are available.
func free(addr string) bool {
	tcp, err := net.Listen("tcp", addr)
	if err != nil {
		return false
	}
	defer tcp.Close()
	udp, err := net.ListenPacket("udp", addr)
	if err != nil {
		return false
	}
	udp.Close()
	return true
}
