package vm

import (
	"testing"

	"github.com/migpipe/migpipe/test/vm/guestapi"
)

// key is where both programs keep their identity.
const key = "/root/migpipe.key"

// end of a migration: the device's URL and, for fd:3, who holds it.
type end struct {
	url  string
	held *held
}

// inherited is a device that the program gets from the one who holds it.
func inherited(h *held) end { return end{"fd:3", h} }

// opened is a device that the program opens itself.
func opened(name string) end { return end{url: "vfio:" + name} }

func (e end) files() []int {
	if e.held == nil {
		return nil
	}
	return []int{e.held.handle}
}

// migration is one run of the two programs.
type migration struct{ send, recv *job }

// migrate starts both programs and returns while they run.
func (p pair) migrate(t *testing.T, from, to end) migration {
	t.Helper()
	p.host.need(t, "mig-send", "mig-recv")
	sender := p.source.run(t, "/bin/mig-send", "id", "--identity", key)
	receiver := p.destination.run(t, "/bin/mig-recv", "id", "--identity", key)
	recv := p.destination.start(t, guestapi.Command{
		Argv: []string{"/bin/mig-recv", "--listen", p.destination.address + ":0", "--device", "mtty=" + to.url,
			"--peer", sender, "--identity", key, "--json"},
		Files: to.files(),
	})
	listening := recv.await(t, "listening")
	if listening.ID != receiver {
		t.Errorf("mig-recv listens as %s, mig-recv id says %s", listening.ID, receiver)
	}
	send := p.source.start(t, guestapi.Command{
		Argv: []string{"/bin/mig-send", "--to", listening.Address, "--device", "mtty=" + from.url,
			"--peer", receiver, "--identity", key, "--json"},
		Files: from.files(),
	})
	return migration{send, recv}
}

// checkCommitted waits for the end of a migration that succeeds.
func (m migration) checkCommitted(t *testing.T, bytes int64) {
	t.Helper()
	send, recv := m.send.done(t), m.recv.done(t)
	for _, e := range []event{send, recv} {
		if e.Outcome != "committed" || e.Exit != 0 {
			t.Fatalf("%+v, want committed and exit 0", e)
		}
		if len(e.Devices) != 1 || e.Devices[0].Name != "mtty" || e.Devices[0].Bytes != bytes {
			t.Fatalf("%+v, want the device mtty with %d bytes", e, bytes)
		}
	}
	if s, r := string(send.Devices[0].Digest), string(recv.Devices[0].Digest); s != r || s == "" {
		t.Errorf("digests %s and %s differ", s, r)
	}
	t.Logf("committed: total %.1f ms, downtime %.1f ms", send.TotalMS, send.DowntimeMS)
}

// checkAborted waits for the end of a migration that fails and gives what
// mig-send says about it.
func (m migration) checkAborted(t *testing.T) event {
	t.Helper()
	send, recv := m.send.done(t), m.recv.done(t)
	for _, e := range []event{send, recv} {
		if e.Outcome != "aborted" || e.Exit == 0 {
			t.Errorf("%+v, want aborted and an exit code", e)
		}
	}
	return send
}
