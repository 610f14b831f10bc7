package ui

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/transport/migration"
)

// figures are the values of the events so far.
type figures struct {
	phase     string
	devices   []migration.Snapshot
	way       migration.Way
	occupancy migration.Occupancy
	predicted *migration.Forecast // of the last stop, nil before the first
	connected bool
	lost      int // connections
	held      bool
}

// latest has the figures for a scrape between two events. An event costs one assignment, whether
// or not anything scrapes.
type latest struct {
	mu  sync.Mutex
	now figures
}

func (l *latest) note(ev migration.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := &l.now
	switch ev.Kind {
	case migration.Phase:
		f.phase = ev.Phase
		if ev.Predicted != nil {
			f.predicted = ev.Predicted
		}
	case migration.Progress: // nothing writes to its slice any more
		f.devices, f.way, f.occupancy = ev.Devices, ev.Way, ev.Occupancy
	case migration.Peer, migration.Restored:
		f.connected, f.held = true, false
	case migration.Lost:
		f.connected = false
		f.lost++
	case held:
		f.connected, f.held = false, true
	}
}

func (l *latest) figures() figures {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now
}

// adder takes a value of a metric, and that of each of its labels.
type adder func(value float64, labels ...string)

// metric is one of those that are served. Its read adds nothing where nothing is known:
// a 0 would be taken for a measurement.
type metric struct {
	name, help string
	labels     []string
	kind       prometheus.ValueType
	read       func(f figures, add adder)
}

// phases are all that a migration may be in, in order.
var phases = []string{migration.Connect, migration.PreCopy, migration.WarmUp, migration.Stop, migration.StopCopy, migration.Commit, migration.Running, migration.Rollback}

// bottlenecks are those that a side can find.
var bottlenecks = map[journal.Role][]string{
	journal.Source:      {migration.BoundSave, migration.BoundCodec, migration.BoundNetwork, migration.BoundLoad, migration.Balanced},
	journal.Destination: {migration.BoundArrival, migration.BoundLoad},
}

// metricsOf are those that a side serves, beside what Go and the kernel know of the
// process. Others have built on the names: none is ever given another meaning.
func metricsOf(r journal.Role) []metric {
	side, version := Scene{Sending: r == journal.Source}.side(false), Release()
	list := []metric{
		{"migpipe_info", "Which side this is, and of which version; always 1.", []string{"side", "version"}, gauge,
			func(_ figures, add adder) { add(1, side, version) }},
		{"migpipe_phase", "1 for the phase that the migration is in.", []string{"phase"}, gauge,
			oneOf(phases, func(f figures) string { return f.phase })},
		{"migpipe_stage_occupancy_ratio", "Part of the memory for chunks that waits in a stage, lately.", []string{"stage"}, gauge, occupancies(r)},
		{"migpipe_bottleneck", "1 for the stage that the others wait for, lately; all are 0 where next to nothing is to be moved.", []string{"stage"}, gauge,
			oneOf(bottlenecks[r], func(f figures) string { return f.occupancy.Bottleneck })},
		{"migpipe_device_bytes_total", "Bytes of a device's state that were read at the source, or written at the destination.", perDevice, counter,
			ofDevices(func(d migration.Snapshot) uint64 { return d.Bytes })},
		{"migpipe_device_wire_bytes_total", "What these were on their way, encoded.", perDevice, counter,
			ofDevices(func(d migration.Snapshot) uint64 { return d.Wire })},
		{"migpipe_device_applied_bytes_total", "Bytes of a device's state that were written at the destination, as far as this side knows.", perDevice, counter,
			ofDevices(func(d migration.Snapshot) uint64 { return d.Applied })},
		{"migpipe_device_remaining_bytes", "What a device has still to give, by its driver's estimate; missing where there is none.", perDevice, gauge, remaining},
		{"migpipe_connected", "1 while the other side is connected.", nil, gauge,
			func(f figures, add adder) { add(number(f.connected)) }},
		{"migpipe_connections_lost_total", "Connections that were lost.", nil, counter,
			func(f figures, add adder) { add(float64(f.lost)) }},
		{"migpipe_held", "1 while the process stays for devices that are in doubt.", nil, gauge,
			func(f figures, add adder) { add(number(f.held)) }},
	}
	if r == journal.Destination {
		return list
	}
	return append(list,
		metric{"migpipe_device_rate_bytes_per_second", "How fast a device is read, sent and written, each by itself.", []string{"device", "stage"}, gauge, rates},
		metric{"migpipe_goodput_bytes_per_second", "What of all devices gets written when the path is full.", nil, gauge,
			func(f figures, add adder) { measured(add, f.way.Goodput) }},
		metric{"migpipe_rtt_seconds", "Round trip of a control message.", nil, gauge,
			func(f figures, add adder) { measured(add, f.way.RTT.Seconds()) }},
		metric{"migpipe_predicted_downtime_seconds", "What the stop was expected to take when it was decided: at the least, where that is not known.", []string{"known"}, gauge, predictedDowntime},
	)
}

const (
	gauge   = prometheus.GaugeValue
	counter = prometheus.CounterValue
)

// perDevice is the one label of what each device has.
var perDevice = []string{"device"}

// oneOf is 1 for the name that is, and 0 for all others.
func oneOf(names []string, is func(figures) string) func(figures, adder) {
	return func(f figures, add adder) {
		now := is(f)
		for _, name := range names {
			add(number(name == now), name)
		}
	}
}

func number(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// occupancies has the stages of one side, called as in --json.
func occupancies(r journal.Role) func(figures, adder) {
	return func(f figures, add adder) {
		add(f.occupancy.Queue, "queue")
		if r == journal.Destination {
			add(f.occupancy.Ahead, "ahead")
			return
		}
		add(f.occupancy.Credit, "without_credit")
		add(f.occupancy.Flight, "in_flight")
	}
}

func ofDevices(read func(migration.Snapshot) uint64) func(figures, adder) {
	return func(f figures, add adder) {
		for _, d := range f.devices {
			add(float64(read(d)), d.Name)
		}
	}
}

func remaining(f figures, add adder) {
	for _, d := range f.devices {
		if d.Known {
			add(float64(d.Remaining), d.Name)
		}
	}
}

func rates(f figures, add adder) {
	for _, d := range f.devices {
		measured(add, d.Rates.Save, d.Name, "save")
		measured(add, d.Rates.Wire, d.Name, "wire")
		measured(add, d.Rates.Load, d.Name, "load")
	}
}

// measured adds a value unless it is 0, which means that it is not known.
func measured(add adder, value float64, labels ...string) {
	if value > 0 {
		add(value, labels...)
	}
}

func predictedDowntime(f figures, add adder) {
	if f.predicted != nil {
		d := f.predicted.Downtime
		add(d.Took.Seconds(), map[bool]string{true: "true", false: "false"}[d.Known])
	}
}

// newRegistry has the metrics of one side.
func newRegistry(r journal.Role, l *latest) *prometheus.Registry {
	reg := prometheus.NewRegistry()
	reg.MustRegister(newCollector(r, l), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return reg
}

// collector is a prometheus.Collector of the figures.
type collector struct {
	latest  *latest
	metrics []metric
	descs   []*prometheus.Desc
}

func newCollector(r journal.Role, l *latest) *collector {
	c := &collector{latest: l, metrics: metricsOf(r)}
	for _, m := range c.metrics {
		c.descs = append(c.descs, prometheus.NewDesc(m.name, m.help, m.labels, nil))
	}
	return c
}

// Describe implements [prometheus.Collector].
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		out <- d
	}
}

// Collect implements [prometheus.Collector]. All values are of the same moment.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	now := c.latest.figures()
	for i, m := range c.metrics {
		m.read(now, func(value float64, labels ...string) {
			one, err := prometheus.NewConstMetric(c.descs[i], m.kind, value, labels...)
			if err != nil { // never a panic: it would end the migration
				one = prometheus.NewInvalidMetric(c.descs[i], err)
			}
			out <- one
		})
	}
}

// Version is what the build knows about itself.
func Version() string {
	return fmt.Sprintf("%s %s %s/%s", Release(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// Release is what it was built from. A version that the go command made from a
// revision names it already.
func Release() string {
	v, commit := "(devel)", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		if info.Main.Version != "" {
			v = info.Main.Version
		}
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				commit = s.Value[:min(12, len(s.Value))]
			}
		}
	}
	return releaseOf(v, commit)
}

func releaseOf(version, commit string) string {
	if strings.Contains(version, commit) {
		return version
	}
	return version + " " + commit
}
