// Package exe runs programs that a user has configured, without arguments and without a
// shell. A time limit ends a program and its process group.
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

// maxOutput is the number of bytes that are retained of each output of a program.
const maxOutput = 256

// Find returns the absolute path of a program, which it looks up in PATH. It refuses a program
// that another user could change, since that user would gain this user's rights.
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

// AttemptEnv returns the environment of a program: the attempt (the id of its migration and its
// epoch), the side, and more.
func AttemptEnv(migration string, epoch uint64, side string, more ...string) []string {
	return append([]string{"MIGPIPE_MIGRATION=" + migration, fmt.Sprintf("MIGPIPE_EPOCH=%d", epoch), "MIGPIPE_SIDE=" + side}, more...)
}

// Run runs a program with this process's environment and env. It returns the beginning of the
// program's stdout. The error has the beginning of its stderr. Only the program's own exit status
// counts: Run does not wait for processes that the program has started, even if they have its
// outputs open. If ctx ends before the program, Run kills the program and those processes.
func Run(ctx context.Context, path string, env []string) (string, error) {
	cmd := exec.CommandContext(ctx, path)
	cmd.Env = append(os.Environ(), env...)
	// ^C on a terminal is for this process only. It must not end the program.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	printed, complaint, err := runCommand(cmd)
	if state := cmd.ProcessState; state != nil && state.Success() { // even if ctx has ended since
		return printed, nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("the program took too long and was killed: %w", err)
		}
	}
	if text := strings.TrimSpace(complaint); text != "" {
		err = fmt.Errorf("%w: %q", err, text)
	}
	return printed, err
}

// runCommand waits for the end of the program and returns its outputs. It does not use the pipes
// of [exec.Cmd], which waits until the last process has closed them.
func runCommand(cmd *exec.Cmd) (stdout, stderr string, err error) {
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
	out.startReading()
	complaint.startReading()
	if err == nil {
		err = cmd.Wait()
	}
	return out.finish(), complaint.finish(), err
}

// output is the pipe of stdout or stderr, and the beginning of the bytes from it.
type output struct {
	r, w *os.File
	text []byte
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

// startReading reads the pipe. The caller calls it when the program has its end of the pipe.
func (o *output) startReading() {
	o.w.Close()
	go func() { // finish ends it
		defer close(o.done)
		_, _ = io.Copy(o, o.r)
	}()
}

// Write retains the first maxOutput bytes of all writes.
func (o *output) Write(p []byte) (int, error) {
	o.text = append(o.text, p[:min(len(p), maxOutput-len(o.text))]...)
	return len(p), nil
}

// finish returns the bytes that the program wrote before it ended. Another process may still have
// the pipe open and write to it.
func (o *output) finish() string {
	_ = o.r.SetReadDeadline(aLongTimeAgo)
	<-o.done
	o.readRest()
	o.r.Close()
	return string(o.text)
}

// aLongTimeAgo is a deadline that has passed.
var aLongTimeAgo = time.Unix(1, 0)

// readRest reads the bytes that are still in the pipe. It does not wait for more, since
// [os.Pipe] makes the descriptor non-blocking.
func (o *output) readRest() {
	raw, err := o.r.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		rest := make([]byte, maxOutput-len(o.text))
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
