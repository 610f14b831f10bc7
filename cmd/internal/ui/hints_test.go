package ui

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/writer"
)

func TestHints(t *testing.T) {
	fault := func(code transport.Code, remote bool) error {
		return &transport.Fault{Code: code, Remote: remote, Err: errors.New("x")}
	}
	send := Scene{Sending: true, Self: transport.PeerID{7}, Address: "192.0.2.7:7000"}
	recv := Scene{Self: transport.PeerID{8}, Address: "unix:/run/mig"}
	tests := []struct {
		scene   Scene
		outcome migration.Outcome
		err     error
		want    string // "" for no hint at all
	}{
		{send, migration.Aborted, Mistakef("do this", "x"), "do this"},
		{send, migration.Aborted, Mistakef("", "x"), ""},
		{send, migration.InDoubt, fault(transport.CodeNetwork, false), "do NOT start the guest here"},
		{recv, migration.InDoubt, fault(transport.CodeNetwork, false), "start nothing here"},
		{recv, migration.NeedsReset, fault(transport.CodeDevice, false), "reset the device"},
		{send, migration.Aborted, &transport.WrongPeerError{Got: peerID}, "--peer " + peerID.String()},
		{send, migration.Aborted, &transport.WrongPeerError{Want: []transport.PeerID{{5}}}, "expected " + transport.PeerID{5}.String()},
		{send, migration.Aborted, fmt.Errorf("x: %w", transport.ErrRefusedByPeer), "--peer " + send.Self.String() + " to the mig-recv"},
		{send, migration.Aborted, fmt.Errorf("x: %w", &transport.CertificateError{Of: "f", Err: fs.ErrPermission, Hint: "its own"}), "its own"},
		{Scene{Sending: true, Certified: true}, migration.Aborted, fmt.Errorf("x: %w", transport.ErrRefusedByPeer), "mig-recv gave the reason in brackets: if it is about the names"},
		{Scene{Certified: true}, migration.Aborted, fault(transport.CodeAuth, true), "compare the ca-cert.pem"},
		{send, migration.Aborted, fmt.Errorf("x: %w", transport.ErrUnreachable), "listening at 192.0.2.7:7000"},
		{send, migration.Aborted, fmt.Errorf("%w: %w", transport.ErrUnreachable, &transport.PathMTUError{MTU: 1200, Need: 1228}), "raise the MTU of the path; or use TLS, which has no such limit: --to tls://192.0.2.7:7000"},
		{Scene{Sending: true, Prefix: AutoPrefix, Address: "192.0.2.7:7000"}, migration.Aborted, fmt.Errorf("%w: %w", transport.ErrUnreachable, &transport.PathMTUError{MTU: 1200, Need: 1228}), "let UDP or TCP through"},
		{send, migration.Aborted, fmt.Errorf("%w: %w", transport.ErrUnreachable, transport.ErrNoAddress), "getent hosts"},
		{send, migration.Aborted, fmt.Errorf("%w: %w", transport.ErrUnreachable, transport.ErrNoResolver), "resolv.conf"},
		{recv, migration.Aborted, fmt.Errorf("x: %w", transport.ErrNoAddress), "getent hosts"},
		{Scene{Sending: true, Address: "unix:/run/mig"}, migration.Aborted, transport.ErrUnreachable, "--listen unix:/run/mig"},
		{recv, migration.Aborted, fmt.Errorf("x: %w", syscall.EADDRINUSE), "another port"},
		{recv, migration.Aborted, fmt.Errorf("x: %w", syscall.EADDRNOTAVAIL), "no interface"},
		{recv, migration.Aborted, &vfio.OpError{Err: fs.ErrPermission, Hint: "its own"}, "its own"},
		{recv, migration.Aborted, fmt.Errorf("x: %w", fs.ErrPermission), "run as root"},
		{recv, migration.Aborted, DeviceFault("d", vfio.ErrBusy), "has it open"},
		{recv, migration.Aborted, DeviceFault("d", vfio.ErrNoMigration), "cannot migrate"},
		{recv, migration.Aborted, DeviceFault("d", fs.ErrExist), "overwrite=1"},
		{send, migration.Aborted, fault(transport.CodeVersion, true), "same release"},
		{send, migration.Aborted, fault(transport.CodeDevices, true), "same names"},
		{send, migration.Aborted, fault(transport.CodeIncompatible, true), "same model"},
		{recv, migration.Aborted, fault(transport.CodeCorrupt, false), "try again"},
		{Scene{Moved: true}, migration.Aborted, fault(transport.CodeLimit, false), "--max-state"},
		{Scene{Sending: true, Moved: true}, migration.Aborted, fault(transport.CodeLimit, true), "--max-state"},
		{send, migration.Aborted, fault(transport.CodeLimit, true), "another mig-recv on another port"},
		{recv, migration.Aborted, DeviceFault("d", &vfio.OpError{Kind: vfio.ErrBusy, Err: syscall.EBUSY}), "has it open"},
		{recv, migration.Aborted, DeviceFault("d", &vfio.OpError{Kind: vfio.ErrNoMigration}), "cannot migrate"},
		{recv, migration.Aborted, DeviceFault("d", fmt.Errorf("x: %w", syscall.ENOSPC)), "free some space"},
		{recv, migration.Aborted, onNetwork(syscall.EACCES), "as the same user"},
		{recv, migration.Aborted, onNetwork(syscall.ENOENT), "make the directory"},
		{recv, migration.Aborted, onNetwork(syscall.ENAMETOOLONG), "a shorter path"},
		{recv, migration.Aborted, DeviceFault("d", syscall.ENOENT), "dmesg"},
		{recv, migration.Aborted, DeviceFault("d", &vfio.OpError{Op: "open", Err: syscall.ENOENT}), "nothing on this host has that path"},
		{Scene{Sending: true, Address: "unix:/run/mig"}, migration.Aborted, fmt.Errorf("%w: %w", transport.ErrUnreachable, syscall.ENOENT), "--listen unix:/run/mig"},
		{recv, migration.Aborted, fault(transport.CodeAuth, false), "mig-send id"},
		{send, migration.Aborted, fault(transport.CodeStart, true), "see what mig-recv said"},
		{send, migration.Aborted, fault(transport.CodeStart, false), "dmesg"},
		{send, migration.Aborted, fault(transport.CodeCancelled, true), ""},
		{send, migration.Aborted, fmt.Errorf("x: %w", reader.ErrNoWitness), "mend it, or say --on-limit force"},
		{recv, migration.Aborted, fmt.Errorf("x: %w", writer.ErrNoWitness), "mend it, or say --on-limit force"},
		// Each hint names the limit that was reached.
		{send, migration.Aborted, &reader.LimitError{Limit: reader.LimitTimeout}, "raise --abort-after"},
		{send, migration.Aborted, &reader.LimitError{Limit: reader.LimitPrecopy}, "raise --max-precopy, if"},
		{send, migration.Aborted, &reader.LimitError{Limit: reader.LimitRounds}, "raise --max-rounds; or"},
		{send, migration.Aborted, &reader.LimitError{Limit: reader.LimitPrecopy, Ready: true}, "or raise --max-precopy"},
		{send, migration.Aborted, &reader.LimitError{Limit: reader.LimitRounds, Ready: true}, "or raise --max-rounds"},
		{send, migration.Aborted, &reader.LimitError{Limit: reader.LimitDowntime, Ready: true}, "raise --downtime-target, or say --on-limit force"},
		{send, migration.Aborted, &reader.LimitError{Limit: reader.LimitFixed}, "raise --downtime-target, or shorten these steps"},
		{send, migration.Aborted, fixedBy(migration.StageAccept), "is removed from the --state-dir at mig-recv"},
		{send, migration.Aborted, fixedBy(migration.StageStart), "is removed from the --state-dir at mig-recv"},
		{send, migration.Aborted, fixedBy(migration.StageDecide), "step-times.json is removed from the --state-dir here"},
		{send, migration.Aborted, fixedBy(migration.StageStop, migration.StageDecide, migration.StageAccept), "is removed from the --state-dir here and at mig-recv"},
	}
	for _, tt := range tests {
		got := strings.Join(tt.scene.Hints(tt.outcome, tt.err), "\n")
		if !strings.Contains(got, tt.want) || tt.want == "" && got != "" {
			t.Errorf("%v, %v: hints %q, want %q", tt.outcome, tt.err, got, tt.want)
		}
	}
}

// TestNoTimesOfTheLastRun: a witness that is slow has none.
func TestNoTimesOfTheLastRun(t *testing.T) {
	if got := limitHint(fixedBy(migration.StageWitness)); strings.Contains(got, "step-times") {
		t.Errorf("hint %q", got)
	}
}

// fixedBy is a limit that stages alone are over.
func fixedBy(names ...string) *reader.LimitError {
	l := &reader.LimitError{Limit: reader.LimitFixed}
	for _, name := range names {
		l.Stages = append(l.Stages, migration.PredictedStage{Name: name, Span: migration.Span{Took: time.Second}})
	}
	return l
}

func onNetwork(err error) error {
	return &transport.Fault{Code: transport.CodeNetwork, Err: fmt.Errorf("listen: %w", err)}
}

func TestErrorText(t *testing.T) {
	op := &vfio.OpError{Op: "open", Device: "0000:3b:00.1", Offset: -1, Err: fs.ErrPermission, Hint: "run as root"}
	tests := []struct {
		err  error
		want string
	}{
		{errors.New("transport: gone"), "gone"},
		{DeviceFault("nic0", op), "device nic0: 0000:3b:00.1: open: permission denied"},
		{&transport.Fault{Remote: true, Err: errors.New("no")}, "the peer says: no"},
		{fmt.Errorf("receive: transport: %w (bad certificate)", transport.ErrRefusedByPeer), "the peer refused this side's identity (bad certificate)"},
		{errors.Join(errors.New("one"), errors.New("two")), "one; two"},
		{
			fmt.Errorf("reader: %w", &transport.Fault{Remote: true, Device: "nic0", Offset: 42, Err: errors.New("writer: no")}),
			"the peer says: device nic0 at byte 42: no",
		},
	}
	for _, tt := range tests {
		if got := ErrorText(tt.err); got != tt.want {
			t.Errorf("errorText(%q) = %q, want %q", tt.err, got, tt.want)
		}
	}
}
