package ui

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
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
		{transport.CodeHeld, exitLocal, exitPeer},
		{transport.CodeUnknown, exitPeer, exitPeer},
		{transport.CodeWitness, exitIncompatible, exitIncompatible},
		{transport.CodeDecided, exitPeer, exitPeer},
		{transport.CodeLost, exitPeer, exitPeer},
		{transport.CodeBothMayRun, exitPeer, exitPeer},
		{999, exitInternal, exitPeer},
	}
	for _, tt := range tests {
		if got := exitCode(migration.Aborted, tt.code, false); got != tt.local {
			t.Errorf("%v here: exit %d, want %d", tt.code, got, tt.local)
		}
		if got := exitCode(migration.Aborted, tt.code, true); got != tt.remote {
			t.Errorf("%v at the peer: exit %d, want %d", tt.code, got, tt.remote)
		}
		for o, want := range map[migration.Outcome]int{migration.Committed: 0, migration.InDoubt: 11, migration.NeedsReset: tt.remote} {
			if got := exitCode(o, tt.code, true); got != want {
				t.Errorf("%v with %v: exit %d, want %d", o, tt.code, got, want)
			}
		}
	}
}

func TestExitCodeWithoutReason(t *testing.T) {
	if got := exitCode(migration.NeedsReset, 0, false); got != exitLocal {
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
		{fmt.Errorf("x: %w", context.Canceled), transport.CodeCancelled, false},
		{fmt.Errorf("x: %w", transport.ErrUnreachable), transport.CodeNetwork, false},
		{fmt.Errorf("x: %w", transport.ErrPeerGone), transport.CodeNetwork, false},
		{&transport.WrongPeerError{}, transport.CodeAuth, false},
		{fmt.Errorf("x: %w", transport.ErrCorrupt), transport.CodeCorrupt, false},
		{fmt.Errorf("x: %w", &transport.Fault{Code: transport.CodeStart, Remote: true, Err: errors.New("x")}), transport.CodeStart, true},
	}
	for _, tt := range tests {
		if code, remote := CodeOf(tt.err); code != tt.code || remote != tt.remote {
			t.Errorf("codeOf(%v) = %v, %v, want %v, %v", tt.err, code, remote, tt.code, tt.remote)
		}
	}
}

func TestVerdictExit(t *testing.T) {
	tests := []struct {
		name string
		v    Result
		want int
	}{
		{"usage", failed(Mistakef("", "no")), exitUsage},
		{"no sandbox, in doubt", func() Result {
			v := failed(Mistakef("", "no"))
			v.Report.Outcome = migration.InDoubt
			return v
		}(), exitInDoubt},
		{"committed", committed(), exitCommitted},
	}
	for _, tt := range tests {
		if got := tt.v.Exit(); got != tt.want {
			t.Errorf("%s: exit %d, want %d", tt.name, got, tt.want)
		}
	}
}

// scenes are all that a hint depends on besides outcome and cause.
func scenes() (all []Scene) {
	for bits := range 1 << 7 {
		on := func(i int) bool { return bits>>i&1 == 1 }
		s := Scene{Sending: on(0), Certified: on(1), Moved: on(2), LetGo: on(3), Kept: []string{"gpu0"}, Self: transport.PeerID{7}, Address: "192.0.2.7:7000"}
		if on(4) {
			s.Again = "0123"
		}
		if on(5) {
			s.Address = UnixPrefix + "sock"
		}
		if on(6) {
			s.There = &CopyThere{CopyThere: migration.CopyThere{Ready: true, Rescue: on(3)}}
		}
		all = append(all, s)
	}
	return all
}

// causes are errors of every kind that has a hint of its own, and of every code.
func causes() (all []error) {
	for code := range transport.Code(30) {
		for _, remote := range []bool{false, true} {
			all = append(all, &transport.Fault{Code: code, Remote: remote, Device: "gpu0", Err: errors.New("x")})
		}
	}
	for _, h := range causeHints {
		all = append(all, h.cause, DeviceFault("gpu0", h.cause))
	}
	for _, limit := range []reader.Limit{reader.LimitDowntime, reader.LimitFixed, reader.LimitPath, reader.LimitPrecopy, reader.LimitReinit, reader.LimitRounds, reader.LimitTimeout} {
		all = append(all, &reader.LimitError{Limit: limit}, &reader.LimitError{Limit: limit, Ready: true})
	}
	return append(all, errors.New("x"), Mistakef("mend it", "x"), transport.ErrUnreachable, transport.ErrRefusedByPeer, transport.ErrNoAddress,
		transport.ErrNoResolver, transport.ErrHungUp, &transport.WrongPeerError{Want: []transport.PeerID{{5}}, Got: transport.PeerID{6}})
}

// falseClaims are what a hint must not say beside an outcome: it would contradict it.
var falseClaims = map[migration.Outcome][]string{
	migration.InDoubt:    {"try again", "begin again", "run on"},
	migration.NeedsReset: {"try again", "begin again", "run on"},
}

// needed are what some hint has to say.
var needed = map[migration.Outcome]string{migration.NeedsReset: "reset the device"}

// TestEveryEnding walks all combinations of side, outcome and cause: the exit code is that
// of the outcome, and no hint contradicts it.
func TestEveryEnding(t *testing.T) {
	flags := knownFlags(t)
	for _, o := range []migration.Outcome{migration.Aborted, migration.InDoubt, migration.NeedsReset} {
		for _, s := range scenes() {
			for _, err := range causes() {
				v := Result{Scene: s, Report: migration.Report{Outcome: o}, Err: err}
				hints := v.Hints(o, err)
				place := fmt.Sprintf("%v, %+v, %v", o, s, err)
				if exit := v.Exit(); exit == exitCommitted || (exit == exitInDoubt) != (o == migration.InDoubt) || exit > exitInDoubt {
					t.Fatalf("%s: exit %d", place, exit)
				}
				if code, _ := CodeOf(err); len(hints) == 0 && code != transport.CodeCancelled {
					t.Fatalf("%s: no hint", place)
				}
				checkHints(t, place, strings.Join(hints, "\n"), o, flags)
			}
		}
	}
}

func checkHints(t *testing.T, place, text string, o migration.Outcome, flags map[string]bool) {
	t.Helper()
	for _, claim := range falseClaims[o] {
		if strings.Contains(text, claim) {
			t.Fatalf("%s: the hint says %q: %s", place, claim, text)
		}
	}
	if !strings.Contains(text, needed[o]) {
		t.Fatalf("%s: no hint says %q: %s", place, needed[o], text)
	}
	for _, flag := range flagName.FindAllString(text, -1) {
		if !flags[flag] {
			t.Fatalf("%s: no program has the flag %s: %s", place, flag, text)
		}
	}
}

var flagName = regexp.MustCompile(`--[a-z0-9-]+`)

// knownFlags are those of both programs and of their commands, by their manual pages.
func knownFlags(t *testing.T) map[string]bool {
	t.Helper()
	known := map[string]bool{"--help": true}
	for _, page := range []string{"mig-send.1", "mig-recv.1"} {
		text, err := os.ReadFile(filepath.Join("../cli/testdata", page))
		if err != nil {
			t.Fatal(err)
		}
		for _, flag := range flagName.FindAllString(strings.ReplaceAll(string(text), `\-`, "-"), -1) {
			known[flag] = true
		}
	}
	return known
}

// TestEveryCodeHasARow: a code that is new needs one.
func TestEveryCodeHasARow(t *testing.T) {
	for code := transport.Code(1); !strings.HasPrefix(code.String(), "code-"); code++ {
		if _, ok := reasons[code]; !ok {
			t.Errorf("%v has no row", code)
		}
	}
	if len(reasons) < 17 {
		t.Errorf("%d rows", len(reasons))
	}
}

// TestCommittedExits0 with every cause beside the outcome.
func TestCommittedExits0(t *testing.T) {
	for _, err := range causes() {
		if _, usage := errors.AsType[*Mistake](err); usage {
			continue
		}
		v := committed()
		v.Err = err
		if got := v.Exit(); got != exitCommitted {
			t.Errorf("committed with %v: exit %d", err, got)
		}
	}
}

func TestReleaseOf(t *testing.T) {
	for _, tt := range [][3]string{
		{"v1.2.3", "0123456789ab", "v1.2.3 0123456789ab"},
		{"v0.0.0-20200102030405-0123456789ab+dirty", "0123456789ab", "v0.0.0-20200102030405-0123456789ab+dirty"},
		{"(devel)", "", "(devel)"},
	} {
		if got := releaseOf(tt[0], tt[1]); got != tt[2] {
			t.Errorf("%s at %q: %q, want %q", tt[0], tt[1], got, tt[2])
		}
	}
}

func TestHumanBytes(t *testing.T) {
	tests := map[uint64]string{
		0: "0 B", 176: "176 B", 1023: "1023 B", 1024: "1.0 KiB", 300 << 20: "300.0 MiB",
		1 << 30: "1.0 GiB", 1000 << 20: "1.0 GiB", 1<<64 - 1: "16.0 EiB",
	}
	for n, want := range tests {
		if got := HumanBytes(n); got != want {
			t.Errorf("humanBytes(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestHumanTime(t *testing.T) {
	tests := map[time.Duration]string{
		0: "0.0 ms", 84*time.Millisecond + 160*time.Microsecond: "84.2 ms",
		3210 * time.Millisecond: "3.21 s", 61400 * time.Millisecond: "1m1s",
	}
	for d, want := range tests {
		if got := HumanTime(d); got != want {
			t.Errorf("humanTime(%v) = %q, want %q", d, got, want)
		}
	}
}
