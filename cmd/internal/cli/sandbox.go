package cli

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/migpipe/migpipe/cmd/internal/broker"
	"github.com/migpipe/migpipe/cmd/internal/input"
	"github.com/migpipe/migpipe/cmd/internal/sandbox"
	"github.com/migpipe/migpipe/cmd/internal/ui"
	"github.com/migpipe/migpipe/internal/safefile"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/journal"
)

// confineHelp is the part of the help texts about the sandbox.
const confineHelp = `Once keys, peers, sockets and devices are open, the program gives up the rest of
the file system, where the kernel has Landlock: --state-dir, a witness's directory and
those of file: sinks and kept sim: devices are all that it may still open. From the
directory of a unix socket that it listens on it may remove files, and no more. A process
of its own looks the host in --to up and opens the files of --tls-dir and --peers-file
again when they have changed. It writes no file. It may read all that is below the
directory above each such file's own, or below its own if that is in /; and what is
in /etc to look a host up. With --json an event "sandbox" says what is in force;
--no-sandbox keeps all open, and so do programs that are to be run. Signals and abstract
unix sockets reach no process outside, where the kernel has Landlock 6. Root gives its
capabilities up as well, but what the run needs: CAP_DAC_OVERRIDE for files
and unix: sockets in another user's directory, CAP_NET_ADMIN for the sockets of QUIC at
mig-send where net.core.rmem_max or wmem_max is small, CAP_SYS_RESOURCE for the pipes of
unix:. An abstract socket in --to (unix:@NAME) stays in reach, and all others with it.`

// confine enters the sandbox: once everything that the run needs is open, and before it reads
// the first byte of the peer.
func (c *common) confine(end input.Endpoint, devices []input.Opened, show *ui.Observer) error {
	if c.unconfined {
		show.Confined(sandbox.Status{Why: "--no-sandbox"})
		return nil
	}
	status, err := sandbox.Enter(c.needs(end, devices))
	if err != nil {
		return ui.Mistakef("say --no-sandbox to go without", "the sandbox cannot be entered: %s", ui.PlainText(err))
	}
	show.Confined(status)
	return nil
}

// startBroker starts the process that opens files and looks up names for this one, which the
// sandbox forbids. It comes before a peer connects, which may have files read again.
func (c *common) startBroker(end input.Endpoint, devices []input.Opened) (err error) {
	files, hosts := end.Files(), c.Role == journal.Source && end.IsName()
	if c.unconfined || !sandbox.Available() || c.needs(end, devices).Programs || len(files) == 0 && !hosts {
		return nil
	}
	c.broker, err = broker.Start(files, hosts)
	if err != nil {
		return ui.Mistakef("say --no-sandbox to go without", "the process that the sandbox needs beside it cannot be started: %s", ui.PlainText(err))
	}
	return nil
}

func (c *common) endBroker() {
	if c.broker != nil {
		c.broker.Close()
	}
}

// openFile opens a file of the credentials.
func (c *common) openFile(path string) (*os.File, error) {
	if c.broker != nil {
		return c.broker.Open(path)
	}
	return safefile.Open(path)
}

// lookup is how the host in --to is found, nil for the system's way.
func (c *common) lookup() transport.LookupFunc {
	if c.broker != nil {
		return c.broker.Lookup
	}
	return nil
}

// needs are the directories in which this run still makes, renames and removes files. A
// feature that opens more files by name has to add them here. A feature that runs programs has
// to set Programs: the sandbox would confine those, too. A directory that is replaced, or
// mounted again, is out of reach:
//
//	--state-dir     a journal that is not open yet cannot be opened: the attempt is refused
//	witness dir:    out of reach, as a witness that does not answer
//	file: sink      the file does not appear, and the start of the device fails
//	sim: keep       the transition fails
//	unix: listener  the socket is not removed
//
// The broker opens the files of credentials.
func (c *common) needs(end input.Endpoint, devices []input.Opened) sandbox.Needs {
	var directories []string
	if dir := c.state.Directory(); dir != "" {
		directories = append(directories, dir)
	}
	for _, d := range devices {
		if d.Directory != "" {
			directories = append(directories, d.Directory)
		}
	}
	if dir := c.doubt.directory(); dir != "" {
		directories = append(directories, dir)
	}
	runs := slices.ContainsFunc(c.hooks, func(h *hookFlag) bool { return h.path != "" })
	needs := sandbox.Needs{Write: directories, Remove: c.socketDirectories(end), Self: c.metrics.Address != "", Programs: runs || c.doubt.runs()}
	needs.Abstract = c.Role == journal.Source && isAbstract(end.Address)
	needs.Keep = c.capabilities(end, slices.Concat(needs.Write, needs.Remove))
	return needs
}

// capabilities are those that the run needs further:
//
//	CAP_DAC_OVERRIDE  files, and the socket that a source dials, in directories that are another user's
//	CAP_NET_ADMIN     the sockets of QUIC that a source makes when it dials, where net.core.rmem_max
//	                  or wmem_max is too small for them (SO_RCVBUFFORCE)
//	CAP_SYS_RESOURCE  the pipes through which bytes pass between unix sockets (F_SETPIPE_SZ), once all
//	                  of root's together are beyond fs.pipe-user-pages-soft
func (c *common) capabilities(end input.Endpoint, dirs []string) (keep []sandbox.Capability) {
	path, local := strings.CutPrefix(end.Address, ui.UnixPrefix)
	dials := c.Role == journal.Source && local && !isAbstract(end.Address)
	if slices.ContainsFunc(dirs, func(dir string) bool { return !sandbox.Writable(dir) }) || dials && !sandbox.Searchable(filepath.Dir(path)) {
		keep = append(keep, sandbox.DACOverride)
	}
	if c.Role == journal.Source && !local && end.Prefix != ui.TLSPrefix && transport.BuffersNeedPrivilege() {
		keep = append(keep, sandbox.NetAdmin)
	}
	if local {
		keep = append(keep, sandbox.SysResource)
	}
	return keep
}

// isAbstract reports whether an address is a unix socket that has no file (unix(7)).
func isAbstract(address string) bool { return strings.HasPrefix(address, ui.UnixPrefix+"@") }

// socketDirectories are those of the sockets that this run listens on, which it removes in
// the end.
func (c *common) socketDirectories(end input.Endpoint) (directories []string) {
	addresses := []string{c.metrics.Address}
	if c.Role == journal.Destination {
		addresses = append(addresses, end.Address)
	}
	for _, address := range addresses {
		if path, ok := strings.CutPrefix(address, ui.UnixPrefix); ok && !isAbstract(address) {
			directories = append(directories, filepath.Dir(path))
		}
	}
	return directories
}
