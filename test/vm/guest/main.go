// Command guest is /init of the VM test's guests. It prepares the machine and then executes
// the calls of the test on the host, over the second serial port (see package guestapi). It
// also stands in for a VMM: it holds devices, passes their fds to the programs that it starts,
// and accesses their registers.
package main

import (
	"fmt"
	"io"
	"net/rpc"
	"net/rpc/jsonrpc"
	"os"

	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/test/vm/guestapi"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "guest: this is /init of the VM test's guests; run 'go test ./test/vm' instead")
		os.Exit(2)
	}
	err := run()
	// init must not return: the kernel would panic and hide the reason.
	fmt.Fprintln(os.Stderr, "guest:", err)
	powerOff()
}

func run() error {
	if err := mountAll(); err != nil {
		return err
	}
	if err := loadModules(); err != nil {
		return err
	}
	if err := interfaceUp("lo", "127.0.0.1", "255.0.0.0"); err != nil {
		return err
	}
	if err := interfaceUp("eth0", os.Getenv(guestapi.AddressEnv), "255.255.255.0"); err != nil {
		return err
	}
	if err := holdGRO(); err != nil {
		return err
	}
	port, err := openSerial("/dev/ttyS1")
	if err != nil {
		return err
	}
	return serve(port)
}

// serve answers calls until the host is gone.
func serve(port io.ReadWriteCloser) error {
	server := rpc.NewServer()
	if err := server.RegisterName(guestapi.Service, newGuest()); err != nil {
		return err
	}
	if _, err := io.WriteString(port, guestapi.Ready); err != nil {
		return err
	}
	server.ServeCodec(jsonrpc.NewServerCodec(port))
	return fmt.Errorf("the host closed the serial port")
}

func powerOff() {
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}
