package vm

import (
	"strings"
	"testing"

	"github.com/migpipe/migpipe/test/vm/guestapi"
)

// testConformance runs the suite that every device passes against the kernel's,
// by each way to open it.
func testConformance(t *testing.T, p pair) {
	p.host.need(t, "vfio.test")
	d := p.source.newMdev(t, 2)
	names := []string{d.uuid}
	if cdev := d.cdev(t); cdev != "" {
		names = append(names, cdev)
	}
	for _, name := range names {
		job := p.source.start(t, guestapi.Command{
			Argv: []string{"/bin/vfio.test", "-test.v", "-test.run=^TestKernelConformance$"},
			Env:  []string{"MIGPIPE_VFIO_DEVICE=vfio:" + name},
		})
		r := job.wait(t, 4*callTime)
		if r.Exit != 0 || !strings.Contains(r.Stdout, "--- PASS: TestKernelConformance") {
			t.Errorf("conformance of %s: exit %d\n%s%s", name, r.Exit, r.Stdout, r.Stderr)
		}
	}
}
