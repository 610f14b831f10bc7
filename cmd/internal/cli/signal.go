package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// cancelOnSignal gives a context that the first SIGINT, SIGTERM or SIGHUP
// cancels. A further one does not kill: devices that are half way between two
// states would stay there. It says what is still being waited for, which waiting knows,
// until stop: what follows is the report, and no signal may cost that either. A further
// SIGHUP says nothing: a terminal that is lost sends more than one.
func cancelOnSignal(program string, told io.Writer, waiting func() string) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // as nohup asks for
		signal.Notify(signals, syscall.SIGHUP)
	}
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() { // stop ends it
		defer close(ended)
		for {
			select {
			case s := <-signals:
				again := ctx.Err() != nil && s != syscall.SIGHUP
				cancel(cancelled{s}) // before anything is written: a terminal may have stopped (^S)
				if again {
					fmt.Fprintf(told, "%s: still cancelling: %s\n", program, waiting())
				}
				eraseEcho(told)
			case <-done:
				return
			}
		}
	}()
	return ctx, func() { close(done); <-ended; cancel(nil) }
}

// awaitSignal waits for the first SIGINT or SIGTERM that comes once tell is
// called. A terminal that is lost decides nothing: where networks fail, it fails
// with them.
func awaitSignal(told io.Writer, tell func()) {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM) // before tell: who reads what it says may act at once
	signal.Ignore(syscall.SIGHUP)
	tell()
	<-signals
	eraseEcho(told)
}

// eraseEcho removes the ^C that a terminal shows at the place where the bars
// are drawn next.
func eraseEcho(told io.Writer) {
	if term.IsTerminal(int(os.Stderr.Fd())) {
		fmt.Fprint(told, "\r\x1b[K")
	}
}

// Cancelled is the cause that a signal gives to a context.
type cancelled struct{ signal os.Signal }

func (c cancelled) Error() string { return "cancelled: " + c.signal.String() }
func (c cancelled) Unwrap() error { return context.Canceled }

// abortOnPanic makes a panic, in whichever goroutine, end the program by
// SIGABRT: Go's own end is an exit with 2, which says that the command line is
// wrong. No core is left, since buffers hold guests' secrets.
func abortOnPanic() {
	// RLIMIT_CORE alone would not do: 0 does not stop cores that core_pattern pipes
	// into a program, and 1, which does, cannot be had where the hard limit is 0
	// (do_coredump in the kernel's fs/coredump.c). This also keeps the memory and
	// the fds from other processes of the same user: that takes CAP_SYS_PTRACE.
	err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	if err == nil {
		// An execve makes a program dumpable again (prctl(2)); the limit outlasts it,
		// and children inherit it.
		err = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	}
	if err != nil {
		panic(err) // the kernel takes 0 from everybody
	}
	debug.SetTraceback("crash")
}
