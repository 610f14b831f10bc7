package cli

import (
	"context"
	"errors"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
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
	exitIntegrity    = 8  // what arrived is not what was sent
	exitCancelled    = 9  // somebody cancelled
	exitTimeout      = 10 // something took too long
	exitInDoubt      = 11 // starting the source is unsafe
)

// exitHelp is the part of the help texts about the above.
const exitHelp = `Exit status:
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

// exitCode turns how a migration ended into the program's exit status. It is
// the only place that does. NeedsReset has no status of its own: beside 1 to 10
// nobody may go by the status alone.
func exitCode(o handoff.Outcome, code transport.Code, remote bool) int {
	switch {
	case o == handoff.Committed:
		return exitCommitted
	case o == handoff.InDoubt:
		return exitInDoubt
	case o == handoff.NeedsReset && code == 0: // no cause but the device itself
		return exitLocal
	}
	switch code {
	case transport.CodeVersion, transport.CodeDevices, transport.CodeIncompatible:
		return exitIncompatible
	case transport.CodeCorrupt, transport.CodeIncomplete:
		return exitIntegrity
	case transport.CodeCancelled:
		return exitCancelled
	case transport.CodeTimeout:
		return exitTimeout
	case transport.CodeNetwork:
		return exitNetwork
	case transport.CodeAuth:
		return exitAuth
	case transport.CodeProtocol:
		return exitPeer
	}
	return exitOfSide(code, remote)
}

// exitOfSide is for reasons that mean one thing here and another over there.
func exitOfSide(code transport.Code, remote bool) int {
	switch code {
	case transport.CodeBusy, transport.CodeLimit, transport.CodeDevice, transport.CodeValidation, transport.CodeStart, transport.CodeHeld:
		if !remote {
			return exitLocal
		}
	}
	if remote {
		return exitPeer
	}
	return exitInternal
}

// codeOf finds the reason in any error that the engines and carriers give.
func codeOf(err error) (code transport.Code, remote bool) {
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
