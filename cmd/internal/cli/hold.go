package cli

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/report"
	"github.com/migpipe/migpipe/vfio"
)

// held is the event of a process that stays.
const held report.Kind = "held"

// holdHelp is the part of the help texts about staying.
const holdHelp = `In doubt, a device that this program opened itself (vfio:, sim:) keeps its state
only while it is open. The program then does not exit: it says so, with --json by
an event "held", and waits for SIGINT or SIGTERM. That signal closes the
devices, which loses their state, and only then it exits with 11: ask the other
side first. A device that is lent as fd:N is its lender's to keep, and sim: with
keep=PATH its file's.`

// hold stays with a migration that is in doubt while closing the devices would
// decide it: the last close of a VFIO device resets it, and which of the two
// copies is needed, only the other side can tell. A signal that came before
// this was said is no answer to it.
func (v *verdict) hold(devices []opened, show *show) {
	if v.report.Outcome != handoff.InDoubt {
		return
	}
	for _, d := range devices {
		if d.ours && !v.blank(d) {
			v.kept = append(v.kept, d.name)
		}
	}
	if len(v.kept) == 0 {
		return
	}
	awaitSignal(func() { show.hold(*v) })
	v.letGo = true
}

// blank reports whether a device was opened anew, and so holds nothing of what is in
// doubt: that has ended with the process before. At the destination it is so as long as
// the engine had no say.
func (v *verdict) blank(d opened) bool {
	if _, ok := errors.AsType[*untried](v.err); ok {
		return true
	}
	now, err := d.State()
	return v.sending && err == nil && now == vfio.Running
}

// holdHints say what depends on this process, and what ends it.
func (s scene) holdHints() []string {
	names, pid := strings.Join(s.kept, ", "), os.Getpid()
	alive := fmt.Sprintf("the state of %s here lives only as long as this process (%d), which therefore stays", names, pid)
	letGo := fmt.Sprintf("Ctrl-C or kill %d lets go (the end of this terminal does not): that closes %s, loses the state and exits with %d",
		pid, names, exitInDoubt)
	const rescue = "the copy here may be the only one: have another process take the open devices over (pidfd_getfd, as root) before you let go"
	if s.sending {
		return []string{
			"do NOT start the guest here: the destination may be running it", alive,
			"ask the destination: if its mig-recv said committed, the copy here must never run again: let go",
			"if its mig-recv said aborted, or nobody can tell, " + rescue, letGo,
		}
	}
	return []string{
		"start nothing here and reset nothing: who owns the devices could not be recorded", alive,
		"ask the source: if its mig-send said aborted, the copy here is not needed: let go",
		"if its mig-send is in doubt too, " + rescue, letGo,
	}
}
