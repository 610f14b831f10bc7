package port

import (
	"net"
	"strconv"
	"testing"
)

// Each test has its own port, outside of the kernel's range of ephemeral ports.
func TestOwn(t *testing.T) {
	low, high, err := chosen()
	if err != nil {
		t.Fatal(err)
	}
	others := high-low < 60000 // whether there are
	for range 100 {
		addr := Own(t)
		_, text, err := net.SplitHostPort(addr)
		p, bad := strconv.Atoi(text)
		if err != nil || bad != nil || others && low <= p && p <= high {
			t.Errorf("%s is one of %d to %d", addr, low, high)
		}
		if _, release := take(p); release != nil {
			t.Errorf("%s may be had twice", addr)
		}
	}
}

// A port with a listener is not free. A taken port accepts one listener after another.
func TestTaken(t *testing.T) {
	addr := Own(t)
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
}
