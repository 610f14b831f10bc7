package ui

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// The exit codes. Scripts depend on them: none is ever given another meaning.
const (
	exitCommitted    = 0  // the devices run at the destination
	exitInternal     = 1  // a defect of this software
	exitUsage        = 2  // the command line
	exitLocal        = 3  // a device or stream of this side
	exitNetwork      = 4  // the peer cannot be reached, or no longer
	exitPeer         = 5  // the peer refused or failed
	exitAuth         = 6  // a side is not who it should be
	exitIncompatible = 7  // versions, device names or devices do not fit
	exitIntegrity    = 8  // data arrived damaged
	exitCancelled    = 9  // a person or a VMM cancelled
	exitTimeout      = 10 // something took too long
	exitInDoubt      = 11 // starting the source is unsafe
)

// ExitHelp is the part of the help texts about the above.
const ExitHelp = `Exit status:
  0  committed: the devices run at the destination
  1  a defect of this software, as is death by SIGABRT
  2  the command line is wrong
  3  a device or stream of this side failed, is in use or cannot migrate
  4  the network: the peer cannot be reached, or no longer, or no witness answers
  5  the peer refused or failed
  6  authentication: a side is not who it should be
  7  incompatible: protocol versions, device names or devices do not fit
  8  integrity: what arrived is not what was sent
  9  cancelled
  10 timeout: something took longer than it may
  11 in doubt: do not start the source before the destination has answered, which
     mig-send --continue asks again
With 1 to 10 the outcome, in the report and the done event, says what became of
the devices of this side:
  aborted      they are as they were: the source's run, the destination's are reset
  needs-reset  one could not be brought back: reset it, or restart its VM, before
               it is used again; the status is that of the cause
A program that a signal killed has told no outcome: take it for in doubt.`

// reason is a row of the table of reasons: the exit code and the next step for an attempt that
// ended with a code. Each has a value for a cause at this side and one for a cause that the peer
// has reported.
type reason struct {
	here, there         int // exit codes
	hintHere, hintThere func(Scene) string
}

// reasons has a row for each transport.Code. With unknownReason, and with the outcomes that
// exitCode names, it is the one place where a code becomes an exit code and a hint.
var reasons = map[transport.Code]reason{
	transport.CodeInternal:     {exitInternal, exitPeer, says("this is a defect of this software: report it, with the lines above"), lookThere},
	transport.CodeVersion:      both(exitIncompatible, says("install the same release on both hosts")),
	transport.CodeDevices:      both(exitIncompatible, says("give the same names to --device on both sides")),
	transport.CodeIncompatible: both(exitIncompatible, says("pair each device with one of the same model, driver and firmware generation")),
	transport.CodeBusy:         {exitLocal, exitPeer, says("end what uses it, and try again"), lookThere},
	transport.CodeLimit:        {exitLocal, exitPeer, limitOf, limitOf},
	transport.CodeCorrupt:      both(exitIntegrity, says(damagedHint)),
	transport.CodeIncomplete:   both(exitIntegrity, says(damagedHint)),
	transport.CodeDevice:       {exitLocal, exitPeer, says(driverHint), lookThere},
	transport.CodeValidation:   {exitLocal, exitPeer, says("pair the device with one of the same model, driver and firmware generation; " + driverHint), lookThere},
	transport.CodeStart:        {exitLocal, exitPeer, says(driverHint), lookThere},
	transport.CodeCancelled:    both(exitCancelled, says("")), // by the reader of the hint
	transport.CodeTimeout:      {exitTimeout, exitTimeout, says("the error names a limit of time: --help tells how to set it"), lookThere},
	transport.CodeProtocol:     both(exitPeer, says("install the same release on both hosts; if it is the same, report the lines above")),
	transport.CodeNetwork:      both(exitNetwork, connectionLost),
	transport.CodeAuth:         both(exitAuth, strangers),
	transport.CodeHeld:         {exitLocal, exitPeer, says(heldHint), says(heldHint)},
	transport.CodeUnknown:      both(exitPeer, says(unknownHint)),
	transport.CodeWitness:      both(exitIncompatible, says("give the same --in-doubt and --witness on both sides")),
	transport.CodeDecided:      both(exitPeer, says(decidedHint)),
	transport.CodeLost:         both(exitPeer, says(lostHint)),
	transport.CodeBothMayRun:   both(exitPeer, says(strings.Join(bothHints, "; "))),
}

// unknownReason is the row of a code that a newer peer may send, and of no code.
var unknownReason = reasons[transport.CodeInternal]

const (
	damagedHint = "try again; if it happens again, check the memory of both hosts"
	driverHint  = "if it is a VFIO device, its driver gives the reason in the kernel's log: see `dmesg`"
	heldHint    = "continue that migration: mig-send --continue, with its --state-dir; or discard its copy there: mig-recv resolve ID --give-up; a mig-recv --discard-ready-after TIME discards such a copy by itself"
)

// Hints of codes that concern a migration in doubt.
const (
	unknownHint = "give mig-recv there the --state-dir that it had, or a --to where that runs; if its journal is lost, only people can tell: see `mig-send resolve --help`"
	decidedHint = "somebody has decided there: talk to them before anything is done here"
	lostHint    = "it may have run there, and no answer will come: decide where it goes on, by `mig-send resolve` here or `mig-recv resolve` there"
)

// both is a row for a code that means the same, whichever side has reported it.
func both(exit int, hint func(Scene) string) reason { return reason{exit, exit, hint, hint} }

func says(hint string) func(Scene) string { return func(Scene) string { return hint } }

func lookThere(s Scene) string {
	return "the cause is at the other side: see what " + s.otherProgram() + " said there"
}

func limitOf(s Scene) string {
	if s.Sending && !s.Moved { // no stream was too long: the destination is busy
		return "wait for the migration that it serves, or run another mig-recv on another port"
	}
	return "raise --max-state at mig-recv, if the device is known to be that large"
}

func connectionLost(s Scene) string {
	if !s.Sending && !s.Moved { // no source was heard
		return "see that the address of --listen is one of this host, and free"
	}
	return s.peerGone()
}

// peerGone is for a peer that was there.
func (s Scene) peerGone() string {
	return fmt.Sprintf("see whether %s still runs on the other host, and whether the network between is up; then begin again on both sides", s.otherProgram())
}

func strangers(s Scene) string {
	if s.Certified {
		return "compare the ca-cert.pem of both hosts, and the names in the other's certificate with --peer-name"
	}
	return fmt.Sprintf("each side names the other with --peer: compare with what `%s id` prints there", s.otherProgram())
}

// reasonOf is the row of a code.
func reasonOf(code transport.Code) reason {
	if r, ok := reasons[code]; ok {
		return r
	}
	return unknownReason
}

// exitCode turns how a migration ended into the program's exit status. NeedsReset has no
// status of its own: who reads a status of 1 to 10 has to read the outcome, too.
func exitCode(o migration.Outcome, code transport.Code, remote bool) int {
	switch {
	case o == migration.Committed:
		return exitCommitted
	case o == migration.InDoubt:
		return exitInDoubt
	case o == migration.NeedsReset && code == 0: // no cause but the device itself
		return exitLocal
	case remote:
		return reasonOf(code).there
	}
	return reasonOf(code).here
}

// ofCode is the hint for a cause that is known by its code alone.
func (s Scene) ofCode(code transport.Code, remote bool) string {
	if remote {
		return reasonOf(code).hintThere(s)
	}
	return reasonOf(code).hintHere(s)
}

// CodeOf is the code of an error of an engine or a carrier, and whether the peer reported it.
func CodeOf(err error) (code transport.Code, remote bool) {
	if f, ok := errors.AsType[*transport.Fault](err); ok {
		return f.Code, f.Remote
	}
	switch {
	case err == nil:
		return 0, false
	case errors.Is(err, context.Canceled):
		return transport.CodeCancelled, false
	case errors.Is(err, transport.ErrUnreachable), errors.Is(err, transport.ErrPeerGone):
		return transport.CodeNetwork, false
	}
	if code = transport.CodeOf(err); code == transport.CodeNetwork { // its answer to what it does not know
		code = transport.CodeInternal
	}
	return code, false
}

// Result is how a run ended: what the report, the done event and the exit
// code are made of.
type Result struct {
	Scene
	Report    migration.Report
	Preflight *migration.Preflight // of --dry-run, nil otherwise
	Started   bool                 // the engine ran
	Err       error
	Verified  map[string]bool // whether devices hold the state of the source, where they can tell
}

// Exit is the exit code of the run.
func (v Result) Exit() int {
	if v.Preflight != nil && v.Err == nil {
		return exitCommitted // it would be
	}
	if _, ok := errors.AsType[*Mistake](v.Err); ok && v.Report.Outcome != migration.InDoubt {
		return exitUsage
	}
	code, remote := CodeOf(v.Err)
	return exitCode(v.Report.Outcome, code, remote)
}

// outcome is that of a migration, or "preflight" for a dry run.
func (v Result) outcome() string {
	if v.Preflight != nil {
		return "preflight"
	}
	return v.Report.Outcome.String()
}
