package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/migpipe/migpipe/cmd/internal/input"
	"github.com/migpipe/migpipe/cmd/internal/ui"
	"github.com/migpipe/migpipe/transport/handoff/witness"
)

// doubtHelp is the part of the help texts about doubt.
const doubtHelp = `In doubt is a source that has recorded COMMIT and hears no answer: the destination
may run the devices. --in-doubt says what is done then, and both sides must say the
same:
  wait     ask the destination, for ever, or for mig-send's --doubt-for (default)
  witness  ask --witness as well, which gives the devices to whoever asks first. The
           destination asks it before it starts anything. dir:PATH is a directory that
           both hosts have mounted; exec:PROGRAM is run with MIGPIPE_MIGRATION,
           MIGPIPE_EPOCH and MIGPIPE_SIDE in its environment, and prints source or
           destination: who has asked first. Before the guest is stopped both sides
           ask once for a random migration; if there is no answer, the migration
           ends, unless mig-send has --on-limit force.
SIGINT or SIGTERM asks the destination to give the devices back. If it is out of reach
mig-send ends 5 s later, in doubt; a second signal ends the wait at once.
A person who knows that the other host is dead, or kept from its devices, decides
with ` + "`resolve`" + `, when the program that waits was ended.`

// doubtFlags say what decides in doubt.
type doubtFlags struct {
	policy string
	url    string
	used   witness.Witness // once it was opened
}

func (d *doubtFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	input.Word(cmd, &d.policy, "in-doubt", "`WHAT` decides when the answer to COMMIT is missing: wait or witness", "wait", "witness")
	f.StringVar(&d.url, "witness", "", "`URL` of the witness: dir:PATH or exec:PROGRAM")
	_ = cmd.RegisterFlagCompletionFunc("witness", completeWords("dir:", "exec:"))
}

// open opens the witness that the flags name.
func (d *doubtFlags) open() error {
	switch {
	case d.policy == "wait" && d.url != "":
		return ui.Mistakef("say --in-doubt witness too", "--witness %.80q is not asked with --in-doubt wait", d.url)
	case d.policy == "witness" && d.url == "":
		return ui.Mistakef("name it with --witness dir:PATH or exec:PROGRAM", "--in-doubt witness: there is no witness")
	case d.url == "":
		return nil
	}
	return d.openURL()
}

func (d *doubtFlags) openURL() (err error) {
	if d.used, err = witness.Open(d.url); err != nil {
		return ui.Mistakef("name a directory that both hosts have mounted, or a program, with --witness", "%s", ui.PlainText(err))
	}
	return nil
}

// directory is where a witness makes files, "" for none.
func (d *doubtFlags) directory() string {
	if path, ok := strings.CutPrefix(d.url, "dir:"); ok {
		return path
	}
	return ""
}

// runs reports whether a program is the witness.
func (d *doubtFlags) runs() bool { return strings.HasPrefix(d.url, "exec:") }
