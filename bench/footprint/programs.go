package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/migpipe/migpipe/bench/internal/resident"
)

// programs are the two programs, built as users get them, in a directory of their own. It
// also has their keys and journals.
type programs struct{ dir string }

func build(ctx context.Context, dir string) (programs, error) {
	list := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/migpipe/migpipe")
	home, err := list.Output() // this module does not know what the programs import
	if err != nil {
		return programs{}, fmt.Errorf("%v: %w", list, err)
	}
	c := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", dir, "./cmd/mig-send", "./cmd/mig-recv")
	c.Dir = strings.TrimSpace(string(home))
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		return programs{}, fmt.Errorf("%v: %w\n%s", c, err, out)
	}
	return programs{dir}, nil
}

func (p programs) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, filepath.Join(p.dir, name), args...)
	c.Env = append(os.Environ(), "XDG_CONFIG_HOME="+p.dir, "GOGC=", "GOMEMLIMIT=") // the programs have their own
	c.Stderr = os.Stderr
	return c
}

// id is the identity of a program, for its peer.
func (p programs) id(ctx context.Context, name string) (string, error) {
	out, err := p.command(ctx, name, "id").Output()
	return strings.TrimSpace(string(out)), err
}

// footprint is the memory of one process in RAM.
type footprint struct {
	peak   int64
	memory []resident.Sample
}

// move migrates a device from one process to another, over QUIC. Both write journals, as
// in production, wherever the directory is.
func (p programs) move(ctx context.Context, s state) (send, recv footprint, err error) {
	source, err1 := p.id(ctx, "mig-send")
	destination, err2 := p.id(ctx, "mig-recv")
	if err := errors.Join(err1, err2); err != nil {
		return send, recv, err
	}
	ctx, cancel := context.WithCancel(ctx) // ends the processes that are left
	defer cancel()
	common := []string{"--volatile-state", "--state-dir", p.dir, "--peer"}
	r := p.command(ctx, "mig-recv", append(common, source, "--json", "--listen", "127.0.0.1:0", "--device", "d=sim:vgpu")...)
	out, err := r.StdoutPipe()
	if err != nil {
		return send, recv, err
	}
	received, err := start(r)
	if err != nil {
		return send, recv, err
	}
	address, err1 := listening(out)
	if err1 == nil {
		send, err1 = p.send(ctx, s, append(common, destination, "--to", address))
	}
	if err1 != nil {
		cancel()
	}
	recv, err2 = received()
	return send, recv, errors.Join(err1, err2)
}

func (p programs) send(ctx context.Context, s state, args []string) (footprint, error) {
	sent, err := start(p.command(ctx, "mig-send", append(args, "-q", "--max-precopy", "10m", "--device", "d="+s.url())...))
	if err != nil {
		return footprint{}, err
	}
	return sent()
}

// sampleEvery is the time between two samples of a process's memory.
const sampleEvery = 100 * time.Millisecond

// start starts a process. wait waits for its end.
func start(c *exec.Cmd) (wait func() (footprint, error), err error) {
	if err := c.Start(); err != nil {
		return nil, err
	}
	stop := resident.Watch(c.Process.Pid, sampleEvery)
	return func() (footprint, error) {
		err := c.Wait()
		f := footprint{memory: stop()}
		if err != nil {
			return f, fmt.Errorf("%v: %w", c, err)
		}
		f.peak = int64(c.ProcessState.SysUsage().(*syscall.Rusage).Maxrss) << 10
		// The kernel's account includes the memory of this process at the fork.
		if own, err := ownPeak(); err != nil || own >= f.peak {
			return f, fmt.Errorf("%v: the peak of %d bytes may be that of this process, which had %d (%v)", c, f.peak, own, err)
		}
		return f, nil
	}, nil
}

// ownPeak is the peak of this process in RAM, in bytes, without its parent's memory.
func ownPeak() (int64, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, value, _ := strings.Cut(string(status), "\nVmHWM:")
	var kib int64
	if _, err := fmt.Sscan(value, &kib); err != nil {
		return 0, fmt.Errorf("/proc/self/status has no VmHWM: %w", err)
	}
	return kib << 10, nil
}

// listening returns the address that mig-recv prints. It discards the later output.
func listening(out io.Reader) (address string, err error) {
	lines := bufio.NewReader(out)
	line, err := lines.ReadBytes('\n')
	var event struct{ Address string }
	if err == nil {
		err = json.Unmarshal(line, &event)
	}
	if err != nil || event.Address == "" {
		return "", fmt.Errorf("mig-recv says %q and no address: %w", line, err)
	}
	go io.Copy(io.Discard, lines) // the end of the process ends it
	return event.Address, nil
}
