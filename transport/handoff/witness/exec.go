package witness

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
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
func NewExec(program string) (*Exec, error) {
	path, err := exec.LookPath(program)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return nil, fmt.Errorf("witness exec:%s: %w", program, err)
	}
	return &Exec{path}, nil
}

// Name is the same for all programs: none knows the other side's.
func (*Exec) Name() string { return "exec" }

// Decide runs the program. When ctx ends it is killed.
func (e *Exec) Decide(ctx context.Context, attempt transport.Attempt, me handoff.Side) (handoff.Side, error) {
	cmd := exec.CommandContext(ctx, e.path)
	cmd.Env = append(os.Environ(), "MIGPIPE_MIGRATION="+attempt.Mig.String(), fmt.Sprintf("MIGPIPE_EPOCH=%d", attempt.Epoch), "MIGPIPE_SIDE="+me.String())
	cmd.WaitDelay = time.Second // for children that hold its output
	var out, complaint limited
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err := cmd.Run()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		var winner handoff.Side
		if winner, err = parseSide(strings.TrimSuffix(string(out.kept), "\n")); err == nil {
			return winner, nil
		}
	}
	if said := strings.TrimSpace(string(complaint.kept)); said != "" {
		err = fmt.Errorf("%w: %q", err, said)
	}
	return 0, fmt.Errorf("witness exec:%s: %w", e.path, err)
}

// limited keeps the beginning of what is written to it.
type limited struct{ kept []byte }

func (l *limited) Write(p []byte) (int, error) {
	l.kept = append(l.kept, p[:min(len(p), maxFile-len(l.kept))]...)
	return len(p), nil
}
