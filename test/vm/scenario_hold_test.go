package vm

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/migpipe/migpipe/vfio"
)

// testBusy asks for a device that a mig-recv holds: the second process gets an error, and
// the first notices nothing.
func testBusy(t *testing.T, p pair) {
	from, to := p.source.newMdev(t, 2).open(t), p.destination.newMdev(t, 2)
	from.setPorts(t, somePorts...)
	recv, listening := p.listen(t, opened(to.uuid))
	checkBusy(t, to)
	p.send(t, recv, listening, inherited(from)).checkCommitted(t, twoPorts)
	h := to.open(t)
	h.checkState(t, vfio.Running)
	h.checkPorts(t, somePorts...)
}

// checkBusy runs both programs for a device that another process holds, by each name of
// the device.
func checkBusy(t *testing.T, d *mdev) {
	t.Helper()
	names := []string{d.uuid}
	if cdev := d.cdev(t); cdev != "" {
		names = append(names, cdev)
	}
	id := d.m.run(t, "/bin/mig-recv", "id", "--identity", key)
	for _, name := range names {
		for _, argv := range [][]string{
			{"/bin/mig-send", "--to", d.m.address + ":9", "--peer", id},
			{"/bin/mig-recv", "--listen", d.m.address + ":0", "--peer", id},
		} {
			checkInUse(t, d.m.startProgram(t, []end{opened(name)}, argv...), name)
		}
	}
}

func checkInUse(t *testing.T, j *job, name string) {
	t.Helper()
	e := j.done(t)
	if e.Exit != exitDevice || e.Outcome != "aborted" {
		t.Errorf("%s for %s ends with %d and %q, want %d and aborted", j.name, name, e.Exit, e.Outcome, exitDevice)
	}
	r := j.wait(t, callTime)
	for _, part := range []string{"error: device mtty0: " + name + ": open: device is in use", " has /dev/vfio/", "hint: end process "} {
		if !strings.Contains(r.Stderr, part) {
			t.Errorf("%s for %s does not say %q", j.name, name, part)
		}
	}
}

// testInDoubt cuts the cable while COMMIT, or its answer, is in it, for longer than
// mig-send asks. mig-send has opened the device itself, and holds it until a signal. No
// other process can open it, except a rescuer that takes over the open device. mig-recv
// waits for ever with a complete copy: the first signal discards nothing.
func testInDoubt(t *testing.T, p pair) {
	from, to := p.source.newMdev(t, 2), p.destination.newMdev(t, 2).open(t)
	h := from.open(t)
	h.setPorts(t, somePorts...)
	h.close(t)
	p.cable.slow(t, longCable)
	recv, listening := p.listen(t, inherited(to))
	m := p.sendWith(t, recv, listening, []string{"--downtime-target", patientLimit, "--doubt-for", "3s"}, opened(from.uuid))
	m.send.await(t, "stop-copy")
	p.cable.slow(t, time.Second) // so that COMMIT and its answer need two, which is time enough to cut
	m.send.await(t, "commit")
	p.cable.sever(t)

	pid := m.send.await(t, "held").PID
	from.checkWitness(t, vfio.StopCopy)
	checkBusy(t, from)
	rescued := from.takeFrom(t, pid)
	rescued.checkState(t, vfio.StopCopy)
	m.send.signal(t, syscall.SIGTERM)
	if e := m.send.done(t); e.Outcome != "in-doubt" || e.Exit != exitInDoubt {
		t.Errorf("mig-send ends with %q and %d, want in-doubt and %d", e.Outcome, e.Exit, exitInDoubt)
	}
	m.recv.signal(t, syscall.SIGTERM)
	if !m.recv.endsOr(t, "held") {
		m.recv.signal(t, syscall.SIGTERM)
		if e := m.recv.done(t); e.Exit != exitInDoubt {
			t.Errorf("mig-recv leaves the copy with %d, want %d", e.Exit, exitInDoubt)
		}
	}
	t.Logf("the destination: %s", m.recv.done(t).Outcome)

	rescued.checkState(t, vfio.StopCopy)
	rescued.setState(t, vfio.Running)
	rescued.checkPorts(t, somePorts...)
}
