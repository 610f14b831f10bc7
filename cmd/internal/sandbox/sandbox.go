// Package sandbox takes from a process the files that it does not need: whoever
// takes it over, by way of a hostile peer or device, finds keys, guests' disks and
// the rest of the host out of reach.
//
// It is Landlock, which needs no privilege, and the capabilities that root has. What was
// opened before stays open and may be used as before, devices and sockets included. Networks,
// and connecting to unix sockets that have a path, are not affected.
//
// A rule is tied to the file or directory that has its name when the rule is made. Another
// one that is renamed over it is out of reach. So no file is named here that may be
// replaced: the package broker opens those.
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
	// Self says that the process reads what the kernel knows of it: the time that it
	// has taken, its memory and its limits.
	Self bool
	// Programs says that the process will run others, as hooks are. They would
	// inherit the sandbox, and what they need only their author knows: then nothing is
	// restricted. To have both, start a helper that runs them before Enter.
	Programs bool
	// Abstract says that the process connects to an abstract unix socket of another one.
	Abstract bool
	// Keep are the capabilities that the process needs further, if it has them.
	Keep []Capability
}

// Status says what a process has given up.
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
// directories, of which those that are not there do not matter. It sends no signals to
// processes outside, and connects over TCP to name servers at most, where dns is set.
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

// Enter restricts the whole process, for good, to what it needs, as far as the
// kernel can: one without Landlock restricts no files, and the Status says so. An error says
// that a restriction failed that the kernel has, as it does for a path that is not there; the
// process must not go on.
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

// erratumSignals is the bit of the erratum that says that threads of one process may send
// each other signals, which Go's do (Documentation/userspace-api/landlock.rst, erratum 2).
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
