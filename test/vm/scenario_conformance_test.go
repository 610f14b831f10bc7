package vm

import (
	"strings"
	"testing"

	"github.com/migpipe/migpipe/test/vm/guestapi"
)

// testConformance runs the suite that every device passes against two of the
// kernel's, by each way to open them.
func testConformance(t *testing.T, p pair) {
	p.host.need(t, "vfio.test")
	from, to := p.source.newMdev(t, 2), p.source.newMdev(t, 2)
	t.Run("uuid", func(t *testing.T) { conform(t, p.source, from.uuid, to.uuid) })
	if from.cdev(t) != "" {
		t.Run("cdev", func(t *testing.T) { conform(t, p.source, from.cdev(t), to.cdev(t)) })
	}
}

func conform(t *testing.T, m *machine, from, to string) {
	job := m.start(t, guestapi.Command{
		Argv: []string{"/bin/vfio.test", "-test.v", "-test.run=^TestKernelConformance$"},
		Env:  []string{"MIGPIPE_VFIO_DEVICE=vfio:" + from + ",vfio:" + to},
	})
	r := job.wait(t, 4*callTime)
	if r.Exit != 0 || !strings.Contains(r.Stdout, "--- PASS: TestKernelConformance") {
		t.Error("the suite fails on the kernel's device")
	}
	t.Logf("%d parts passed, %d skipped", strings.Count(r.Stdout, "--- PASS:"), strings.Count(r.Stdout, "--- SKIP:"))
}
