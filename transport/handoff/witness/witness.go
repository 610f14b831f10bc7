// Package witness has registers outside of both hosts that decide who has the
// devices of an attempt when neither side can: each is written once, by the side that asks first.
//
// A register never runs anything and proves nothing about who does. It keeps two
// sides from taking the devices over each without the other's word.
package witness

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
)

// Timeout bounds one question of the engines to a witness.
const Timeout = 5 * time.Second

// Witness has one register for each attempt.
type Witness interface {
	// Name tells this witness from all others, at most MaxName bytes: the two sides
	// compare it. It is the same on both hosts, by any path.
	Name() string
	// Decide asks for the attempt's register in the name of one side, and says who has
	// it: me, if no side had asked before or if this side had it already. After an error
	// the winner is unknown, and may be either. It returns when ctx ends; what was
	// asked may take effect all the same.
	Decide(ctx context.Context, attempt migration.Attempt, me handoff.Side) (winner handoff.Side, err error)
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
func Ask(ctx context.Context, w Witness, mark handoff.Register, attempt migration.Attempt, me handoff.Side) (handoff.Side, error) {
	if handoff.RegisterOf(NameOf(w)) != mark {
		return 0, fmt.Errorf("the attempt was begun with another witness than this side has now (%q)", NameOf(w))
	}
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	return w.Decide(ctx, attempt, me)
}

// Probe asks a witness for the register of a migration that does not exist, in the name
// of one side, and gives the time that the answer took. The error says that the witness
// gives no answer, or the wrong one: a new register belongs to the first side that asks.
// It takes Timeout at most, and may be called at any time, for no migration has the
// register.
func Probe(ctx context.Context, w Witness, me handoff.Side) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	unused := migration.Attempt{Mig: migration.NewID(), Epoch: 1}
	decide := w.Decide
	if dir, ok := w.(*Dir); ok {
		decide = dir.decideAndRemove
	}
	began := time.Now()
	winner, err := decide(ctx, unused, me)
	if err == nil && winner != me {
		err = fmt.Errorf("witness %s: the %v was the first to ask for a register, and the %v has it", w.Name(), me, winner)
	}
	return time.Since(began), err
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
