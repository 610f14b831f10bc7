package vm

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/migpipe/migpipe/test/vm/guestapi"
)

// key is where both programs keep their identity.
const key = "/root/migpipe.key"

// end is one end of a device's way: a name by which the program opens it, or the holder from
// which the program inherits its fd.
type end struct {
	name string
	held *held
}

func inherited(h *held) end  { return end{held: h} }
func opened(name string) end { return end{name: name} }

// way is the source and the destination of one device in a migration.
type way struct{ from, to end }

// deviceFlags returns a program's --device flags for its ends of the ways, and the handles of
// the devices that it inherits for them.
func deviceFlags(ends []end) (flags []string, files []int) {
	for i, e := range ends {
		url := "vfio:" + e.name
		if e.held != nil {
			url = fmt.Sprint("fd:", 3+len(files))
			files = append(files, e.held.handle)
		}
		flags = append(flags, "--device", fmt.Sprintf("%s=%s", deviceName(i), url))
	}
	return flags, files
}

func deviceName(i int) string { return fmt.Sprint("mtty", i) }

// migration is one run of the two programs.
type migration struct{ send, recv *job }

// migrate starts both programs and returns while they run.
func (p pair) migrate(t *testing.T, ways ...way) migration {
	t.Helper()
	var from, to []end
	for _, w := range ways {
		from, to = append(from, w.from), append(to, w.to)
	}
	recv, listening := p.listen(t, to...)
	return p.send(t, recv, listening, from...)
}

// listen starts mig-recv and returns when it holds its devices.
func (p pair) listen(t *testing.T, to ...end) (recv *job, listening event) {
	t.Helper()
	p.host.need(t, "mig-send", "mig-recv")
	sender := p.source.run(t, "/bin/mig-send", "id", "--identity", key)
	receiver := p.destination.run(t, "/bin/mig-recv", "id", "--identity", key)
	recv = p.destination.startProgram(t, to, "/bin/mig-recv", "--listen", p.destination.address+":0", "--peer", sender)
	listening = recv.await(t, "listening")
	if listening.ID != receiver {
		t.Errorf("mig-recv listens as %s, mig-recv id prints %s", listening.ID, receiver)
	}
	return recv, listening
}

// send starts mig-send to a listening mig-recv.
func (p pair) send(t *testing.T, recv *job, listening event, from ...end) migration {
	t.Helper()
	return p.sendWith(t, recv, listening, []string{"--downtime-target", patientLimit}, from...)
}

// patientLimit is a downtime that a switchover over the slowest cable fits into.
const patientLimit = "10s"

// sendWith is send with additional flags.
func (p pair) sendWith(t *testing.T, recv *job, listening event, flags []string, from ...end) migration {
	t.Helper()
	argv := append([]string{"/bin/mig-send", "--to", listening.Address, "--peer", listening.ID}, flags...)
	send := p.source.startProgram(t, from, argv...)
	return migration{send, recv}
}

func (m *machine) startProgram(t *testing.T, devices []end, argv ...string) *job {
	t.Helper()
	flags, files := deviceFlags(devices)
	argv = append(append(argv, flags...), "--identity", key, "--json")
	return m.start(t, guestapi.Command{Argv: argv, Files: files})
}

// checkCommitted waits for the end of a migration that commits, with that many bytes of each
// device.
func (m migration) checkCommitted(t *testing.T, sizes ...int64) {
	t.Helper()
	send, recv := m.send.done(t), m.recv.done(t)
	for _, e := range []event{send, recv} {
		if e.Outcome != "committed" || e.Exit != 0 || len(e.Devices) != len(sizes) {
			t.Fatalf("%+v, want committed, exit 0 and %d devices", e, len(sizes))
		}
	}
	for i, n := range sizes {
		s, r := send.device(deviceName(i)), recv.device(deviceName(i))
		if s.Bytes != n || r.Bytes != n {
			t.Errorf("%s: %d bytes sent, %d received, want %d", deviceName(i), s.Bytes, r.Bytes, n)
		}
		if !sameDigest(s.Digest, r.Digest) {
			t.Errorf("%s: digest %s sent, %s received", deviceName(i), s.Digest, r.Digest)
		}
	}
	t.Logf("committed: total %.1f ms, downtime %.1f ms", send.TotalMS, send.DowntimeMS)
}

// sameDigest compares two digests, which must be there.
func sameDigest(a, b []byte) bool { return len(a) > 0 && bytes.Equal(a, b) }

// checkAborted waits for the end of a migration that fails and returns the done event of
// mig-send.
func (m migration) checkAborted(t *testing.T) event {
	t.Helper()
	send, recv := m.send.done(t), m.recv.done(t)
	for _, e := range []event{send, recv} {
		if e.Outcome != "aborted" || e.Exit == 0 {
			t.Errorf("%+v, want aborted and an exit code", e)
		}
	}
	t.Logf("aborted: mig-send ends with %d, mig-recv with %d", send.Exit, recv.Exit)
	return send
}
