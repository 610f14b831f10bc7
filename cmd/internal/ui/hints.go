package ui

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"time"

	"github.com/migpipe/migpipe/internal/lockfile"
	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/writer"
)

// The prefixes of an address that select its carrier: a unix socket, within one host; TLS over
// TCP; or the better one of TLS and QUIC, by measurement. Without a prefix the carrier is QUIC.
const (
	UnixPrefix = "unix:"
	TLSPrefix  = "tls://"
	AutoPrefix = "auto:"
)

// Scene is what hints depend on besides the error.
type Scene struct {
	Sending   bool
	Self      transport.PeerID // zero on carriers without identities
	Certified bool             // by a CA
	Prefix    string           // of --to or --listen: tlsPrefix, autoPrefix, or none
	Address   string           // behind it
	Moved     bool             // bytes left the source
	Kept      []string         // devices that this process was held for, in doubt
	LetGo     bool             // a signal has ended the hold: the devices will be closed
	Copy      *HeldCopy        // a complete copy that the process holds; nil for none
	Again     string           // the migration, where --state-dir has its journal
	There     *CopyThere       // that was not ended; nil for none
}

// CopyThere is a copy at the destination that a person decides about.
type CopyThere struct {
	migration.CopyThere
	Mig migration.ID
}

// text names the copy.
func (c CopyThere) text() string {
	holds := "may hold"
	if c.Ready {
		holds = "holds"
	}
	return fmt.Sprintf("the destination %s a complete copy of migration %v, which may be the only one: it was not told to drop it", holds, c.Mig)
}

// hints say how the copy comes to run, and how it ends.
func (c CopyThere) hints(kept bool) []string {
	hints := []string{c.text()}
	switch {
	case c.Rescue && kept:
		hints = append(hints, fmt.Sprintf("to have that copy run: `mig-send resolve %v --commit-there --why TEXT`, then `mig-send --migration %v` and the other arguments again", c.Mig, c.Mig))
	case c.Rescue:
		hints = append(hints, fmt.Sprintf("to have that copy run: `mig-recv resolve %v --run-here --peer-is-fenced --why TEXT` there, if it has a --state-dir, once nothing of it can run here", c.Mig))
	}
	return append(hints, fmt.Sprintf("to end that copy, once it is not needed: `mig-recv resolve %v --give-up --why TEXT` there", c.Mig))
}

// Hints are the next steps after a failure, most of the time one.
func (s Scene) Hints(o migration.Outcome, err error) []string {
	m, wrong := errors.AsType[*Mistake](err)
	switch {
	case o == migration.InDoubt && wrong:
		return append(s.inDoubt(err), Optional(m.Hint)...)
	case o == migration.InDoubt:
		return s.inDoubt(err)
	case o == migration.NeedsReset:
		return append([]string{"stop the guest, and reset the device or restart its VM before it is used again"}, s.ofCopy()...)
	case wrong:
		return Optional(m.Hint)
	}
	if h := s.OfError(err); h != nil {
		return append(h, s.ofCopy()...)
	}
	code, remote := CodeOf(err)
	return append(Optional(s.ofCode(code, remote)), s.ofCopy()...)
}

func (s Scene) ofCopy() []string {
	if s.There == nil {
		return nil
	}
	return s.There.hints(s.Again != "")
}

// Optional is a list of one hint, or of none if it is empty.
func Optional(hint string) []string {
	if hint == "" {
		return nil
	}
	return []string{hint}
}

func (s Scene) inDoubt(err error) []string {
	if errors.Is(err, reader.ErrBothMayRun) {
		return bothHints
	}
	if errors.Is(err, reader.ErrOnlyCopy) || errors.Is(err, reader.ErrUndecidedCopy) { // nothing runs there
		return s.OfError(err)
	}
	if d, ok := errors.AsType[doubtful](err); ok {
		return d.HintsInDoubt(s)
	}
	hints := []string{"do NOT start the guest here: the destination may be running it"}
	switch {
	case s.Again != "":
		hints = append(hints, s.askAgain(err)...)
	case s.Sending:
		hints = append(hints,
			"ask the destination first: if its mig-recv said committed, the copy here must never run again",
			"only if its mig-recv said aborted, start the guest here")
	}
	if errors.Is(err, writer.ErrCannotContinue) {
		return []string{"start nothing here and reset nothing: look at what is at --device, and at both sides' `status`; the same command goes on with it once that is mended",
			"if the source is dead, or kept from its devices: see `mig-recv resolve --help`"}
	}
	if !s.Sending {
		hints = []string{
			"start nothing here and reset nothing: who owns the devices could not be recorded",
			"ask the source: only if its mig-send said aborted may the copy here be dropped",
		}
	}
	if s.LetGo {
		hints = append(hints, fmt.Sprintf("the state of %s here was lost when it was let go of: what starts here starts without it", strings.Join(s.Kept, ", ")))
	}
	return hints
}

// askAgain says how a migration in doubt ends, where its journal is on disk.
func (s Scene) askAgain(err error) (hints []string) {
	const person = "if that host is dead, or kept from its devices: see `mig-send resolve --help`"
	if e, ok := errors.AsType[*JournalError](err); ok {
		return []string{e.Hint()}
	}
	code, remote := CodeOf(err)
	switch {
	case remote && code == transport.CodeUnknown:
		hints = []string{unknownHint}
	case remote && code == transport.CodeLost:
		return []string{lostHint}
	case remote && code == transport.CodeDecided:
		return []string{decidedHint}
	}
	return append(hints, fmt.Sprintf("`mig-send --migration %s` and the other arguments again: it asks the destination, whose mig-recv must run, and does what that says", s.Again), person)
}

// bothHints are for two sides that both have the right to run the guest.
var bothHints = []string{
	"stop the guest on one side now: what the two copies do to disks and network cannot be merged",
	"a person has decided at one side (FORCED) that the other one was fenced, and it was not, or a journal was lost: `mig-send status` and `mig-recv status` show the records",
}

// alarmText names the migration.
func alarmText(ev migration.Event) string {
	return fmt.Sprintf("migration %v: BOTH SIDES MAY RUN: %s", ev.Attempt.Mig, ev.Text)
}

// hinter is an error that knows its next step.
type hinter interface {
	error
	Hint() string
}

// doubtful is an error that knows the next steps where it leaves a migration in doubt.
type doubtful interface {
	error
	HintsInDoubt(s Scene) []string
}

// ofDevice is for a device that cannot be used, "" if its error names no next step.
func ofDevice(err error) string {
	e, ok := errors.AsType[*vfio.OpError](err)
	switch {
	case !ok:
		return ""
	case e.Hint == "" && e.Op == "open" && errors.Is(e, fs.ErrNotExist):
		return "nothing on this host has that path: correct it, or make the directory first"
	}
	return e.Hint
}

// OfError is for causes that an error names itself.
func (s Scene) OfError(err error) []string {
	if w, ok := errors.AsType[*transport.WrongPeerError](err); ok {
		return s.wrongPeer(w)
	}
	if e, ok := errors.AsType[*transport.CertificateError](err); ok {
		return []string{e.Hint}
	}
	if hint := ofDevice(err); hint != "" {
		return []string{hint}
	}
	if e, ok := errors.AsType[hinter](err); ok {
		return []string{e.Hint()}
	}
	if e, ok := errors.AsType[*lockfile.HeldError](err); ok {
		return []string{EndFirst(e.PID)}
	}
	if code, _ := CodeOf(err); code == transport.CodeNetwork && strings.HasPrefix(s.Address, UnixPrefix) {
		if hint := unixHint(err); hint != "" {
			return []string{hint}
		}
	}
	if l, ok := errors.AsType[*reader.LimitError](err); ok {
		return []string{limitHint(l)}
	}
	switch {
	case errors.Is(err, transport.ErrRefusedByPeer) && s.Certified:
		return []string{fmt.Sprintf("%[1]s gave the reason in brackets: if it is about the names, give one of them to %[1]s with --peer-name; if not, mend this host's certificate, or the CA there", s.otherProgram())}
	case errors.Is(err, transport.ErrRefusedByPeer):
		return []string{fmt.Sprintf("if this host is to be trusted there, add --peer %v to the %s command", s.Self, s.otherProgram())}
	case errors.Is(err, transport.ErrNoAddress):
		return []string{"see what `getent hosts NAME` says of that name here, or give an IP address"}
	case errors.Is(err, transport.ErrNoResolver):
		return []string{"see whether the nameservers in /etc/resolv.conf answer, or give an IP address, which needs none"}
	case errors.Is(err, transport.ErrHungUp):
		return []string{fmt.Sprintf("it is reached, and ends every connection at once: raise --connect-for, if it is flooded; or another program than %s listens there", s.otherProgram())}
	case errors.Is(err, transport.ErrUnreachable):
		return []string{s.unreachable(err)}
	case errors.Is(err, transport.ErrPeerGone):
		return []string{s.peerGone()}
	}
	for _, h := range causeHints {
		if errors.Is(err, h.cause) {
			return []string{h.hint}
		}
	}
	return nil
}

// causeHints are for causes that need no more than their name; the first counts.
var causeHints = []struct {
	cause error
	hint  string
}{
	{reader.ErrBothMayRun, strings.Join(bothHints, "; ")},
	{reader.ErrUndecidedCopy, "to run that copy, see `mig-send resolve --help`, --commit-there, or, where some device has run here since, `mig-recv resolve --help` there, --run-here; to end it, see `mig-recv resolve --help` there, --give-up"},
	{reader.ErrOnlyCopy, "to run that copy, see `mig-send resolve --help`, --commit-there; to end it and begin anew with what the devices here hold now, say --migration ID"},
	{reader.ErrNoWitness, witnessHint},
	{writer.ErrNoWitness, witnessHint},
	{reader.ErrNoWelcome, "raise --connect-for, if a device there is known to take that long to prepare"},
	{reader.ErrNotPaused, "answer the event pause by the line paused; raise --resume-after, if pausing the guest is known to take that long"},
	{reader.ErrDowntime, "raise --resume-after, if the guest may stand still for that long"},
	{reader.ErrStalled, stalledHint},
	{writer.ErrStalled, stalledHint},
	{writer.ErrReadyExpired, "the source, if it lives, runs on when it hears of that; leave --discard-ready-after out to keep a copy for ever"},
	{writer.ErrHoldsAnother, "`mig-recv --migration ID` with the same devices goes on with it; `mig-recv resolve ID --give-up` ends it"},
	{reader.ErrNoP2P, "migrate it alone, or say --without-p2p if none of the devices reaches another by DMA"},
	{syscall.EADDRINUSE, "another process listens there: choose another port, or 0 for any that is free"},
	{syscall.EADDRNOTAVAIL, "no interface of this host has that address"},
	{vfio.ErrNoMigration, "its driver cannot migrate: bind the device to a VFIO driver that can, as mlx5_vfio_pci"},
	{vfio.ErrBusy, "another process, a VMM perhaps, has it open"},
	{fs.ErrPermission, "run as root, or as the owner of what it names"},
	{syscall.ENOSPC, spaceHint},
	{syscall.EDQUOT, spaceHint},
	{fs.ErrExist, "it may be what an earlier migration has brought: move it away; to replace it, write file:PATH?overwrite=1"},
}

const (
	witnessHint = "both sides ask it before the guest is stopped: mend it, or say --on-limit force at mig-send to migrate without its answer"
	stalledHint = "raise --stalled-after, if the device is known to take that long"
	spaceHint   = "free some space there, or name another directory"
)

// limitHint names the flag of a limit that has ended PRE_COPY.
func limitHint(l *reader.LimitError) string {
	switch {
	case l.Limit == reader.LimitTimeout:
		return "raise --abort-after"
	case l.Limit == reader.LimitFixed:
		return "raise --downtime-target, or shorten these steps; or say --on-limit force to stop the guest for that long" + lastRunHint(l.Stages)
	case !l.Ready && l.Limit == reader.LimitPrecopy:
		return "raise --max-precopy, if the destination is known to take that long; or say --on-limit force, and the rest goes while the guest stands still"
	case !l.Ready && l.Limit == reader.LimitRounds:
		return "raise --max-rounds; or say --on-limit force, and the rest goes while the guest stands still"
	case l.Limit == reader.LimitReinit:
		return "try again when the guest no longer sets the device up"
	case l.Limit == reader.LimitPath:
		return "try again; or say --on-limit force, and the guest stands still for as long as it takes"
	case l.Limit == reader.LimitDowntime:
		return "raise --downtime-target, or say --on-limit force to stop the guest for that long"
	}
	flag := map[reader.Limit]string{reader.LimitPrecopy: "--max-precopy", reader.LimitRounds: "--max-rounds"}[l.Limit]
	return "raise --downtime-target; or say --on-limit force to stop the guest for that long, or --on-limit continue to wait for a quieter guest; or raise " + flag + ", if it becomes quieter in that time"
}

// lastRunHint says how to remove the times of the last run, if a main stage may depend on them.
func lastRunHint(stages []migration.PredictedStage) string {
	var all time.Duration
	for _, s := range stages {
		all += s.Took
	}
	main := map[string]bool{}
	for _, s := range stages {
		main[s.Name] = s.Took > 0 && s.Took >= all/10
	}
	var sides []string
	if main[migration.StageDecide] || main[migration.StageStop] {
		sides = append(sides, "here")
	}
	if main[migration.StageAccept] || main[migration.StageStart] {
		sides = append(sides, "at mig-recv")
	}
	if sides == nil {
		return ""
	}
	return fmt.Sprintf("; on-accept and a VMM's answers count by their last run, the stop and the start of devices by their fastest: these times are gone when %s is removed from the --state-dir %s", journal.TimesFile, strings.Join(sides, " and "))
}

// unixHint is for a fault of the path of a socket.
func unixHint(err error) string {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "run both sides as the same user, or this one as root"
	case errors.Is(err, syscall.ENAMETOOLONG):
		return "choose a shorter path, below /run for example"
	case errors.Is(err, fs.ErrNotExist) && !errors.Is(err, transport.ErrUnreachable):
		return "make the directory first"
	}
	return ""
}

func (s Scene) wrongPeer(w *transport.WrongPeerError) []string {
	list := make([]string, len(w.Want))
	for i, id := range w.Want {
		list[i] = id.String()
	}
	return []string{
		"expected " + strings.Join(list, " or "),
		"     got " + w.Got.String(),
		fmt.Sprintf("if that is what `%s id` prints on the host you mean, run this with --peer %v", s.otherProgram(), w.Got),
	}
}

func (s Scene) otherProgram() string {
	if s.Sending {
		return "mig-recv"
	}
	return "mig-send"
}

func (s Scene) unreachable(err error) string {
	if path, ok := strings.CutPrefix(s.Address, UnixPrefix); ok {
		return fmt.Sprintf("start mig-recv --listen %s%s first, as the same user", UnixPrefix, path)
	}
	if _, narrow := errors.AsType[*transport.PathMTUError](err); narrow && s.Prefix == "" {
		return fmt.Sprintf("raise the MTU of the path; or use TLS, which has no such limit: --to %[1]s%[2]s here, and --listen %[1]sADDR:PORT there", TLSPrefix, s.Address)
	}
	through := map[string]string{
		"":         "UDP through, in packets of 1228 bytes (IPv4) or 1248 (IPv6)",
		TLSPrefix:  "TCP through",
		AutoPrefix: "UDP or TCP through",
	}[s.Prefix]
	return fmt.Sprintf("is mig-recv listening at %s%s, and does every firewall between let %s?", s.Prefix, s.Address, through)
}

// refusedHints are the next steps where this side can take one.
func refusedHints(err error) []string {
	for _, h := range causeHints {
		if errors.Is(err, h.cause) {
			return []string{h.hint}
		}
	}
	switch code, remote := CodeOf(err); code {
	case transport.CodeVersion, transport.CodeDevices, transport.CodeIncompatible:
		return Optional(Scene{}.ofCode(code, remote))
	}
	return nil
}
