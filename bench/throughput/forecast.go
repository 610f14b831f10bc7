package main

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/migpipe/migpipe/bench/internal/record"
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

// drainCost is in seconds for a GB, of what the thread that reads a device does: one copy
// out of memory that is in no cache, which a read is at least, and one xxhash64. Nothing
// else runs meanwhile.
func drainCost() float64 {
	const size = 256 << 20
	device, chunk := bytes.Repeat([]byte{1}, size), make([]byte, blockSize)
	var took []float64
	for range 5 {
		began := time.Now()
		for at := 0; at < size; at += len(chunk) {
			copy(chunk, device[at:])
			xxhash.Sum64(chunk)
		}
		took = append(took, time.Since(began).Seconds())
	}
	return record.SpreadOf(took).Median / size * 1e9
}

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

// forecast is what the model makes of CPU-seconds for a GB, of both ends, and of the
// seconds that the thread takes that reads a device.
func forecast(cpu, drain float64) string {
	costs := scale.Costs{Source: cpu / 2, Destination: cpu / 2, Lane: packerShare * cpu, Socket: receiverShare * cpu, Drain: drain}
	var b strings.Builder
	b.WriteString("\nby the model (bench/scale), of incompressible data over QUIC  GB/s  bound by\n")
	for _, s := range settings {
		least := scale.Binding(scale.Bounds(costs, s.Setting))
		fmt.Fprintf(&b, "%-60s  %5.2f  %s\n", s.name, least.Rate/1e9, least.What)
	}
	return b.String()
}
