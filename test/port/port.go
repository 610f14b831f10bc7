// Package port gives tests an address that nobody else comes by, so that what listens
// there may end and be started again: a port that the kernel has chosen it may give to
// somebody else in between, such as a socket that dials.
package port

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"testing"
)

// Own is an address of this host, HOST:PORT, whose TCP and UDP ports are free, and left
// alone by the kernel and by other callers until the test ends.
func Own(t testing.TB) string {
	t.Helper()
	addr, release, err := Take()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	return addr
}

// Take is Own for what has no testing.TB: the address is left alone until it is released.
func Take() (addr string, release func(), err error) {
	low, high, err := chosen()
	if err != nil {
		return "", nil, err
	}
	const first, ports = 1024, 1<<16 - 1024 // those that need no privilege
	begin := rand.IntN(ports)
	for i := range ports {
		p := first + (begin+i)%ports
		if p >= low && p <= high {
			continue
		}
		// An abstract name is a lock over all processes, and ends with this one's.
		lock, err := net.Listen("unix", fmt.Sprintf("@migpipe-test-port-%d", p))
		if err != nil {
			continue
		}
		if addr := fmt.Sprintf("127.0.0.1:%d", p); free(addr) {
			return addr, func() { lock.Close() }, nil
		}
		lock.Close()
	}
	return "", nil, errors.New("port: none is free")
}

// chosen is the range that the kernel chooses ports from (ip(7), ip_local_port_range).
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

// free reports whether both ports can be had.
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
