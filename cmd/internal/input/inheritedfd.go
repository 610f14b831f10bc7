package input

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/cmd/internal/ui"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/journal"
)

// Prefixes of what names an inherited descriptor, by its number and by the name that
// a service manager has given it.
const (
	fdPrefix     = "fd:"
	fdnamePrefix = "fdname:"
)

// firstHanded is the first descriptor that a service manager hands over
// (sd_listen_fds(3)).
const firstHanded = 3

// handed gives the descriptors that a service manager has handed over, by name
// (sd_listen_fds(3)).
func handed(getenv func(string) string, pid int) (map[string][]int, error) {
	if getenv("LISTEN_PID") != strconv.Itoa(pid) {
		return nil, errors.New("no service manager has handed descriptors over (LISTEN_PID)")
	}
	n, err := strconv.ParseUint(getenv("LISTEN_FDS"), 10, 16)
	if err != nil {
		return nil, fmt.Errorf("LISTEN_FDS=%.20q is not a number of descriptors", getenv("LISTEN_FDS"))
	}
	names := strings.Split(getenv("LISTEN_FDNAMES"), ":")
	if uint64(len(names)) != n {
		return nil, fmt.Errorf("LISTEN_FDNAMES has %d names, and LISTEN_FDS is %d", len(names), n)
	}
	fds := map[string][]int{}
	for i, name := range names {
		fds[name] = append(fds[name], firstHanded+i)
	}
	return fds, nil
}

// namedFD is the only descriptor with a name.
func namedFD(name string) (int, error) {
	all, err := handed(os.Getenv, os.Getpid())
	if err != nil {
		return -1, err
	}
	switch fds := all[name]; len(fds) {
	case 1:
		return fds[0], nil
	case 0:
		return -1, fmt.Errorf("no descriptor was handed over as %.80q (LISTEN_FDNAMES=%.200s)", name, os.Getenv("LISTEN_FDNAMES"))
	default:
		return -1, fmt.Errorf("%d descriptors were handed over as %.80q", len(fds), name)
	}
}

// numberedFD reads the number of a descriptor.
func numberedFD(text string) (int, error) {
	n, err := strconv.ParseUint(text, 10, 31)
	if err != nil || strconv.FormatUint(n, 10) != text { // one number, one spelling: fd:3 and fd:03 would be two devices
		return -1, fmt.Errorf("%.20q is not the number of a file descriptor", text)
	}
	return int(n), nil
}

// socketFD is the descriptor that an address names; ok is false where it is an
// address of another kind.
func socketFD(address string) (n int, ok bool, err error) {
	if number, is := strings.CutPrefix(address, fdPrefix); is {
		n, err = numberedFD(number)
		return n, true, err
	}
	if name, is := strings.CutPrefix(address, fdnamePrefix); is {
		n, err = namedFD(name)
		return n, true, err
	}
	return -1, false, nil
}

// checkSocket refuses a descriptor that is no UDP socket to listen on. It changes nothing.
func (d Descriptors) checkSocket(flag, address string) error {
	const hint = "pass a UDP socket that is bound, as systemd does for ListenDatagram=, and name it by fd:N or by its FileDescriptorName= as fdname:NAME"
	n, ok, err := socketFD(address)
	if !ok {
		return nil
	}
	if err == nil && d.Role == journal.Source {
		err = errors.New("only mig-recv is handed a socket")
	}
	if err == nil && !inherited(n) {
		err = fmt.Errorf("no file descriptor %d was passed to %s", n, d.Program)
	}
	if err == nil && slices.Contains(d.ofDevices(), n) {
		err = fmt.Errorf("file descriptor %d is a device's", n)
	}
	if err == nil && d.answers(n) {
		err = errors.New("it is stdin, by which --commit external is answered")
	}
	if err == nil {
		err = isUDP(n)
	}
	if err != nil {
		return ui.Mistakef(hint, "%s %.80s: %v", flag, address, err)
	}
	return nil
}

// ofDevices are the descriptors that --device names.
func (d Descriptors) ofDevices() (list []int) {
	for _, device := range d.Devices {
		if n, err := device.fd(); device.IsFD() && err == nil {
			list = append(list, n)
		}
	}
	return list
}

func isUDP(n int) error {
	kind, err := unix.GetsockoptInt(n, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return fmt.Errorf("file descriptor %d: %w", n, err)
	}
	domain, err := unix.GetsockoptInt(n, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return fmt.Errorf("file descriptor %d: %w", n, err)
	}
	if kind != unix.SOCK_DGRAM || domain != unix.AF_INET && domain != unix.AF_INET6 {
		return fmt.Errorf("file descriptor %d is not a UDP socket", n)
	}
	return nil
}

// listenFD listens on a socket that checkSocket has accepted, and owns it.
func (e Endpoint) listenFD(n int, opts *transport.ListenOptions) (transport.Listener, error) {
	f := os.NewFile(uintptr(n), e.Address)
	conn, err := net.FilePacketConn(f) // with a descriptor of its own
	f.Close()
	if err != nil {
		return nil, err
	}
	return transport.ListenQUICOn(conn, e.credentials, opts)
}

// notifyLimit bounds the wait for a service manager that reads nothing.
const notifyLimit = time.Second

// NotifyReady notifies a service manager that asks for it (Type=notify, sd_notify(3)) that a
// source may connect now. It removes the variable: no child may notify for this process.
func NotifyReady() error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	os.Unsetenv("NOTIFY_SOCKET")
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetWriteDeadline(time.Now().Add(notifyLimit))
	_, err = conn.Write([]byte("READY=1"))
	return err
}
