package reader

import (
	"errors"
	"fmt"
	"slices"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff/witness"
	"github.com/migpipe/migpipe/vfio"
)

// hello is the offer of this side. The number of lanes depends on the carrier, and is set later.
func hello(opts Options, sources []Source) *wire.Hello {
	m := &wire.Hello{
		Attempt:   opts.Attempt,
		Versions:  wire.Versions{Min: wire.Version, Max: wire.Version},
		Journal:   opts.Journal.ID(),
		ChunkSize: uint32(opts.ChunkSize),
		Software:  opts.Software,
		Witness:   witness.NameOf(opts.Witness),
	}
	for _, c := range codec.All() {
		m.Codecs = append(m.Codecs, c.ID())
	}
	for _, s := range sources {
		m.Devices = append(m.Devices, offer(s))
	}
	return m
}

// checkRunning refuses a device that is not in RUNNING: its session cannot be had again, and only
// its owner knows its next state.
func checkRunning(sources []Source) error {
	for _, s := range sources {
		now, err := s.Device.State()
		if err == nil && now != vfio.Running {
			err = fmt.Errorf("device is in %v, not in %v: move it there or reset it first", now, vfio.Running)
		}
		if err != nil {
			return &transport.Fault{Code: transport.CodeDevice, Device: s.Name, Err: err}
		}
	}
	return nil
}

// checkP2P refuses a set in which a device that still runs could reach a stopped one by DMA: a
// device without RUNNING_P2P must be alone. Files reach no device.
func checkP2P(sources []Source, o Options) error {
	live := slices.DeleteFunc(slices.Clone(sources), func(s Source) bool { return vfio.Describe(s.Device).Driver == fileDriver })
	if o.WithoutP2P || len(live) < 2 {
		return nil
	}
	for _, s := range live {
		if !s.Device.Features().P2P {
			return &transport.Fault{Code: transport.CodeIncompatible, Device: s.Name,
				Err: fmt.Errorf("%w: one of %d devices has no RUNNING_P2P", ErrNoP2P, len(live))}
		}
	}
	return nil
}

// ErrNoP2P says that a device must be migrated alone: the others could reach it by DMA while it is
// stopped.
var ErrNoP2P = errors.New("other devices could reach it by DMA while it is stopped")

// fileDriver is the driver that a file names in its description.
const fileDriver = "file"

func offer(s Source) wire.DeviceOffer {
	info := vfio.Describe(s.Device)
	o := wire.DeviceOffer{
		Name: s.Name, Driver: info.Driver, Vendor: info.Vendor, Device: info.Device,
		Subsystem: info.Subsystem, Kernel: info.Kernel, Format: info.Format,
		Flags: s.Device.Features().MigrationFlags(), Priority: uint8(s.Priority),
	}
	if n, err := s.Device.StopCopySize(); err == nil {
		o.Estimate = n
	}
	return o
}

// checkWelcome checks WELCOME against the offer.
func checkWelcome(h *wire.Hello, w *wire.Welcome) error {
	switch {
	case w.Version < h.Versions.Min || w.Version > h.Versions.Max:
		return fmt.Errorf("%w: WELCOME chose version %d, offered %d to %d", transport.ErrProtocol, w.Version, h.Versions.Min, h.Versions.Max)
	case w.ChunkSize < wire.MinChunk || w.ChunkSize > h.ChunkSize:
		return fmt.Errorf("%w: WELCOME chose chunks of %d bytes, offered %d", transport.ErrProtocol, w.ChunkSize, h.ChunkSize)
	case w.Lanes == 0 || w.Lanes > h.Lanes:
		return fmt.Errorf("%w: WELCOME chose %d lanes, offered %d", transport.ErrProtocol, w.Lanes, h.Lanes)
	case len(w.Splice) > len(h.Devices) || slices.Contains(w.Splice, true) && !h.Devices[0].Splice:
		return fmt.Errorf("%w: WELCOME asks for spliced chunks, which were not offered", transport.ErrProtocol)
	case w.Witness != h.Witness:
		return fmt.Errorf("%w: WELCOME names the witness %.80q, offered %q: the other release may know none", transport.ErrProtocol, w.Witness, h.Witness)
	case len(w.Windows) != len(h.Devices):
		return fmt.Errorf("%w: WELCOME has windows for %d devices, offered %d", transport.ErrProtocol, len(w.Windows), len(h.Devices))
	}
	return nil
}

// codecFilter restricts a policy to the codecs that the destination takes. The destination always
// takes raw and zero.
type codecFilter struct {
	codec.Policy
	takes [256]bool
}

func newCodecFilter(p codec.Policy, ids []codec.ID) *codecFilter {
	o := &codecFilter{Policy: p}
	for _, id := range ids {
		o.takes[id] = true
	}
	return o
}

func (o *codecFilter) Choose(device int, src []byte) codec.Choice {
	c := o.Policy.Choose(device, src)
	if !o.takes[c.Codec.ID()] {
		c.Codec = codec.Raw
	}
	return c
}

// Inform implements [codec.Informed].
func (o *codecFilter) Inform(perSecond float64, lanes int) {
	if p, ok := o.Policy.(codec.Informed); ok {
		p.Inform(perSecond, lanes)
	}
}
