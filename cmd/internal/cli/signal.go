package cli

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// cancelOnSignal gives a context that the first SIGINT, SIGTERM or SIGHUP
// cancels. A further one does not kill: devices that are half way between two
// states would stay there, so it only says what is being waited for.
func cancelOnSignal(program string) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // as nohup asks for
		signal.Notify(signals, syscall.SIGHUP)
	}
	done := make(chan struct{})
	go func() { // stop ends it
		for {
			select {
			case s := <-signals:
				if ctx.Err() != nil {
					fmt.Fprintf(os.Stderr, "%s: still cancelling: waiting for the devices to come back\n", program)
				}
				cancel(cancelled{s})
			case <-done:
				return
			}
		}
	}()
	return ctx, func() { signal.Stop(signals); close(done); cancel(nil) }
}

// cancelled is the cause that a signal gives to a context.
type cancelled struct{ signal os.Signal }

func (c cancelled) Error() string { return "cancelled: " + c.signal.String() }
func (c cancelled) Unwrap() error { return context.Canceled }
