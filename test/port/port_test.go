package port

import (
	"net"
	"strconv"
	"testing"
)

// Each has its own, outside of what the kernel gives to whoever asks for any.
func TestOwn(t *testing.T) {
	low, high, err := chosen()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for range 100 {
		addr := Own(t)
		if seen[addr] {
			t.Errorf("%s twice", addr)
		}
		seen[addr] = true
		_, text, err := net.SplitHostPort(addr)
		p, bad := strconv.Atoi(text)
		if err != nil || bad != nil || p >= low && p <= high {
			t.Errorf("%s is one of %d to %d", addr, low, high)
		}
	}
}

// What somebody listens to is not free, and what was taken may be listened to again and again.
func TestTaken(t *testing.T) {
	addr, release, err := Take()
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if free(addr) {
			t.Errorf("%s is free, and listened to", addr)
		}
		l.Close()
	}
	if !free(addr) {
		t.Errorf("%s is not free again", addr)
	}
	release()
}
