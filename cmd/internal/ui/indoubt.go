package ui

import (
	"fmt"
	"os"
	"strings"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// held is the event of a process that holds devices.
const held = migration.Held

// HoldHelp is the part of the help texts about staying.
const HoldHelp = `In doubt, a device that this program opened itself (vfio:, sim:) keeps its state
only while it is open. The program then does not exit: it says so, with --json by
an event "held", and waits for SIGINT or SIGTERM. That signal closes the
devices, which loses their state, and only then it exits with 11: ask the other
side first. A device that is lent as fd:N is its lender's to keep, and sim: with
keep=PATH its file's.`

// CopyHelp is the part of mig-recv's help about a complete copy without its source.
const CopyHelp = `SIGINT, SIGTERM or SIGHUP cancels. What was loaded in part is reset. When the copy is
complete (READY) the source is asked to take its devices back, and the copy is reset when
it has. If the source is away that copy may be the last one, and no signal drops it:
mig-recv says what it holds and for whom, by an event "held", and stays. A second SIGINT
or SIGTERM leaves the record at READY and exits with 11; the copy in a device that
mig-recv opened itself (vfio:, sim:) is lost with that. ` + "`mig-recv resolve --give-up`" + ` drops it.`

// holdHints say what depends on this process, and what ends it.
func (s Scene) holdHints() []string {
	names, pid := strings.Join(s.Kept, ", "), os.Getpid()
	if s.Copy != nil {
		return s.Copy.hints(names, pid)
	}
	alive := fmt.Sprintf("the state of %s here lives only as long as this process (%d), which therefore stays", names, pid)
	letGo := fmt.Sprintf("Ctrl-C or kill %d lets go (the end of this terminal does not): that closes %s, loses the state and exits with %d",
		pid, names, exitInDoubt)
	const rescue = "the copy here may be the only one: have another process take the open devices over (pidfd_getfd, as root) before you let go"
	if s.Sending {
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

// HeldCopy is a complete copy that the destination holds for a source that is away.
type HeldCopy struct {
	Attempt migration.Attempt
	Peer    transport.PeerID // zero where the carrier does not know it
	Journal bool             // --state-dir has its record
}

// String names the copy, and whose it is.
func (h *HeldCopy) String() string {
	source := "a process of this host"
	if h.Peer != (transport.PeerID{}) {
		source = h.Peer.String()
	}
	return fmt.Sprintf("the complete copy of migration %v, attempt %d, stays for its source, which is away (%s)", h.Attempt.Mig, h.Attempt.Epoch, source)
}

// hints say what a second signal does, before it comes. The names are those of the devices
// that end with this process.
func (h *HeldCopy) hints(names string, pid int) []string {
	list := []string{
		"the signal has dropped nothing: if the source's host has died, this copy is the last one",
		"when the source comes back it is asked to take its devices back, unless it has recorded COMMIT: then the copy runs",
	}
	second := fmt.Sprintf("a second Ctrl-C or kill %d (the end of this terminal does not count) exits with %d", pid, exitInDoubt)
	switch {
	case names != "":
		list = append(list, second+fmt.Sprintf(" and closes %s, which this process alone has open: THE COPY THERE IS LOST THEN", names))
	case h.Journal:
		list = append(list, second+fmt.Sprintf(" and leaves the record at READY: `mig-recv --migration %v` with the same devices goes on with it", h.Attempt.Mig))
	default:
		list = append(list, second+": the devices hold the copy on, but without --state-dir no later mig-recv knows of it")
	}
	if h.Journal {
		list = append(list, fmt.Sprintf("to drop the copy: after that, `mig-recv resolve %v --give-up`", h.Attempt.Mig))
	}
	return list
}

// LeftCopy is why a copy that stayed was left by its process.
type LeftCopy struct {
	Err  error
	Copy *HeldCopy
}

// Error implements error.
func (l *LeftCopy) Error() string { return l.Err.Error() }

// Unwrap gives the cause.
func (l *LeftCopy) Unwrap() error { return l.Err }

// HintsInDoubt say what has become of the copy.
func (l *LeftCopy) HintsInDoubt(s Scene) []string {
	var list []string
	if s.LetGo {
		list = append(list, fmt.Sprintf("the copy in %s was lost when the device was closed: a source that lives is told so by the next mig-recv, and runs on", strings.Join(s.Kept, ", ")))
	} else {
		list = append(list, "start nothing here and reset nothing: the copy here may be the last one")
	}
	switch mig := l.Copy.Attempt.Mig; {
	case !l.Copy.Journal:
	case s.LetGo:
		list = append(list, fmt.Sprintf("if the source has died, `mig-recv resolve %v --give-up` ends the migration", mig))
	default:
		list = append(list, fmt.Sprintf("`mig-recv --migration %v` with the same devices and --state-dir goes on with it; `mig-recv resolve %v --give-up` ends it", mig, mig))
	}
	return list
}
