package cli

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/file"
	"github.com/migpipe/migpipe/vfio/sim"
)

// deviceHelp is the part of the help texts about device URLs.
const deviceHelp = `Devices are NAME=URL. The name is the same on both sides; the URL says what it
is on this host:
  vfio:/dev/vfio/devices/vfio0   a VFIO device, by the path of its cdev
  vfio:0000:3b:00.1              by its PCI address
  vfio:MDEV-UUID                 by the UUID of a mediated device
  fd:N                           by an inherited file descriptor: of a VFIO
                                 device, or of a pipe, socket or file whose
                                 content is the device's stream
  fdname:NAME                    the same by the name that systemd has given it
                                 (OpenFile=, FileDescriptorName=)
  file:PATH                      a file with the device's stream; at the
                                 destination it appears when all is committed,
                                 and file:PATH?overwrite=1 may replace one
  sim:PROFILE[?size=1GiB&...]    a simulated device, to try things out: see the
                                 help topic sim`

// device is one --device flag.
type device struct {
	name   string
	scheme string
	rest   string // of the URL
}

// schemes are what a URL may begin with.
var schemes = []string{"vfio", "fd", "fdname", "sim", "file"}

// role is which end of a migration a device is to be.
type role int

const (
	source role = iota
	sink
)

// lanes is the role that such an end has on its lanes.
func (r role) lanes() transport.Role {
	if r == source {
		return transport.RoleSend
	}
	return transport.RoleRecv
}

// journal is the side that such an end's journals are of.
func (r role) journal() journal.Role {
	if r == sink {
		return journal.Destination
	}
	return journal.Source
}

// parseDevices reads the --device flags of one command line.
func parseDevices(flags []string, r role) ([]device, error) {
	if len(flags) == 0 {
		return nil, mistakef("name a device as in --device nic0=vfio:0000:3b:00.1", "no --device is given")
	}
	if len(flags) > wire.MaxDevices {
		return nil, mistakef("", "%d devices, at most %d", len(flags), wire.MaxDevices)
	}
	list := make([]device, 0, len(flags))
	for _, flag := range flags {
		d, err := parseDevice(flag, r)
		if err != nil {
			return nil, err
		}
		if err := d.clash(list); err != nil {
			return nil, err
		}
		list = append(list, d)
	}
	return list, nil
}

func parseDevice(flag string, r role) (device, error) {
	const hint = "write --device NAME=URL, as in nic0=vfio:0000:3b:00.1"
	name, url, ok := strings.Cut(flag, "=")
	if !ok {
		return device{}, mistakef(hint, "--device %.80q has no name", flag)
	}
	if err := checkName(name); err != nil {
		return device{}, mistakef(hint, "--device %.80q: the name %v", flag, err)
	}
	scheme, rest, ok := strings.Cut(url, ":")
	d := device{name: name, scheme: scheme, rest: rest}
	switch {
	case !ok:
		return d, mistakef("a URL begins with "+schemeList(), "device %s: %.80q is not a device URL", name, url)
	case rest == "":
		return d, mistakef("see --help for the forms of a device URL", "device %s: nothing follows %q", name, scheme+":")
	}
	return d, d.check(r)
}

// check finds what is wrong with a URL without opening anything.
func (d device) check(r role) error {
	var err error
	switch d.scheme {
	case "vfio":
		err = vfio.CheckName(d.rest)
	case "fd", "fdname":
		_, err = d.fd()
	case "file":
		if r == sink {
			_, _, err = file.ParseSink(d.rest)
		} else {
			_, err = file.ParseSource(d.rest)
		}
	case "sim":
		if _, _, err = sim.Parse(d.rest); err != nil {
			return mistakef("for example sim:mlx5?size=300MiB&dirty=20MiB/s", "device %s: %s", d.name, plainText(err))
		}
	default:
		return mistakef("the schemes are "+schemeList(), "device %s: unknown scheme %.20q", d.name, d.scheme)
	}
	if err != nil {
		return mistakef("see --help for the forms of a device URL", "device %s: %s", d.name, plainText(err))
	}
	return nil
}

func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("is empty")
	case len(name) > wire.MaxName:
		return fmt.Errorf("is longer than %d bytes", wire.MaxName)
	case strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) || r == ' ' || r == unicode.ReplacementChar }):
		return errors.New("has a space or a character that cannot be printed")
	}
	return nil
}

// clash finds the same device twice.
func (d device) clash(others []device) error {
	for _, o := range others {
		switch {
		case o.name == d.name:
			return mistakef("give every device a name of its own", "two devices have the name %s", d.name)
		case o.scheme == d.scheme && o.rest == d.rest && d.scheme != "sim":
			return mistakef("", "devices %s and %s are both %s", o.name, d.name, d)
		case d.keep() != "" && o.keep() == d.keep():
			return mistakef("give every device a file of its own", "devices %s and %s are both kept in %s", o.name, d.name, d.keep())
		}
	}
	return nil
}

// String is the device's URL.
func (d device) String() string { return d.scheme + ":" + d.rest }

// ours says that the device's state ends with this program.
func (d device) ours() bool { return d.scheme == "vfio" || d.scheme == "sim" && d.keep() == "" }

// lent says that somebody else has the device open too, so that what it holds outlives
// this program. An inherited pipe or file is none: what was written to it is no state.
func (d device) lent(dev vfio.Device) bool {
	if kept, ok := dev.(interface{ Found() bool }); ok {
		return kept.Found() // a new one holds nothing, whoever is to find it later
	}
	return d.isFD() && !isFile(dev)
}

// isFile says that a device is really a file, or a pipe.
func isFile(dev vfio.Device) bool { return vfio.Describe(dev).Driver == "file" }

// keep is the file that a simulated device is kept in, "" for all others.
func (d device) keep() string {
	if d.scheme != "sim" {
		return ""
	}
	_, o, err := sim.Parse(d.rest)
	if err != nil { // which check has refused
		return ""
	}
	return o.Keep
}

// address is what the device is on this host, as the journal records it: "" where the next
// process cannot know it by more than its name.
func (d device) address() string {
	var path string
	switch {
	case d.scheme == "vfio":
		address, err := vfio.Address(d.rest)
		if err != nil { // which check has refused
			return ""
		}
		return "vfio:" + address
	case d.keep() != "":
		path = d.keep()
	case d.scheme == "file":
		path = d.rest
		if sinkPath, _, err := file.ParseSink(d.rest); err == nil {
			path = sinkPath
		}
	default:
		return ""
	}
	if absolute, err := filepath.Abs(path); err == nil {
		path = absolute
	}
	return d.scheme + ":" + path
}

// journalDevices are the devices of a command line as the journal records them.
func journalDevices(specs []device) []journal.Device {
	list := make([]journal.Device, len(specs))
	for i, d := range specs {
		list[i] = journal.Device{Name: d.name, Address: d.address()}
	}
	return list
}

func schemeList() string { return strings.Join(schemes, ":, ") + ":" }

// open opens the device for its role. This switch is the one place that a new
// kind of device is added to.
func (d device) open(r role) (vfio.Device, error) {
	switch d.scheme {
	case "vfio":
		return vfio.Open(d.rest)
	case "sim":
		return openSim(d.rest, r)
	case "file":
		return openFile(d.rest, r)
	default:
		n, err := d.fd()
		if err != nil {
			return nil, err
		}
		return openFD(n, d.String(), r)
	}
}

// openSim opens a simulated device. At the destination it refuses a damaged state before
// COMMIT: as long as the source can take its devices back.
func openSim(rest string, r role) (vfio.Device, error) {
	profile, o, err := sim.Parse(rest)
	if err != nil {
		return nil, err
	}
	o.Strict = r == sink
	return sim.Open(profile, o)
}

func openFile(rest string, r role) (vfio.Device, error) {
	if r == source {
		path, err := file.ParseSource(rest)
		if err != nil {
			return nil, err
		}
		return file.NewSource(path)
	}
	path, o, err := file.ParseSink(rest)
	if err != nil {
		return nil, err
	}
	return file.NewSink(path, o)
}

// completeDevice offers what may follow NAME=. The name is the user's.
func completeDevice(_ *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
	name, url, ok := strings.Cut(word, "=")
	if !ok {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var list []string
	for _, scheme := range schemes {
		if scheme != "sim" || !strings.HasPrefix(url, "sim:") {
			list = append(list, name+"="+scheme+":")
		}
	}
	for _, p := range sim.Profiles() {
		list = append(list, name+"=sim:"+p.Name+"\t"+p.Doc)
	}
	return list, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

// completeWords offers a fixed list.
func completeWords(words ...string) cobra.CompletionFunc {
	return cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)
}
