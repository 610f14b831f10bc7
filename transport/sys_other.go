//go:build !linux

package transport

import (
	"errors"
	"net"
	"time"
)

func interfaceIndex(name string) (int, error) {
	found, err := net.InterfaceByName(name)
	if err != nil {
		return 0, err
	}
	return found.Index, nil
}

func pathMTU(int) (int, error) { return 0, errors.ErrUnsupported }

const groLength = -1 // no control message has it

func joinPackets(int) error { return errors.ErrUnsupported }

func tcpTimes(int) (silence, rtt time.Duration) { return 0, 0 }

func limitUnacknowledged(int, time.Duration) {}

func peerUser(int) (uint32, error) { return 0, errors.ErrUnsupported }

func attachSteering(int, int) error { return errors.ErrUnsupported }
