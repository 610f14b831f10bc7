package cli

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/migpipe/migpipe/cmd/internal/sandbox"
	"github.com/migpipe/migpipe/transport/report"
	"github.com/migpipe/migpipe/vfio/file"
)

// confined is the event that says what of the sandbox is in force. The kind is in
// --json only: to people it is of no use before something is wrong.
const confined report.Kind = "sandbox"

// confineHelp is the part of the help texts about the sandbox.
const confineHelp = `Once keys, peers, sockets and devices are open, the program gives up the rest of
the file system, where the kernel has Landlock: --state-dir, a witness's folder and
those of unix sockets, file: sinks and kept sim: devices are all that it may still
open. With --json an event "sandbox" says what is in force; --no-sandbox keeps all
open, and so do programs that are to be run.`

// jsonSandbox has the version of Landlock that is in force, or why none is.
type jsonSandbox struct {
	jsonHead
	Landlock int    `json:"landlock"`
	Why      string `json:"why,omitempty"`
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

// needs is what this run still opens by name. Whoever lets a run open more adds it
// here; whoever lets it run programs sets Programs, which they would be confined
// with.
func (c *common) needs(end endpoint, devices []opened) sandbox.Needs {
	var folders []string
	if dir := c.state.folder(); dir != "" {
		folders = append(folders, dir)
	}
	if path, ok := strings.CutPrefix(end.address, unixPrefix); ok && c.role == sink { // removed in the end
		folders = append(folders, filepath.Dir(path))
	}
	for _, d := range devices {
		if d.folder != "" {
			folders = append(folders, d.folder)
		}
	}
	for _, dir := range []string{c.doubt.folder(), c.metrics.folder()} {
		if dir != "" {
			folders = append(folders, dir)
		}
	}
	runs := slices.ContainsFunc(c.hooks, func(h *hookFlag) bool { return h.path != "" })
	return sandbox.Needs{Write: folders, Self: c.metrics.address != "", Programs: runs || c.doubt.runs()}
}

// folder is where a device that is open still makes files, "" for those that make
// none.
func (d device) folder(r role) string {
	path := d.keep()
	if d.scheme == "file" && r == sink {
		path, _, _ = file.ParseSink(d.rest) // which check has done before
	}
	if path == "" {
		return ""
	}
	return filepath.Dir(path)
}
