package main

import (
	"bytes"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/migpipe/migpipe/test/vm/guestapi"
)

// process is a program that runs, or has run, in the guest.
type process struct {
	cmd            *exec.Cmd
	stdout, stderr output
	done           chan none // closed when it has ended and its own output is complete
}

// start starts a program that inherits files as fd 3, 4, ...
func start(c *guestapi.Command, files []*os.File) (*process, error) {
	p := &process{cmd: exec.Command(c.Argv[0], c.Argv[1:]...), done: make(chan none)}
	p.cmd.Env = append([]string{"HOME=/root", "PATH=/bin", "TMPDIR=/tmp"}, c.Env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	p.cmd.ExtraFiles = files
	p.cmd.WaitDelay = 5 * time.Second // for the output of what the program leaves running
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { // ends with the program
		p.cmd.Wait() // ProcessState has the exit status
		close(p.done)
	}()
	return p, nil
}

func (p *process) result() guestapi.Result {
	r := guestapi.Result{Stdout: p.stdout.String(), Stderr: p.stderr.String()}
	select {
	case <-p.done:
		r.Exited, r.Exit = true, p.cmd.ProcessState.ExitCode()
	default:
	}
	return r
}

// output collects what a program writes while others look at it.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}
