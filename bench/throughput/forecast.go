package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/migpipe/migpipe/bench/scale"
)

// What parts a pipeline's CPU time has, by its profile (go test ./test/migrate -bench
// Pipeline/over=quic -cpuprofile, 2026-11-27, without what the simulated devices take): the
// goroutine that packs and seals a lane's packets, and the one that takes packets from a
// socket. Both ends do about as much.
const (
	packerShare   = 0.31
	receiverShare = 0.11
)

// drainCost is in seconds for a GB, of what the thread that reads a device does: one read,
// which copied 8.8 GB/s (dd if=/dev/shm/file of=/dev/null bs=1M, median of 5), and one
// xxhash64, at 14.0 GB/s (go test ./codec -bench Digest/random, median of 3), both on the
// machine that README quotes, 2026-11-27.
const drainCost = 1/8.8 + 1/14.

// foretold is a host and a path that are not at hand.
type foretold struct {
	name string
	scale.Setting
}

const gbit = 1e9 / 8

// window is that of a lane: quic-go's 10,000 packets of 1,452 bytes.
const window = 14.52e6

var settings = []foretold{
	{"25 Gbit/s, 16 cores, 1 device", scale.Setting{Cores: 16, Devices: 1, Lanes: 8, Sockets: 16, Memory: 32 << 20, Window: window, Link: 25 * gbit, RTT: 200 * time.Microsecond}},
	{"100 Gbit/s, 64 cores, 1 device", scale.Setting{Cores: 64, Devices: 1, Lanes: 16, Sockets: 16, Memory: 32 << 20, Window: window, Link: 100 * gbit, RTT: 200 * time.Microsecond}},
	{"100 Gbit/s, 64 cores, 4 devices", scale.Setting{Cores: 64, Devices: 4, Lanes: 16, Sockets: 16, Memory: 32 << 20, Window: window, Link: 100 * gbit, RTT: 200 * time.Microsecond}},
	{"100 Gbit/s, 64 cores, 4 devices, 10 ms", scale.Setting{Cores: 64, Devices: 4, Lanes: 16, Sockets: 16, Memory: 32 << 20, Window: window, Link: 100 * gbit, RTT: 10 * time.Millisecond}},
	{"the same with --memory 1GiB", scale.Setting{Cores: 64, Devices: 4, Lanes: 16, Sockets: 16, Memory: 1 << 30, Window: window, Link: 100 * gbit, RTT: 10 * time.Millisecond}},
	{"400 Gbit/s, 128 cores, 8 devices", scale.Setting{Cores: 128, Devices: 8, Lanes: 16, Sockets: 16, Memory: 256 << 20, Window: window, Link: 400 * gbit, RTT: 200 * time.Microsecond}},
}

// forecast is what the model makes of CPU-seconds for a GB, of both ends.
func forecast(cpu float64) string {
	costs := scale.Costs{Source: cpu / 2, Destination: cpu / 2, Lane: packerShare * cpu, Socket: receiverShare * cpu, Drain: drainCost}
	var b strings.Builder
	b.WriteString("\nby the model (bench/scale), of incompressible data over QUIC  GB/s  bound by\n")
	for _, s := range settings {
		least := scale.Binding(scale.Bounds(costs, s.Setting))
		fmt.Fprintf(&b, "%-60s  %5.2f  %s\n", s.name, least.Rate/1e9, least.What)
	}
	return b.String()
}
