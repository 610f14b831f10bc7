package transport

import (
	"time"

	"golang.org/x/sys/unix"
)

// This file has what the carriers ask of Linux alone; sys_other.go stands for it elsewhere.

// interfaceIndex uses no netlink socket, which a service may not have (netdevice(7)).
func interfaceIndex(name string) (int, error) {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, request); err != nil {
		return 0, err
	}
	return int(request.Uint32()), nil
}

// pathMTU is that of the path of a connected socket, in bytes (ip(7), IP_MTU).
func pathMTU(fd int) (int, error) { return unix.GetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU) }

// groLength is the type of the control message that has the length of the packets that the
// kernel has joined.
const groLength = unix.UDP_GRO

// joinPackets has the kernel join the packets of a UDP socket.
func joinPackets(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1) }

// tcpTimes are how long the kernel has received nothing on a TCP connection, and the shortest
// round trip. Both are 0 where it does not say.
func tcpTimes(fd int) (silence, rtt time.Duration) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, 0
	}
	return time.Duration(info.Last_data_recv) * time.Millisecond, time.Duration(info.Min_rtt) * time.Microsecond
}

// limitUnacknowledged ends a TCP connection whose peer acknowledges nothing for so long.
func limitUnacknowledged(fd int, limit time.Duration) {
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(limit.Milliseconds()))
}

// peerUser is the user whose process made the other end of a unix socket (unix(7),
// SO_PEERCRED).
func peerUser(fd int) (uint32, error) {
	peer, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, err
	}
	return peer.Uid, nil
}

// attachSteering has the kernel spread what comes to a group of n sockets by steer.
func attachSteering(fd, n int) error {
	program := steer(n)
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF,
		&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
}

// steer is a classic BPF program that returns the number of the socket for a UDP payload:
// the first byte of a connection ID, modulo n. While a connection is made (a long header)
// it is that of the sender's own ID, which stays the same meanwhile and by which a dialler
// spreads its lanes; of a sender without one, that of the destination's, which it drew
// itself. All later packets have a destination that a numbered has made (RFC 9000, sections
// 7.2 and 17). A load beyond the end of a packet makes the program return 0.
func steer(n int) []unix.SockFilter {
	const (
		longHeader = 0x80 // of the first byte
		shortID    = 1
		longLength = 5 // behind the version; then come the ID, and length and ID of the sender's
		longID     = longLength + 1
	)
	load := func(mode uint16, at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_B | mode, K: at}
	}
	jump := func(past uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: past} }
	return []unix.SockFilter{
		load(unix.BPF_ABS, 0),
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: longHeader, Jt: 2},
		load(unix.BPF_ABS, shortID),
		jump(7),
		load(unix.BPF_ABS, longLength),
		{Code: unix.BPF_MISC | unix.BPF_TAX},
		load(unix.BPF_IND, longID),
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 0, Jt: 2},
		load(unix.BPF_IND, longID+1),
		jump(1),
		load(unix.BPF_ABS, longID),
		{Code: unix.BPF_ALU | unix.BPF_MOD | unix.BPF_K, K: uint32(n)},
		{Code: unix.BPF_RET | unix.BPF_A},
	}
}
