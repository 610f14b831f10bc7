package writer

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff/witness"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
)

// terms are the terms on which HELLO and this side agree.
type terms struct {
	version   uint16
	chunkSize int
	lanes     int
	targets   []Target // in HELLO's order
}

// newWelcome is the answer to an accepted HELLO, of a migration or of a preflight.
func newWelcome(h *wire.Hello, t terms, journal migration.JournalID, o *Options, witness probed) *wire.Welcome {
	m := &wire.Welcome{
		Attempt: h.Attempt, Version: t.version, Journal: journal, Software: o.Software, Witness: h.Witness,
		ChunkSize: uint32(t.chunkSize), Lanes: uint16(t.lanes), Codecs: agreedCodecs(h.Codecs),
	}
	witness.describe(m)
	o.addStepTimes(m, t.targets)
	return m
}

// agree compares a HELLO with this side. It refuses everything that cannot work, while the source's
// guest still runs, and names both values.
func agree(h *wire.Hello, targets []Target, opts Options) (terms, *transport.Fault) {
	t := terms{
		version:   wire.Version,
		chunkSize: int(min(h.ChunkSize, uint32(opts.ChunkSize))), // an int of 32 bits does not hold every ChunkSize
		lanes:     min(int(h.Lanes), transport.MaxLanes),
	}
	if h.Versions.Min > wire.Version || h.Versions.Max < wire.Version {
		return t, refusal(transport.CodeVersion, "", "the source speaks protocol versions %d to %d, the destination %d to %d",
			h.Versions.Min, h.Versions.Max, wire.Version, wire.Version)
	}
	if h.ChunkSize < wire.MinChunk || h.Lanes < 1 {
		return t, refusal(transport.CodeProtocol, "", "HELLO offers chunks of %d bytes over %d lanes, the least are %d and 1", h.ChunkSize, h.Lanes, wire.MinChunk)
	}
	if here := witness.NameOf(opts.Witness); h.Witness != here {
		return t, refusal(transport.CodeWitness, "", "the source has the witness %s, the destination %s: both must have the same, or none",
			cmp.Or(transport.PeerText(h.Witness), "none"), cmp.Or(here, "none"))
	}
	t.fitMemory(opts.Memory, len(h.Devices))
	if fault := t.matchTargets(h.Devices, targets); fault != nil {
		return t, fault
	}
	for i, o := range h.Devices {
		if fault := checkCompatible(o, t.targets[i].Device); fault != nil {
			return t, fault
		}
	}
	return t, nil
}

// fitMemory reduces the lanes, and then the chunks, until they fit the memory: a source's wish is
// no reason to use more.
func (t *terms) fitMemory(memory, devices int) {
	over := func() bool { return minChunks(t.lanes, devices)*t.chunkSize > memory }
	for t.lanes > 1 && over() {
		t.lanes--
	}
	for t.chunkSize/2 >= wire.MinChunk && over() {
		t.chunkSize /= 2
	}
}

func refusal(code transport.Code, device, format string, args ...any) *transport.Fault {
	return &transport.Fault{Code: code, Device: device, Err: fmt.Errorf(format, args...)}
}

// matchTargets finds the target of each device. It refuses a set in which either side names a
// device that the other does not.
func (t *terms) matchTargets(offers []wire.DeviceOffer, targets []Target) *transport.Fault {
	at := map[string]int{}
	for i, s := range targets {
		at[s.Name] = i
	}
	seen := map[int]bool{}
	for _, o := range offers {
		i, ok := at[o.Name]
		if ok && !seen[i] {
			t.targets = append(t.targets, targets[i])
			seen[i] = true
		}
	}
	if len(t.targets) == len(offers) && len(offers) == len(targets) {
		return nil
	}
	return refusal(transport.CodeDevices, "", "the source has the devices %s, the destination has %s",
		sortedNames(len(offers), func(i int) string { return offers[i].Name }),
		sortedNames(len(targets), func(i int) string { return targets[i].Name }))
}

func sortedNames(n int, name func(int) string) string {
	all := make([]string, n)
	for i := range all {
		all[i] = transport.PeerText(name(i))
	}
	slices.Sort(all)
	return "[" + strings.Join(all, " ") + "]"
}

// checkCompatible compares both sides' descriptions of a device. An unknown value and a file match
// everything: the driver decides when the bytes arrive.
func checkCompatible(o wire.DeviceOffer, d vfio.Device) *transport.Fault {
	if o.Priority > wire.MaxPriority {
		return refusal(transport.CodeLimit, o.Name, "HELLO gives priority %d, the limit is %d", o.Priority, wire.MaxPriority)
	}
	here := vfio.Describe(d)
	if o.Driver == fileDriver || here.Driver == fileDriver {
		return nil
	}
	flags := d.Features().MigrationFlags()
	switch {
	case o.Driver != "" && here.Driver != "" && o.Driver != here.Driver:
		return refusal(transport.CodeIncompatible, o.Name, "driver %s at the source, %s at the destination", o.Driver, here.Driver)
	case o.Vendor != 0 && here.Vendor != 0 && (o.Vendor != here.Vendor || o.Device != here.Device):
		return refusal(transport.CodeIncompatible, o.Name, "PCI id %04x:%04x at the source, %04x:%04x at the destination",
			o.Vendor, o.Device, here.Vendor, here.Device)
	case o.Format != "" && here.Format != "" && o.Format != here.Format:
		return refusal(transport.CodeIncompatible, o.Name, "stream format %s at the source, %s at the destination", o.Format, here.Format)
	case o.Flags != flags:
		return refusal(transport.CodeIncompatible, o.Name, "migration flags %#x at the source, %#x at the destination", o.Flags, flags)
	}
	return nil
}

// fileDriver is the driver that a file names in its description.
const fileDriver = "file"

var preCopyFlag = vfio.Features{PreCopy: true}.MigrationFlags() &^ vfio.Features{}.MigrationFlags()

// hasPreCopy reports whether the source's device has PRE_COPY.
func hasPreCopy(o wire.DeviceOffer) bool { return o.Flags&preCopyFlag != 0 }

// listDoubts lists why a migration may fail if the source's estimates are right. Doubts refuse
// nothing: an estimate bounds no stream, in either direction.
func (t terms) listDoubts(offered []wire.DeviceOffer, most uint64) string {
	var list []string
	for _, o := range offered {
		if o.Estimate > most {
			list = append(list, fmt.Sprintf("device %s: its state is estimated at %d bytes, and a state may have %d", o.Name, o.Estimate, most))
		}
	}
	for _, s := range t.listStores(offered) {
		if s.needed > s.free {
			list = append(list, fmt.Sprintf("device %s: the state is estimated at %d bytes, holes included, and the place where it is stored has %d free", strings.Join(s.devices, ", "), s.needed, s.free))
		}
	}
	return strings.Join(list, "; ")
}

// store is a place that devices store their states in.
type store struct {
	place   string
	free    uint64   // bytes
	needed  uint64   // by the estimates, wire.MaxStream at most
	devices []string // that store there
}

// listStores lists the places for the offered states.
func (t terms) listStores(offered []wire.DeviceOffer) (all []*store) {
	for i, o := range offered {
		d, ok := t.targets[i].Device.(vfio.Storage)
		if !ok || o.Estimate == 0 {
			continue
		}
		free, place, err := d.Room()
		if err != nil {
			continue
		}
		at := slices.IndexFunc(all, func(s *store) bool { return s.place == place })
		if at < 0 {
			at, all = len(all), append(all, &store{place: place, free: free})
		}
		s := all[at]
		s.needed = min(s.needed+min(o.Estimate, wire.MaxStream), wire.MaxStream)
		s.devices = append(s.devices, o.Name)
	}
	return all
}

// agreedCodecs are the codecs that both sides have. Raw and zero always are among them.
func agreedCodecs(offered []codec.ID) (ids []codec.ID) {
	for _, c := range codec.All() {
		id := c.ID()
		if id == codec.IDRaw || id == codec.IDZero || slices.Contains(offered, id) {
			ids = append(ids, id)
		}
	}
	return ids
}
