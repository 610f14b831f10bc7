package witness

import (
	"context"
	"fmt"
	"strings"

	"github.com/migpipe/migpipe/internal/exe"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
)

// Exec is a witness that a program asks: an entry of etcd, an object of Kubernetes,
// a lease of sanlock. It is run without arguments and without a shell, with
//
//	MIGPIPE_MIGRATION  the migration, 32 hexadecimal digits
//	MIGPIPE_EPOCH      the attempt
//	MIGPIPE_SIDE       who asks: source or destination
//
// in its environment. It must give the register to the first that asks, print who
// has it (source or destination, one line), and exit with 0. Anything else is no
// answer, and it is asked again. Both sides' programs must ask the same register:
// that they do, their author answers for.
type Exec struct{ path string }

// NewExec is the witness that a program asks, which is looked up in PATH.
func NewExec(name string) (*Exec, error) {
	path, err := exe.Find(name)
	if err != nil {
		return nil, fmt.Errorf("witness exec:%s: %w", name, err)
	}
	return &Exec{path}, nil
}

// Name is the same for all programs: none knows the other side's.
func (*Exec) Name() string { return "exec" }

// Decide runs the program. When ctx ends it is killed.
func (e *Exec) Decide(ctx context.Context, attempt migration.Attempt, me handoff.Side) (handoff.Side, error) {
	out, err := exe.Run(ctx, e.path, exe.AttemptEnv(attempt.Mig.String(), attempt.Epoch, me.String()))
	if err == nil {
		var winner handoff.Side
		if winner, err = parseSide(strings.TrimSuffix(out, "\n")); err == nil {
			return winner, nil
		}
	}
	return 0, fmt.Errorf("witness exec:%s: %w", e.path, err)
}
