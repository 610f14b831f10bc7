package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/vfio/sim"
)

// figuresHelp is the part of the help texts about the values of flags.
const figuresHelp = `A SIZE is a number of bytes, or a number and a unit: 4096, 64KiB, 1.5GiB (powers
of 1024: KiB, MiB, GiB, TiB) or 100MB (powers of 1000: kB, MB, GB, TB).
A TIME is a number and a unit, or several: 300ms, 1.5s, 1m30s (us, ms, s, m, h).`

// rateHelp is the same about rates, which only mig-send takes.
const rateHelp = `A RATE is a SIZE per second: 100MiB/s.`

// simHelp is the text of "help sim" but for the profiles.
const simHelp = `A simulated device behaves as its profile's driver does, quirks included, and at
the destination tells whether it holds the state that its source had:
  sim:PROFILE[?PARAMETER=VALUE&...]    quote it: shells take ? and & for theirs

Parameters:
  size=SIZE       bytes of state; some profiles have one size only
  dirty=RATE      what the guest dirties while it runs: 20MiB/s, default none
  save=RATE       how fast the device saves, default as fast as it can
  load=RATE       how fast it loads
  buffer=SIZE     what it makes readable together, where it saves into buffers
  record=SIZE     what it loads together, when the last byte of it is written
  alloc=TIME      what a destination takes to allocate memory, in the write that
                  completes the initial bytes: 500ms, default none
  stop=TIME       what the change to STOP_COPY takes
  start=TIME      what the change to RUNNING takes
  content=KIND    what the state looks like to a codec: random, zero, mixed, text
  seed=NUMBER     what the content is made from
  version=NUMBER  of the stream's format; a device refuses newer ones, default 1
  ports=NUMBER    serial ports of mtty, 1 or 2
  log=PATH        file that each change of state is appended to, as JSON
  keep=PATH       file that keeps the device, so that it outlives the program: the
                  next one that opens it finds state and content, but no session;
                  one program at a time
  fault=FAULT     something that goes wrong, once; may be repeated

A FAULT is KIND@WHERE[:ERRNO], the errno by its name, EIO if none is named:
  read@BYTE       the read there fails, and the session with it
  write@BYTE      the write there does
  short@BYTE      the write there takes no more bytes
  hang@BYTE       the read or write there blocks until the device is reset
  reset@BYTE      the device is reset behind its owner's back
  error@BYTE      the device enters ERROR
  reinit@BYTE     the device announces that it was initialised anew
  set@STATE       the change to a state fails, as in set@STOP_COPY:EBUSY
  set@FROM-TO     the change from one state to another does

Profiles:
`

// simTopic is "help sim".
func simTopic() *cobra.Command {
	var b strings.Builder
	b.WriteString(simHelp)
	for _, p := range sim.Profiles() {
		fmt.Fprintf(&b, "  %-9s %s\n", p.Name, p.Doc)
	}
	return &cobra.Command{Use: "sim", Short: "The profiles, parameters and faults of simulated devices", Long: strings.TrimSuffix(b.String(), "\n")}
}

// completeWords offers a fixed list.
func completeWords(words ...string) cobra.CompletionFunc {
	return cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)
}

// say writes the one line that a command is for.
func say(cmd *cobra.Command, words ...any) error {
	if _, err := fmt.Fprintln(cmd.OutOrStdout(), words...); err != nil {
		return &transport.Fault{Code: transport.CodeDevice, Err: err}
	}
	return nil
}
