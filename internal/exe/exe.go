// Package exe runs programs that a user has named: without arguments and
// without a shell, within a time, with a group of their own that ends with them.
package exe

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/migpipe/migpipe/internal/safefile"
	"github.com/migpipe/migpipe/transport"
)

// maxSaid bounds what is kept of each of a program's outputs, in bytes.
const maxSaid = 256

// Find is the whole path of a program, which is looked up in PATH. It refuses one that
// another user could change: that user would get this one's rights.
func Find(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		err = safefile.CheckFile(path)
	}
	if err != nil {
		return "", err
	}
	return filepath.Abs(path)
}

// Token is an attempt, a side and maybe more as the environment of a program.
func Token(attempt transport.Attempt, side string, more ...string) []string {
	return append([]string{"MIGPIPE_MIGRATION=" + attempt.Mig.String(), fmt.Sprintf("MIGPIPE_EPOCH=%d", attempt.Epoch), "MIGPIPE_SIDE=" + side}, more...)
}

// Run runs a program with an environment that is added to this process's own, and
// gives the beginning of what it printed. The error says what it said to stderr. When
// ctx ends the program is killed, and what it has started with it.
func Run(ctx context.Context, path string, env []string) (string, error) {
	cmd := exec.CommandContext(ctx, path)
	cmd.Env = append(os.Environ(), env...)
	// A terminal's ^C is for us: it must not end what is told of a step.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // for whatever else holds its output
	var out, complaint said
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err := cmd.Run()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("it took too long, and was killed: %w", err)
		}
	}
	if text := strings.TrimSpace(string(complaint.kept)); err != nil && text != "" {
		err = fmt.Errorf("%w: %q", err, text)
	}
	return string(out.kept), err
}

// said keeps the beginning of what is written to it.
type said struct{ kept []byte }

func (s *said) Write(p []byte) (int, error) {
	s.kept = append(s.kept, p[:min(len(p), maxSaid-len(s.kept))]...)
	return len(p), nil
}
