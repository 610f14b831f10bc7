package vm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/migpipe/migpipe/test/vm/guestapi"
	"github.com/migpipe/migpipe/vfio"
)

// planDevices is the largest number of devices in a scenario of the plan.
const planDevices = 4

// testPlan runs the scenarios of the source's plan on the kernel's devices, except those in
// which the plan moves no device: they would not change anything.
func testPlan(t *testing.T, p pair) {
	p.host.need(t, "reader.test")
	var devices []*mdev
	var names []string
	for range planDevices {
		d := p.source.newMdev(t, 2)
		h := d.open(t)
		h.setPorts(t, somePorts...)
		h.close(t)
		devices, names = append(devices, d), append(names, d.uuid)
	}
	job := p.source.start(t, guestapi.Command{Argv: []string{
		"/bin/reader.test", "-test.v", "-test.run=^TestPlanOnMtty$", "-mtty=" + strings.Join(names, ","),
	}})
	r := job.wait(t, 4*callTime)
	if r.Exit != 0 {
		t.Errorf("%s ends with %d", job.name, r.Exit)
	}
	checkPlayed(t, r.Stdout)
	for _, d := range devices {
		h := d.open(t)
		h.checkState(t, vfio.Running)
		h.checkPorts(t, somePorts...)
	}
}

// checkPlayed requires that every scenario passed in which a device moves. It names the
// others.
func checkPlayed(t *testing.T, stdout string) {
	t.Helper()
	texts, err := filepath.Glob("../../reader/internal/plan/plantest/testdata/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	var played, still []string
	for _, file := range texts {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(filepath.Base(file), ".txt")
		switch {
		case !strings.Contains(string(text), "-> enter "):
			still = append(still, name)
		case strings.Contains(stdout, "--- PASS: TestPlanOnMtty/"+name+" ("):
			played = append(played, name)
		default:
			t.Errorf("%s has failed, or was not played", name)
		}
	}
	t.Logf("%s: %d of %d scenarios played; in the others no device is moved: %s",
		t.Name(), len(played), len(texts), strings.Join(still, ", "))
}
