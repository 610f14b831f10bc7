package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/bench/internal/resident"
)

// sample has the costs of one run of a way. A GB is 1e9 bytes of the state, not of the
// encoded bytes.
type sample struct {
	Seconds float64 `json:"seconds"`
	Rate    float64 `json:"mb_per_s"`
	CPU     float64 `json:"cpu_s_per_gb"`
	Allocs  float64 `json:"allocs_per_gb"`
	Peak    int64   `json:"peak_rss_bytes"`
	memory  []resident.Sample
}

// sampleEvery is the time between two samples of the memory.
const sampleEvery = 10 * time.Millisecond

// meter measures both ends: this process and its children.
type meter struct {
	began   time.Time
	took    time.Duration
	cpu     time.Duration
	mallocs uint64
	err     error

	memory  []resident.Sample
	unwatch func() []resident.Sample
}

// start begins the measurement. It does nothing on a running meter.
func (m *meter) start() {
	if m.unwatch != nil {
		return
	}
	m.mallocs = mallocs()
	m.cpu, m.err = cpuTime()
	m.began = time.Now()
	m.unwatch = resident.Watch(os.Getpid(), sampleEvery)
}

// finish ends the time. took is the duration that counts, 0 for all since the start.
// The processors' time counts until stop.
func (m *meter) finish(took time.Duration) {
	if took == 0 {
		took = time.Since(m.began)
	}
	m.took = took
}

// stop ends the measurement. It may be called again.
func (m *meter) stop() {
	if m.unwatch == nil {
		return
	}
	m.memory, m.unwatch = m.unwatch(), nil
	if cpu, err := cpuTime(); err == nil {
		m.cpu = cpu - m.cpu
	} else {
		m.err = err
	}
	m.mallocs = mallocs() - m.mallocs
}

// sample returns the figures for that many bytes.
func (m *meter) sample(size int64) (sample, error) {
	m.stop()
	if m.err != nil {
		return sample{}, m.err
	}
	if m.took <= 0 {
		return sample{}, errors.New("no time was measured")
	}
	gb := float64(size) / 1e9
	s := sample{
		Seconds: m.took.Seconds(), Rate: float64(size) / 1e6 / m.took.Seconds(),
		CPU: m.cpu.Seconds() / gb, Allocs: float64(m.mallocs) / gb, memory: m.memory,
	}
	for _, r := range m.memory {
		s.Peak = max(s.Peak, r.Bytes)
	}
	return s, nil
}

func mallocs() uint64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.Mallocs
}

// cpuTime is the processor time of this process so far, and of its children that have ended.
func cpuTime() (total time.Duration, err error) {
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var used unix.Rusage
		if err := unix.Getrusage(who, &used); err != nil {
			return 0, fmt.Errorf("getrusage: %w", err)
		}
		total += time.Duration(used.Utime.Nano() + used.Stime.Nano())
	}
	return total, nil
}

// machine is the time of all processors so far, from the first line of /proc/stat.
type machine struct{ busy, idle, own time.Duration }

// userHZ is the unit of /proc/stat. The kernel's own tick does not change it.
const userHZ = time.Second / 100

func machineTime() (m machine, err error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return m, err
	}
	line, _, _ := bytes.Cut(text, []byte("\n"))
	for i, field := range bytes.Fields(line) {
		n, err := strconv.ParseInt(string(field), 10, 64)
		switch {
		case i == 0 || i > 8: // its name, and guests, who are in the rest
		case err != nil:
			return m, fmt.Errorf("/proc/stat: %w", err)
		case i == 4 || i == 5: // idle, iowait
			m.idle += time.Duration(n) * userHZ
		default:
			m.busy += time.Duration(n) * userHZ
		}
	}
	m.own, err = cpuTime()
	return m, err
}

// others is the share of the processors' time since then that other processes and the
// hypervisor used. If it is high, the figures mean little.
func (m machine) others(since machine) float64 {
	busy, idle := m.busy-since.busy, m.idle-since.idle
	if busy+idle <= 0 {
		return 0
	}
	return max(0, (busy-(m.own-since.own)).Seconds()/(busy+idle).Seconds())
}
