// Package sandbox takes from a process the files that it does not need. An attacker who takes
// the process over, by a hostile peer or device, cannot reach keys, disks of guests, or other
// files of the host.
//
// The sandbox is Landlock, which needs no privilege, and a drop of the capabilities of root.
// Files, devices and sockets that are open stay open, and work as before. Networks, and
// connections to unix sockets with a path, are not restricted.
//
// A rule is tied to the file or directory that has the name when the rule is made. A file that
// is renamed over it later is out of reach. So no rule names a file that may be replaced: the
// package broker opens those.
package sandbox

import (
	"fmt"

	"github.com/landlock-lsm/go-landlock/landlock"
	llsys "github.com/landlock-lsm/go-landlock/landlock/syscall"
)

// Needs is what a process still opens by name.
type Needs struct {
	// Write are directories in and below which files are listed, read, written, made,
	// renamed within their directory and removed, and sockets made.
	Write []string
	// Remove are directories in and below which files are removed, and nothing else is done:
	// the kernel has no narrower word for a file that is to be removed in the end.
	Remove []string
	// Self allows the process to read what the kernel knows of it: its CPU time, its memory and
	// its limits.
	Self bool
	// Programs means that the process will run other programs, as hooks are. They would inherit
	// the sandbox, and only their authors know what they need: then nothing is restricted. To
	// have both, start a helper that runs them before Enter.
	Programs bool
	// Abstract allows a connection to an abstract unix socket of another process.
	Abstract bool
	// Keep are the capabilities that the process still needs, if it has them.
	Keep []Capability
}

// Status is what the sandbox of a process restricts.
type Status struct {
	ABI        int          // the version of Landlock that is in force, 0 where it restricts nothing
	Why        string       // it restricts nothing, if so
	Scopes     []string     // what reaches no process outside: signal, abstract-unix-socket
	Privileges bool         // no_new_privs is set, and no capability is left but those of Left
	Left       []Capability // of Needs.Keep
}

// self is what that is read from; where all of it is hidden, nothing is.
var self = []string{"/proc/self/stat", "/proc/self/limits", "/proc/stat"}

// newest is the newest version of Landlock whose restrictions are meant here: 9
// also restricts whom unix sockets connect to.
const newest = 8

const mayRead = llsys.AccessFSReadFile

const mayWrite = llsys.AccessFSReadFile | llsys.AccessFSReadDir | llsys.AccessFSWriteFile |
	llsys.AccessFSTruncate | llsys.AccessFSMakeReg | llsys.AccessFSMakeSock | llsys.AccessFSRemoveFile

const mayRemove = llsys.AccessFSRemoveFile

// Available reports whether the kernel has Landlock.
func Available() bool {
	_, err := llsys.LandlockGetABIVersion()
	return err == nil
}

// dnsPort is where name servers are asked that have more to say than fits into a packet.
const dnsPort = 53

// EnterReader restricts the whole process, for good, to reading files in and below some
// directories. A directory that does not exist is skipped. The process can send no signals to
// processes outside, and connects over TCP to name servers at most, if dns is set.
func EnterReader(dirs []string, dns bool) error {
	rules := []landlock.Rule{landlock.PathAccess(mayRead, dirs...).IgnoreIfMissing()}
	if dns {
		rules = append(rules, landlock.ConnectTCP(dnsPort))
	}
	if err := landlock.V8.BestEffort().Restrict(rules...); err != nil {
		return fmt.Errorf("landlock: %w", err)
	}
	return nil
}

// scopesSince is the version of Landlock that restricts signals and abstract sockets.
const scopesSince = 6

// Enter restricts the whole process, for good, to what it needs, as far as the kernel can: a
// kernel without Landlock restricts no files, and the Status says so. An error means that a
// restriction failed which the kernel has, as it does for a path that does not exist; the
// process must end then.
func Enter(n Needs) (Status, error) {
	if n.Programs {
		return Status{Why: "programs are to be run, which would inherit it"}, nil
	}
	// First, since it reaches every thread by a signal.
	left, err := dropPrivileges(n.Keep...)
	if err != nil {
		return Status{}, err
	}
	status := Status{Privileges: true, Left: left}
	abi, err := version()
	if err != nil {
		status.Why = "the kernel has no Landlock: " + err.Error()
		return status, nil
	}
	err = landlock.V8.BestEffort().RestrictPaths(
		landlock.PathAccess(mayRead, n.self()...).IgnoreIfMissing(),
		landlock.PathAccess(mayWrite, n.Write...),
		landlock.PathAccess(mayRemove, n.Remove...),
	)
	if err != nil {
		return Status{}, fmt.Errorf("landlock (ABI %d): %w", abi, err)
	}
	if status.ABI = min(abi, newest); abi < scopesSince {
		return status, nil
	}
	scopes := landlock.ScopedSet(llsys.ScopeSignal)
	status.Scopes = []string{"signal"}
	if !n.Abstract {
		scopes |= llsys.ScopeAbstractUnixSocket
		status.Scopes = append(status.Scopes, "abstract-unix-socket")
	}
	if err := landlock.MustConfig(scopes).BestEffort().RestrictScoped(); err != nil {
		return Status{}, fmt.Errorf("landlock scopes (ABI %d): %w", abi, err)
	}
	return status, nil
}

// erratumSignals is the bit of the erratum by which threads of one process may send each other
// signals, as those of Go do (Documentation/userspace-api/landlock.rst, erratum 2).
const erratumSignals = 1 << 1

// version is the one of Landlock that package landlock restricts by: without the erratum
// the one before the scopes.
func version() (int, error) {
	abi, err := llsys.LandlockGetABIVersion()
	if err != nil || abi < scopesSince {
		return abi, err
	}
	if errata, err := llsys.LandlockGetErrata(); err != nil || errata&erratumSignals == 0 {
		return scopesSince - 1, nil
	}
	return abi, nil
}

func (n Needs) self() []string {
	if n.Self {
		return self
	}
	return nil
}
