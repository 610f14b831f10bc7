package writer

import (
	"fmt"
	"strings"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/vfio"
)

// doubts are the reasons for which a migration would fail if the source's estimates were
// right. They refuse nothing: an estimate bounds no stream, in either direction.
func (t terms) doubts(offered []transport.DeviceOffer, sinks []Sink, most uint64) string {
	var list []string
	needed, first := map[string]uint64{}, map[string]string{}
	for i, o := range offered {
		if o.Estimate > most {
			list = append(list, fmt.Sprintf("device %s: its state is estimated at %d bytes, and a state may have %d", o.Name, o.Estimate, most))
		}
		stored, ok := sinks[t.order[i]].Device.(vfio.Storage)
		if !ok {
			continue
		}
		free, place, err := stored.Room()
		if err != nil {
			continue
		}
		before := needed[place]
		needed[place] += min(o.Estimate, transport.MaxStream)
		names := o.Name
		if first[place] != "" {
			names = first[place] + ", " + o.Name
		}
		first[place] = names
		if needed[place] > free && before <= free {
			list = append(list, fmt.Sprintf("device %s: the state is estimated at %d bytes, and the place where it is stored has %d free", names, needed[place], free))
		}
	}
	return strings.Join(list, "; ")
}
