// Package exe runs programs that a user has named: without arguments and
// without a shell, within a time, with a group of their own that ends with them.
package exe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/migpipe/migpipe/internal/safefile"
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

// Token is an attempt (the id of its migration, and its epoch), a side and maybe more as the
// environment of a program.
func Token(migration string, epoch uint64, side string, more ...string) []string {
	return append([]string{"MIGPIPE_MIGRATION=" + migration, fmt.Sprintf("MIGPIPE_EPOCH=%d", epoch), "MIGPIPE_SIDE=" + side}, more...)
}

// Run runs a program with an environment that is added to this process's own, and
// returns the beginning of what the program printed. The error has the beginning of what
// the program wrote to stderr. The program's own exit status decides: what the program
// has started may run on and hold its outputs open, and nothing waits for that. When ctx
// ends before the program does, Run kills the program and all that the program has started.
func Run(ctx context.Context, path string, env []string) (string, error) {
	cmd := exec.CommandContext(ctx, path)
	cmd.Env = append(os.Environ(), env...)
	// A terminal's ^C is for us: it must not end what is told of a step.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	printed, complaint, err := run(cmd)
	if state := cmd.ProcessState; state != nil && state.Success() { // even if ctx has ended since
		return printed, nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("it took too long, and was killed: %w", err)
		}
	}
	if text := strings.TrimSpace(complaint); text != "" {
		err = fmt.Errorf("%w: %q", err, text)
	}
	return printed, err
}

// run waits for the end of the program, and returns what the program itself wrote. The
// pipes are not [exec.Cmd]'s, which waits until the last process has closed them.
func run(cmd *exec.Cmd) (stdout, stderr string, err error) {
	out, err := newOutput()
	if err != nil {
		return "", "", err
	}
	complaint, err := newOutput()
	if err != nil {
		out.close()
		return "", "", err
	}
	cmd.Stdout, cmd.Stderr = out.w, complaint.w
	err = cmd.Start()
	out.begin()
	complaint.begin()
	if err == nil {
		err = cmd.Wait()
	}
	return out.end(), complaint.end(), err
}

// output is the pipe of stdout or stderr, and the beginning of what came through it.
type output struct {
	r, w *os.File
	kept []byte
	done chan struct{}
}

func newOutput() (*output, error) {
	r, w, err := os.Pipe()
	return &output{r: r, w: w, done: make(chan struct{})}, err
}

func (o *output) close() {
	o.r.Close()
	o.w.Close()
}

// begin reads what the program writes, once the program has its end of the pipe.
func (o *output) begin() {
	o.w.Close()
	go func() { // end ends it
		defer close(o.done)
		_, _ = io.Copy(o, o.r)
	}()
}

// Write keeps the beginning of all that is written.
func (o *output) Write(p []byte) (int, error) {
	o.kept = append(o.kept, p[:min(len(p), maxSaid-len(o.kept))]...)
	return len(p), nil
}

// end returns what the program wrote before it ended. Another process may still hold the
// pipe open, and write on.
func (o *output) end() string {
	_ = o.r.SetReadDeadline(aLongTimeAgo)
	<-o.done
	o.takeRest()
	o.r.Close()
	return string(o.kept)
}

// aLongTimeAgo is a deadline that has passed.
var aLongTimeAgo = time.Unix(1, 0)

// takeRest reads what is still in the pipe, and does not wait for more: [os.Pipe] makes
// the descriptor non-blocking.
func (o *output) takeRest() {
	raw, err := o.r.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		rest := make([]byte, maxSaid-len(o.kept))
		for len(rest) > 0 {
			n, err := syscall.Read(int(fd), rest)
			if err == syscall.EINTR {
				continue
			}
			if n <= 0 {
				return
			}
			_, _ = o.Write(rest[:n])
			rest = rest[n:]
		}
	})
}
