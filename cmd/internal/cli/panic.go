package cli

import (
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// abortOnPanic makes a panic, in whichever goroutine, end the program by
// SIGABRT: Go's own end is an exit with 2, which says that the command line is
// wrong. No core is left, since buffers hold guests' secrets.
func abortOnPanic() {
	// 0 stops cores that are files, and only 1 those that core_pattern pipes
	// into a program too (do_coredump in the kernel's fs/coredump.c). It fails
	// where the limit is 0 already.
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1, Max: 1})
	debug.SetTraceback("crash")
}
