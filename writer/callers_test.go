package writer

import (
	"testing"

	"github.com/migpipe/migpipe/transport"
)

// TestBusyPeers: every peer has one place, and all together have no more than there are.
func TestBusyPeers(t *testing.T) {
	var g busyPeers
	if g.any() {
		t.Error("a peer is there already")
	}
	for i := range maxBusy {
		if peer := (transport.PeerID{byte(i)}); !g.enter(peer) || g.enter(peer) {
			t.Errorf("peer %d did not enter, or twice", i)
		}
	}
	late := transport.PeerID{maxBusy}
	if g.enter(late) {
		t.Error("one too many has entered")
	}
	g.leave(transport.PeerID{3})
	if !g.enter(late) {
		t.Error("a place that is free is not given")
	}
	g.leave(late)
	for i := range maxBusy {
		g.leave(transport.PeerID{byte(i)})
	}
	if g.any() {
		t.Error("there is a peer still")
	}
}
