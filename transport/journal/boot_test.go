package journal

import (
	"testing"

	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
)

// TestRebooted: records from before a restart of the host are told apart from those that were
// recorded since, by every process, and a boot that is not known tells nothing.
func TestRebooted(t *testing.T) {
	if thisBoot() == (BootID{}) {
		t.Fatal("this host does not say which boot it is")
	}
	dir, a := t.TempDir(), migration.Attempt{Mig: migration.NewID(), Epoch: 1}
	open := func() *Journal {
		j, err := Open(dir, Options{Role: Destination, Mig: a.Mig})
		if err != nil {
			t.Fatal(err)
		}
		return j
	}
	j := open()
	if err := j.Append(handoff.Entry{Record: handoff.Ready, Attempt: a}); err != nil || handoff.Rebooted(j) {
		t.Errorf("%v, rebooted %v", err, handoff.Rebooted(j))
	}
	for boot, want := range map[BootID]bool{{1}: true, {}: false, thisBoot(): false} {
		last := &j.all[len(j.all)-1]
		last.Boot = boot
		if err := j.write(*last); err != nil {
			t.Fatal(err)
		}
		j.Close()
		if j = open(); handoff.Rebooted(j) != want {
			t.Errorf("written by boot %x: rebooted %v", boot, !want)
		}
	}
	j.Close()
	if handoff.Rebooted(handoff.NewMemory()) {
		t.Error("a journal in memory was rebooted")
	}
}
