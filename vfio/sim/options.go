package sim

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Options are a device's parameters. The zero value of a field is the profile's
// default, or none. Nil is the zero value of all fields.
type Options struct {
	Size         int64   // bytes of state; a device of a fixed size accepts only that size
	DirtyRate    int64   // bytes per second that the guest dirties while it runs
	SaveRate     int64   // bytes per second that the device saves, 0 = no limit
	LoadRate     int64   // bytes per second that the device loads, 0 = no limit
	Buffer       int64   // bytes that become readable together, for a device that saves into buffers
	Record       int64   // bytes that the device loads together, in the Write that completes them; 0 = each byte at once
	Seed         uint64  // seed of the state's content
	StateVersion uint32  // version of the stream's format; a device rejects newer versions. 1 if 0
	Content      Content // kind of content, as a compressor sees it
	Ports        int     // serial ports of mtty
	Faults       []Fault
	Log          string // file to which every event is appended, see [Device.Log]; it outlives the process

	// Keep is a file that makes the device outlive the process, as if another process
	// had its fd open. The file has the device's state as of the last transition. The
	// next process that opens the device restores it, but not its data session, whose
	// handle is gone. Options about the content apply to a device that is new or was
	// reset. Faults strike again. Only one process may have the device open, which
	// Open does not check.
	Keep string

	// Strict makes the arc from RESUMING to STOP fail for a state that is incomplete or is
	// not of this profile. Half of the drivers that the profiles simulate accept such a
	// state, and the device runs with it.
	Strict bool

	// Times that a device takes in addition to the transfer of bytes, 0 = none.
	Alloc time.Duration // for allocations at the destination, in the Write that completes the initial bytes
	Stop  time.Duration // for the arc into STOP_COPY
	Start time.Duration // for the arc into RUNNING, except from PRE_COPY, where the device already runs
}

// Parse parses the part of a device URL after "sim:":
//
//	PROFILE[?size=1GiB&dirty=100MiB/s&save=2GiB/s&load=1GiB/s&buffer=8MiB&record=8MiB&alloc=500ms&stop=20ms&start=100ms&seed=7&version=1&content=mixed&ports=2&log=PATH&keep=PATH&fault=read@64KiB:EIO]
//
// fault may be given several times. Parse opens nothing.
func Parse(s string) (profile string, o *Options, err error) {
	profile, query, _ := strings.Cut(s, "?")
	if profile == "" {
		return "", nil, fmt.Errorf("sim: no profile is named: known are %s", known())
	}
	p, err := lookup(profile)
	if err != nil {
		return "", nil, err
	}
	o = &Options{}
	if err := o.parseQuery(query); err != nil {
		return "", nil, fmt.Errorf("sim:%s: %w", profile, err)
	}
	if _, err := o.withDefaults(p); err != nil {
		return "", nil, fmt.Errorf("sim:%s: %w", profile, err)
	}
	return profile, o, nil
}

func (o *Options) parseQuery(query string) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return fmt.Errorf("parameters: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		set, ok := parameters[name]
		if !ok {
			return fmt.Errorf("unknown parameter %q: known are %s", name, strings.Join(slices.Sorted(maps.Keys(parameters)), ", "))
		}
		if len(values[name]) > 1 && name != "fault" {
			return fmt.Errorf("parameter %s is given %d times", name, len(values[name]))
		}
		for _, v := range values[name] {
			if err := set(o, v); err != nil {
				return fmt.Errorf("parameter %s: %w", name, err)
			}
		}
	}
	return nil
}

// parameters has a function for each parameter, which sets an option from text.
var parameters = map[string]func(o *Options, v string) error{
	"size": func(o *Options, v string) (err error) {
		if o.Size, err = parseSize(v); err == nil && o.Size == 0 { // 0 is the profile's default
			err = errors.New("must be more than 0")
		}
		return err
	},
	"dirty":   func(o *Options, v string) (err error) { o.DirtyRate, err = parseRate(v); return err },
	"save":    func(o *Options, v string) (err error) { o.SaveRate, err = parseRate(v); return err },
	"load":    func(o *Options, v string) (err error) { o.LoadRate, err = parseRate(v); return err },
	"buffer":  func(o *Options, v string) (err error) { o.Buffer, err = parseSize(v); return err },
	"record":  func(o *Options, v string) (err error) { o.Record, err = parseSize(v); return err },
	"alloc":   func(o *Options, v string) (err error) { o.Alloc, err = parseTime(v); return err },
	"stop":    func(o *Options, v string) (err error) { o.Stop, err = parseTime(v); return err },
	"start":   func(o *Options, v string) (err error) { o.Start, err = parseTime(v); return err },
	"content": func(o *Options, v string) (err error) { o.Content, err = parseContent(v); return err },
	"ports": func(o *Options, v string) error {
		n, err := parseNumber(v, 1, 2)
		o.Ports = int(n)
		return err
	},
	"seed": func(o *Options, v string) (err error) { o.Seed, err = parseNumber(v, 0, math.MaxUint64); return err },
	"version": func(o *Options, v string) error {
		n, err := parseNumber(v, 1, math.MaxUint32)
		o.StateVersion = uint32(n)
		return err
	},
	"log": func(o *Options, v string) error { o.Log = v; return nil },
	"keep": func(o *Options, v string) error {
		if o.Keep = v; v == "" {
			return errors.New("must name a file")
		}
		return nil
	},
	"fault": func(o *Options, v string) error {
		f, err := ParseFault(v)
		o.Faults = append(o.Faults, f)
		return err
	},
}

// withDefaults returns the options with the profile's defaults for zero fields.
func (o *Options) withDefaults(p *profile) (Options, error) {
	v := *cmp.Or(o, new(Options))
	v.StateVersion = cmp.Or(v.StateVersion, 1)
	if p.port > 0 {
		v.Ports = cmp.Or(v.Ports, 2)
	}
	v.Size = cmp.Or(v.Size, p.sizeWith(v.Ports))
	return v, cmp.Or(v.check(), p.checkOptions(&v))
}

func (o *Options) check() error {
	for name, n := range map[string]int64{
		"Size": o.Size, "DirtyRate": o.DirtyRate, "SaveRate": o.SaveRate, "LoadRate": o.LoadRate, "Buffer": o.Buffer,
		"Record": o.Record, "Alloc": int64(o.Alloc), "Stop": int64(o.Stop), "Start": int64(o.Start),
	} {
		if n < 0 {
			return fmt.Errorf("option %s is %d, must not be negative", name, n)
		}
	}
	if o.Content > Text {
		return fmt.Errorf("option Content is %v, must be Random to Text", o.Content)
	}
	return nil
}
