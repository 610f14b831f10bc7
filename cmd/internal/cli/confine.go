package cli

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/migpipe/migpipe/cmd/internal/broker"
	"github.com/migpipe/migpipe/cmd/internal/sandbox"
	"github.com/migpipe/migpipe/internal/safefile"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio/file"
)

// confined is the event that says what of the sandbox is in force. The kind is in
// --json only: to people it is of no use before something is wrong.
const confined migration.Kind = "sandbox"

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

// jsonSandbox has the version of Landlock that is in force, or why none is, and what else
// the process has dropped.
type jsonSandbox struct {
	jsonHead
	Landlock     int       `json:"landlock"`
	Why          string    `json:"why,omitempty"`
	Scopes       []string  `json:"scopes,omitempty"`       // in which no process outside is reached
	NoNewPrivs   bool      `json:"no_new_privs,omitempty"` // and the ambient set is empty
	Capabilities *[]string `json:"capabilities,omitempty"` // that are left; absent if the process dropped none
}

func newJSONSandbox(head jsonHead, s sandbox.Status) jsonSandbox {
	out := jsonSandbox{jsonHead: head, Landlock: s.ABI, Why: s.Why, Scopes: s.Scopes, NoNewPrivs: s.Privileges}
	if s.Privileges {
		left := make([]string, len(s.Left))
		for i, c := range s.Left {
			left[i] = c.String()
		}
		out.Capabilities = &left
	}
	return out
}

// confine gives up what the run does not open any more. It comes when all that is
// to be open is, and before the first byte of the peer is read.
func (c *common) confine(end endpoint, devices []opened, show *show) error {
	if c.unconfined {
		show.confined(sandbox.Status{Why: "--no-sandbox"})
		return nil
	}
	status, err := sandbox.Enter(c.needs(end, devices))
	if err != nil {
		return mistakef("say --no-sandbox to go without", "the sandbox cannot be entered: %s", plainText(err))
	}
	show.confined(status)
	return nil
}

// startBroker starts the process that does for this one what the sandbox will keep it
// from. It comes before anybody connects, who would have files read again.
func (c *common) startBroker(end endpoint, devices []opened) (err error) {
	files, hosts := end.files(), c.role == source && end.isName()
	if c.unconfined || !sandbox.Available() || c.needs(end, devices).Programs || len(files) == 0 && !hosts {
		return nil
	}
	c.broker, err = broker.Start(files, hosts)
	if err != nil {
		return mistakef("say --no-sandbox to go without", "the process that the sandbox needs beside it cannot be started: %s", plainText(err))
	}
	return nil
}

func (c *common) endBroker() {
	if c.broker != nil {
		c.broker.Close()
	}
}

// open opens a file of the credentials.
func (c *common) open(path string) (*os.File, error) {
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

// needs is what this run still opens by name. Whoever lets a run open more adds it
// here; whoever lets it run programs sets Programs, which they would be confined
// with. All of these are directories, in which files may be made, renamed and removed. A
// directory that is itself replaced, or mounted anew, stays out of reach:
//
//	--state-dir     a journal that is not open yet cannot be opened: the attempt is refused
//	witness dir:    out of reach, as a witness that does not answer
//	file: sink      the file does not appear, and the start of the device fails
//	sim: keep       the transition fails
//	unix: listener  its socket is left
//
// Files of credentials are not among them: the broker opens those.
func (c *common) needs(end endpoint, devices []opened) sandbox.Needs {
	var directories []string
	if dir := c.state.directory(); dir != "" {
		directories = append(directories, dir)
	}
	for _, d := range devices {
		if d.directory != "" {
			directories = append(directories, d.directory)
		}
	}
	if dir := c.doubt.directory(); dir != "" {
		directories = append(directories, dir)
	}
	runs := slices.ContainsFunc(c.hooks, func(h *hookFlag) bool { return h.path != "" })
	needs := sandbox.Needs{Write: directories, Remove: c.socketDirectories(end), Self: c.metrics.address != "", Programs: runs || c.doubt.runs()}
	needs.Abstract = c.role == source && isAbstract(end.address)
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
func (c *common) capabilities(end endpoint, dirs []string) (keep []sandbox.Capability) {
	path, local := strings.CutPrefix(end.address, unixPrefix)
	dials := c.role == source && local && !isAbstract(end.address)
	if slices.ContainsFunc(dirs, func(dir string) bool { return !sandbox.Writable(dir) }) || dials && !sandbox.Searchable(filepath.Dir(path)) {
		keep = append(keep, sandbox.DACOverride)
	}
	if c.role == source && !local && end.prefix != tlsPrefix && transport.BuffersNeedPrivilege() {
		keep = append(keep, sandbox.NetAdmin)
	}
	if local {
		keep = append(keep, sandbox.SysResource)
	}
	return keep
}

// isAbstract reports whether an address is a unix socket that has no file (unix(7)).
func isAbstract(address string) bool { return strings.HasPrefix(address, unixPrefix+"@") }

// socketDirectories are those of the sockets that this run listens on, which it removes in
// the end.
func (c *common) socketDirectories(end endpoint) (directories []string) {
	addresses := []string{c.metrics.address}
	if c.role == sink {
		addresses = append(addresses, end.address)
	}
	for _, address := range addresses {
		if path, ok := strings.CutPrefix(address, unixPrefix); ok && !isAbstract(address) {
			directories = append(directories, filepath.Dir(path))
		}
	}
	return directories
}

// directory is where a device that is open still makes files, "" for those that make
// none.
func (d device) directory(r role) string {
	path := d.keep()
	if d.scheme == "file" && r == sink {
		path, _, _ = file.ParseSink(d.rest) // which check has done before
	}
	if path == "" {
		return ""
	}
	return filepath.Dir(path)
}
