// Command mig-recv takes the state of devices that mig-send sends from another
// host, and starts them here.
package main

import (
	"os"

	"github.com/migpipe/migpipe/cmd/internal/cli"
)

func main() { os.Exit(cli.Recv(os.Args[1:])) }
