package cli

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
)

func TestExitCodeOfReasons(t *testing.T) {
	tests := []struct {
		code          transport.Code
		local, remote int
	}{
		{transport.CodeInternal, exitInternal, exitPeer},
		{transport.CodeVersion, exitIncompatible, exitIncompatible},
		{transport.CodeDevices, exitIncompatible, exitIncompatible},
		{transport.CodeIncompatible, exitIncompatible, exitIncompatible},
		{transport.CodeBusy, exitLocal, exitPeer},
		{transport.CodeLimit, exitLocal, exitPeer},
		{transport.CodeCorrupt, exitIntegrity, exitIntegrity},
		{transport.CodeIncomplete, exitIntegrity, exitIntegrity},
		{transport.CodeDevice, exitLocal, exitPeer},
		{transport.CodeValidation, exitLocal, exitPeer},
		{transport.CodeStart, exitLocal, exitPeer},
		{transport.CodeCancelled, exitCancelled, exitCancelled},
		{transport.CodeTimeout, exitTimeout, exitTimeout},
		{transport.CodeProtocol, exitPeer, exitPeer},
		{transport.CodeNetwork, exitNetwork, exitNetwork},
		{transport.CodeAuth, exitAuth, exitAuth},
		{999, exitInternal, exitPeer},
	}
	for _, tt := range tests {
		if got := exitCode(handoff.Rolledback, tt.code, false); got != tt.local {
			t.Errorf("%v here: exit %d, want %d", tt.code, got, tt.local)
		}
		if got := exitCode(handoff.Rolledback, tt.code, true); got != tt.remote {
			t.Errorf("%v at the peer: exit %d, want %d", tt.code, got, tt.remote)
		}
		for o, want := range map[handoff.Outcome]int{handoff.Committed: 0, handoff.InDoubt: 11, handoff.NeedsReset: tt.remote} {
			if got := exitCode(o, tt.code, true); got != want {
				t.Errorf("%v with %v: exit %d, want %d", o, tt.code, got, want)
			}
		}
	}
}

func TestExitCodeWithoutReason(t *testing.T) {
	if got := exitCode(handoff.NeedsReset, 0, false); got != exitLocal {
		t.Errorf("a device that cannot be brought back: exit %d, want %d", got, exitLocal)
	}
}

func TestCodeOf(t *testing.T) {
	tests := []struct {
		err    error
		code   transport.Code
		remote bool
	}{
		{nil, 0, false},
		{errors.New("surprise"), transport.CodeInternal, false},
		{fmt.Errorf("accept: %w", cancelled{}), transport.CodeCancelled, false},
		{fmt.Errorf("x: %w", context.Canceled), transport.CodeCancelled, false},
		{fmt.Errorf("x: %w", transport.ErrUnreachable), transport.CodeNetwork, false},
		{fmt.Errorf("x: %w", transport.ErrPeerGone), transport.CodeNetwork, false},
		{&transport.WrongPeerError{}, transport.CodeAuth, false},
		{fmt.Errorf("x: %w", transport.ErrCorrupt), transport.CodeCorrupt, false},
		{fmt.Errorf("x: %w", &transport.Fault{Code: transport.CodeStart, Remote: true, Err: errors.New("x")}), transport.CodeStart, true},
	}
	for _, tt := range tests {
		if code, remote := codeOf(tt.err); code != tt.code || remote != tt.remote {
			t.Errorf("codeOf(%v) = %v, %v, want %v, %v", tt.err, code, remote, tt.code, tt.remote)
		}
	}
}

func TestVerdictExit(t *testing.T) {
	tests := []struct {
		name string
		v    verdict
		want int
	}{
		{"usage", failed(mistakef("", "no")), exitUsage},
		{"no sandbox, in doubt", func() verdict {
			v := failed(mistakef("", "no"))
			v.report.Outcome = handoff.InDoubt
			return v
		}(), exitInDoubt},
		{"committed", committed(), exitCommitted},
		{"damaged", func() verdict { v := committed(); v.damage = errors.New("other state"); return v }(), exitIntegrity},
	}
	for _, tt := range tests {
		if got := tt.v.exit(); got != tt.want {
			t.Errorf("%s: exit %d, want %d", tt.name, got, tt.want)
		}
	}
}
