package cli

import (
	"runtime/debug"

	"golang.org/x/sys/unix"
)

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
