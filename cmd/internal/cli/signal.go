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

// cancelOnSignal returns a context that the first SIGINT, SIGTERM or SIGHUP cancels. A further
// signal does not kill the program: a device between two states would stay there. It prints
// what the program still waits for, by the function waiting, until stop is called: the report
// follows, and no signal may lose it. A further SIGHUP prints nothing: a terminal that is lost
// sends more than one.
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

// awaitSignal waits for the first SIGINT or SIGTERM after the call of tell. SIGHUP does not
// count: a terminal may be lost with the network that the migration has lost.
func awaitSignal(told io.Writer, tell func()) {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM) // before tell: its reader may act at once
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

// abortOnPanic makes a panic in any goroutine end the program by SIGABRT: Go would exit with 2,
// which is the status for a wrong command line. The kernel writes no core, since buffers hold
// secrets of guests.
func abortOnPanic() {
	// RLIMIT_CORE is not enough: 0 does not stop a core that core_pattern pipes into a
	// program, and 1, which does, cannot be set where the hard limit is 0 (do_coredump in
	// the kernel's fs/coredump.c). PR_SET_DUMPABLE also hides the memory and the fds from
	// processes of the same user without CAP_SYS_PTRACE.
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
