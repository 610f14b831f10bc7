package main

import (
	"fmt"

	"github.com/migpipe/migpipe/transport"
)

// cores are the numbers of them, above the two of the other rows, that a host is tried
// with: doubled as long as it has so many.
func cores(host int) (list []int) {
	for n := 4; n <= host; n *= 2 {
		list = append(list, n)
	}
	return list
}

// wide is a carrier on some cores, with a lane for each two of them, since a lane is a
// goroutine that packs at one end and one that receives at the other. It stands beside
// the bare carrier with as many connections.
type wide struct {
	over  string
	cores int
}

// lanes and connections are as many as a migration may have, if the cores are more.
func (w wide) lanes() int { return min(w.cores/2, transport.MaxLanes) }

func (w wide) pipeline() pipeline {
	return pipeline{over: w.over, lanes: w.lanes(), content: "random", codec: "raw", procs: w.cores}
}

func (w wide) bare() way {
	conns, move := w.lanes(), quicStreams(w.lanes(), true)
	name, bench := fmt.Sprintf("%s, %d conn", bareGRO, conns), fmt.Sprintf("Bare/over=quic/gro=yes/conns=%d", conns)
	if w.over == "tls" {
		move, name, bench = tcpStreams(conns, true), bareTLS(conns), fmt.Sprintf("Bare/over=tls/conns=%d", conns)
	}
	return way{Name: fmt.Sprintf("%s, %d proc", name, w.cores), Bench: fmt.Sprintf("%s/procs=%d", bench, w.cores),
		Group: groupBare, Procs: w.cores, move: move}
}

// wides are those of a host.
func wides(host int) (list []wide) {
	for _, over := range []string{"quic", "tls"} {
		for _, n := range cores(host) {
			list = append(list, wide{over, n})
		}
	}
	return list
}
