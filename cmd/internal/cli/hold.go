package cli

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/writer"
)

// held is the event of a process that stays.
const held = migration.Held

// holdHelp is the part of the help texts about staying.
const holdHelp = `In doubt, a device that this program opened itself (vfio:, sim:) keeps its state
only while it is open. The program then does not exit: it says so, with --json by
an event "held", and waits for SIGINT or SIGTERM. That signal closes the
devices, which loses their state, and only then it exits with 11: ask the other
side first. A device that is lent as fd:N is its lender's to keep, and sim: with
keep=PATH its file's.`

// copyHelp is the part of mig-recv's help about a complete copy that stays.
const copyHelp = `SIGINT, SIGTERM or SIGHUP cancels. What was loaded in part is reset. When the copy is
complete (READY) the source is asked to take its devices back, and the copy is reset when
it has. If the source is away that copy may be the last one, and no signal drops it:
mig-recv says what it holds and for whom, by an event "held", and stays. A second SIGINT
or SIGTERM leaves the record at READY and exits with 11; the copy in a device that
mig-recv opened itself (vfio:, sim:) is lost with that. ` + "`mig-recv resolve --give-up`" + ` drops it.`

// hold stays with a migration that is in doubt while closing the devices would
// decide it: the last close of a VFIO device resets it, and which of the two
// copies is needed, only the other side can tell. A signal that came before
// this was said is no answer to it.
func (v *verdict) hold(devices []opened, show *show) {
	if v.report.Outcome != migration.InDoubt {
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
	if errors.Is(v.err, writer.ErrLeft) { // the user has been told, and has said so twice
		v.letGo = true
		return
	}
	awaitSignal(show.to.err, func() { show.hold(*v) })
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
	if s.copy != nil {
		return s.copy.hints(names, pid)
	}
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

// heldCopy is a complete copy that stays for a source that is away.
type heldCopy struct {
	attempt migration.Attempt
	peer    transport.PeerID // zero where the carrier does not know it
	journal bool             // --state-dir keeps its record
}

// String names the copy, and whose it is.
func (h *heldCopy) String() string {
	source := "a process of this host"
	if h.peer != (transport.PeerID{}) {
		source = h.peer.String()
	}
	return fmt.Sprintf("the complete copy of migration %v, attempt %d, stays for its source, which is away (%s)", h.attempt.Mig, h.attempt.Epoch, source)
}

// hints say what a second signal does, before it comes. The names are those of the devices
// that end with this process.
func (h *heldCopy) hints(names string, pid int) []string {
	list := []string{
		"the signal has dropped nothing: if the source's host has died, this copy is the last one",
		"when the source comes back it is asked to take its devices back, unless it has recorded COMMIT: then the copy runs",
	}
	second := fmt.Sprintf("a second Ctrl-C or kill %d (the end of this terminal does not count) exits with %d", pid, exitInDoubt)
	switch {
	case names != "":
		list = append(list, second+fmt.Sprintf(" and closes %s, which this process alone has open: THE COPY THERE IS LOST THEN", names))
	case h.journal:
		list = append(list, second+fmt.Sprintf(" and leaves the record at READY: `mig-recv --migration %v` with the same devices goes on with it", h.attempt.Mig))
	default:
		list = append(list, second+": the devices hold the copy on, but without --state-dir no later mig-recv knows of it")
	}
	if h.journal {
		list = append(list, fmt.Sprintf("to drop the copy: after that, `mig-recv resolve %v --give-up`", h.attempt.Mig))
	}
	return list
}

// leftCopy is why a copy that stayed was left by its process.
type leftCopy struct {
	error
	copy *heldCopy
}

func (l *leftCopy) Unwrap() error { return l.error }

// hints say what has become of the copy.
func (l *leftCopy) hints(s scene) []string {
	var list []string
	if s.letGo {
		list = append(list, fmt.Sprintf("the copy in %s was lost when the device was closed: a source that lives is told so by the next mig-recv, and runs on", strings.Join(s.kept, ", ")))
	} else {
		list = append(list, "start nothing here and reset nothing: the copy here may be the last one")
	}
	switch mig := l.copy.attempt.Mig; {
	case !l.copy.journal:
	case s.letGo:
		list = append(list, fmt.Sprintf("if the source has died, `mig-recv resolve %v --give-up` ends the migration", mig))
	default:
		list = append(list, fmt.Sprintf("`mig-recv --migration %v` with the same devices and --state-dir goes on with it; `mig-recv resolve %v --give-up` ends it", mig, mig))
	}
	return list
}
