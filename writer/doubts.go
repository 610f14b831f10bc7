package writer

import (
	"fmt"
	"slices"
	"strings"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/vfio"
)

// doubts are the reasons for which a migration may fail if the source's estimates were
// right. They refuse nothing: an estimate bounds no stream, in either direction.
func (t terms) doubts(offered []transport.DeviceOffer, most uint64) string {
	var list []string
	for _, o := range offered {
		if o.Estimate > most {
			list = append(list, fmt.Sprintf("device %s: its state is estimated at %d bytes, and a state may have %d", o.Name, o.Estimate, most))
		}
	}
	for _, s := range t.stores(offered) {
		if s.needed > s.free {
			list = append(list, fmt.Sprintf("device %s: the state is estimated at %d bytes, holes included, and the place where it is stored has %d free", strings.Join(s.devices, ", "), s.needed, s.free))
		}
	}
	return strings.Join(list, "; ")
}

// store is a place that devices put their states into.
type store struct {
	place   string
	free    uint64   // bytes
	needed  uint64   // by the estimates, transport.MaxStream at most
	devices []string // that need it
}

// stores are the places that the offered states would go to.
func (t terms) stores(offered []transport.DeviceOffer) (all []*store) {
	for i, o := range offered {
		d, ok := t.sinks[i].Device.(vfio.Storage)
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
		s.needed = min(s.needed+min(o.Estimate, transport.MaxStream), transport.MaxStream)
		s.devices = append(s.devices, o.Name)
	}
	return all
}
