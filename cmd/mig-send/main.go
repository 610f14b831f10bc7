// Command mig-send migrates the state of this host's devices to another host,
// where mig-recv waits for it.
package main

import (
	"os"

	"github.com/migpipe/migpipe/cmd/internal/cli"
)

func main() { os.Exit(cli.Send(os.Args[1:])) }
