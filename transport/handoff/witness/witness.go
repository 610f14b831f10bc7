// Package witness has registers outside of both hosts that decide who has the
// devices of an attempt when nobody else can: written once, by whoever asks first.
//
// A register never runs anything and proves nothing about who does. It keeps two
// sides from taking the devices over each without the other's word.
package witness

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
)

// Timeout bounds one question of the engines to a witness.
const Timeout = 5 * time.Second

// Witness has one register for each attempt.
type Witness interface {
	// Name tells this witness from all others, at most MaxName bytes: the two sides
	// compare it. It is the same on both hosts, whatever way leads there.
	Name() string
	// Decide asks for the attempt's register in the name of one side, and says who has
	// it: me, if nobody had asked before or if this side had it already. After an error
	// the winner is unknown, and may be either. It returns when ctx ends; what was
	// asked may take effect all the same.
	Decide(ctx context.Context, attempt transport.Attempt, me handoff.Side) (winner handoff.Side, err error)
}

// NameOf is the name of a witness, "" for none.
func NameOf(w Witness) string {
	if w == nil {
		return ""
	}
	return w.Name()
}

// Ask asks for the register of an attempt that was begun with a witness: the one
// with that mark, and no other. It takes Timeout at most.
func Ask(ctx context.Context, w Witness, mark handoff.Register, attempt transport.Attempt, me handoff.Side) (handoff.Side, error) {
	if handoff.RegisterOf(NameOf(w)) != mark {
		return 0, fmt.Errorf("the attempt was begun with another witness than this side has now (%q)", NameOf(w))
	}
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	return w.Decide(ctx, attempt, me)
}

// MaxName is the longest name of a witness, in bytes.
const MaxName = 64

// Open opens the witness that a user names: dir:PATH or exec:PROGRAM.
func Open(url string) (Witness, error) {
	kind, rest, _ := strings.Cut(url, ":")
	switch {
	case rest == "":
	case kind == "dir":
		return OpenDir(rest)
	case kind == "exec":
		return NewExec(rest)
	}
	return nil, fmt.Errorf("witness %.80q: it is dir:PATH or exec:PROGRAM", url)
}

// parseSide reads what a register says.
func parseSide(text string) (handoff.Side, error) {
	for _, s := range []handoff.Side{handoff.SourceSide, handoff.DestSide} {
		if text == s.String() {
			return s, nil
		}
	}
	return 0, fmt.Errorf("%.40q is neither source nor destination", text)
}
