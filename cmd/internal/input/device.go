// Package input turns the values of flags into what a migration needs: addresses, devices, keys
// and certificates, inherited descriptors, sizes.
package input

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/migpipe/migpipe/cmd/internal/ui"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/file"
	"github.com/migpipe/migpipe/vfio/sim"
)

// DeviceHelp is the part of the help texts about device URLs.
const DeviceHelp = `Devices are NAME=URL. The name is the same on both sides; the URL says what it
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

// Device is one --device flag.
type Device struct {
	Name   string
	Scheme string
	Rest   string // of the URL
}

// Schemes are what a URL may begin with.
var Schemes = []string{"vfio", "fd", "fdname", "sim", "file"}

// ParseDevices reads the --device flags of one command line.
func ParseDevices(flags []string, r journal.Role) ([]Device, error) {
	if len(flags) == 0 {
		return nil, ui.Mistakef("name a device as in --device nic0=vfio:0000:3b:00.1", "no --device is given")
	}
	if len(flags) > wire.MaxDevices {
		return nil, ui.Mistakef("", "%d devices, at most %d", len(flags), wire.MaxDevices)
	}
	list := make([]Device, 0, len(flags))
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

func parseDevice(flag string, r journal.Role) (Device, error) {
	const hint = "write --device NAME=URL, as in nic0=vfio:0000:3b:00.1"
	name, url, ok := strings.Cut(flag, "=")
	if !ok {
		return Device{}, ui.Mistakef(hint, "--device %.80q has no name", flag)
	}
	if err := checkName(name); err != nil {
		return Device{}, ui.Mistakef(hint, "--device %.80q: the name %v", flag, err)
	}
	scheme, rest, ok := strings.Cut(url, ":")
	d := Device{Name: name, Scheme: scheme, Rest: rest}
	switch {
	case !ok:
		return d, ui.Mistakef("a URL begins with "+schemeList(), "device %s: %.80q is not a device URL", name, url)
	case rest == "":
		return d, ui.Mistakef("see --help for the forms of a device URL", "device %s: nothing follows %q", name, scheme+":")
	}
	return d, d.check(r)
}

// check refuses a URL that is wrong. It opens nothing.
func (d Device) check(r journal.Role) error {
	var err error
	switch d.Scheme {
	case "vfio":
		err = vfio.CheckName(d.Rest)
	case "fd", "fdname":
		_, err = d.fd()
	case "file":
		if r == journal.Destination {
			_, _, err = file.ParseDestination(d.Rest)
		} else {
			_, err = file.ParseSource(d.Rest)
		}
	case "sim":
		if _, _, err = sim.Parse(d.Rest); err != nil {
			return ui.Mistakef("for example sim:mlx5?size=300MiB&dirty=20MiB/s", "device %s: %s", d.Name, ui.PlainText(err))
		}
	default:
		return ui.Mistakef("the schemes are "+schemeList(), "device %s: unknown scheme %.20q", d.Name, d.Scheme)
	}
	if err != nil {
		return ui.Mistakef("see --help for the forms of a device URL", "device %s: %s", d.Name, ui.PlainText(err))
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

// clash refuses a device that is there already.
func (d Device) clash(others []Device) error {
	for _, o := range others {
		switch {
		case o.Name == d.Name:
			return ui.Mistakef("give every device a name of its own", "two devices have the name %s", d.Name)
		case o.Scheme == d.Scheme && o.Rest == d.Rest && d.Scheme != "sim":
			return ui.Mistakef("", "devices %s and %s are both %s", o.Name, d.Name, d)
		case d.Keep() != "" && o.Keep() == d.Keep():
			return ui.Mistakef("give every device a file of its own", "devices %s and %s are both kept in %s", o.Name, d.Name, d.Keep())
		}
	}
	return nil
}

// String is the device's URL.
func (d Device) String() string { return d.Scheme + ":" + d.Rest }

// ours reports whether the state of the device ends with this program.
func (d Device) ours() bool { return d.Scheme == "vfio" || d.Scheme == "sim" && d.Keep() == "" }

// Outlives reports whether what the device holds can outlive the program.
func (d Device) Outlives() bool { return d.IsFD() || d.Keep() != "" }

// lent reports whether another process has the device open, too, so that its state outlives
// this program. An inherited pipe or file has no state.
func (d Device) lent(dev vfio.Device) bool {
	if kept, ok := dev.(interface{ Found() bool }); ok {
		return kept.Found() // a new one holds nothing yet
	}
	return d.IsFD() && !IsFile(dev)
}

// IsFile reports whether a device is a file or a pipe.
func IsFile(dev vfio.Device) bool { return vfio.Describe(dev).Driver == "file" }

// Keep is the file with the state of a simulated device, "" for all others.
func (d Device) Keep() string {
	if d.Scheme != "sim" {
		return ""
	}
	_, o, err := sim.Parse(d.Rest)
	if err != nil { // which check has refused
		return ""
	}
	return o.Keep
}

// Address is what the device is on this host, as the journal records it: "" where the next
// process cannot know it by more than its name.
func (d Device) Address() string {
	var path string
	switch {
	case d.Scheme == "vfio":
		address, err := vfio.Address(d.Rest)
		if err != nil { // which check has refused
			return ""
		}
		return "vfio:" + address
	case d.Keep() != "":
		path = d.Keep()
	case d.Scheme == "file":
		path = d.Rest
		if sinkPath, _, err := file.ParseDestination(d.Rest); err == nil {
			path = sinkPath
		}
	default:
		return ""
	}
	if absolute, err := filepath.Abs(path); err == nil {
		path = absolute
	}
	return d.Scheme + ":" + path
}

// JournalDevices are the devices of a command line as the journal records them.
func JournalDevices(specs []Device) []journal.Device {
	list := make([]journal.Device, len(specs))
	for i, d := range specs {
		list[i] = journal.Device{Name: d.Name, Address: d.Address()}
	}
	return list
}

func schemeList() string { return strings.Join(Schemes, ":, ") + ":" }

// open opens the device for its role. This switch is the one place that a new
// kind of device is added to.
func (d Device) open(r journal.Role) (vfio.Device, error) {
	switch d.Scheme {
	case "vfio":
		return vfio.Open(d.Rest)
	case "sim":
		return openSim(d.Rest, r)
	case "file":
		return openFile(d.Rest, r)
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
func openSim(rest string, r journal.Role) (vfio.Device, error) {
	profile, o, err := sim.Parse(rest)
	if err != nil {
		return nil, err
	}
	o.Strict = r == journal.Destination
	return sim.Open(profile, o)
}

func openFile(rest string, r journal.Role) (vfio.Device, error) {
	if r == journal.Source {
		path, err := file.ParseSource(rest)
		if err != nil {
			return nil, err
		}
		return file.NewSource(path)
	}
	path, o, err := file.ParseDestination(rest)
	if err != nil {
		return nil, err
	}
	return file.NewDestination(path, o)
}

// CompleteDevice offers what may follow NAME=. The name is the user's.
func CompleteDevice(_ *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
	name, url, ok := strings.Cut(word, "=")
	if !ok {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var list []string
	for _, scheme := range Schemes {
		if scheme != "sim" || !strings.HasPrefix(url, "sim:") {
			list = append(list, name+"="+scheme+":")
		}
	}
	for _, p := range sim.Profiles() {
		list = append(list, name+"=sim:"+p.Name+"\t"+p.Doc)
	}
	return list, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}
