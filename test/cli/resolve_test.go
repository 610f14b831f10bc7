package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/handoff/witness"
	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/transport/migration"
)

// cmdJournal is "journal DIR source|destination MIG RECORD[@ATTEMPT]... [witness=DIR] [local]":
// write the journal of a crashed program, of attempt 1 or another. The peer is another process
// of this host, or has an identity.
func cmdJournal(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 4 {
		ts.Fatalf("usage: journal DIR source|destination MIG RECORD[@ATTEMPT]... [witness=DIR] [local] [device=NAME[=ADDRESS]]...")
	}
	o := journal.Options{Role: journal.Source, Mig: migration.ID{}}
	if args[1] == journal.Destination.String() {
		o.Role = journal.Destination
	}
	for i := range o.Mig {
		o.Mig[i] = args[2][0]
	}
	var mark handoff.Register
	peer := transport.PeerID{9}
	for _, a := range args {
		if a == "local" {
			peer = transport.PeerID{}
		}
		if device, ok := strings.CutPrefix(a, "device="); ok {
			name, address, _ := strings.Cut(device, "=")
			o.Devices = append(o.Devices, journal.Device{Name: name, Address: address})
		}
		if dir, ok := strings.CutPrefix(a, "witness="); ok {
			w, err := witness.OpenDir(ts.MkAbs(dir))
			ts.Check(err)
			mark = handoff.RegisterOf(w.Name())
		}
	}
	j, err := journal.Open(ts.MkAbs(args[0]), o)
	ts.Check(err)
	defer j.Close()
	for _, name := range args[3:] {
		name, epoch, _ := strings.Cut(name, "@")
		at := migration.Attempt{Mig: o.Mig, Epoch: 1}
		if epoch != "" {
			at.Epoch = uint64(epoch[0] - '0')
		}
		known := strings.HasPrefix(name, "witness=") || strings.HasPrefix(name, "device=") || name == "local"
		for r := handoff.None; r <= handoff.ResumeFailed; r++ {
			if r.String() == name {
				known = true
				e := handoff.Entry{Record: r, Attempt: at, PeerJournal: migration.JournalID{7}, PeerID: peer, Witness: mark, Why: handoff.Why{Bytes: 4096}}
				if r == handoff.Forced {
					e.Why.Text = "somebody: a test"
				}
				ts.Check(j.Append(e))
			}
		}
		if !known {
			ts.Fatalf("journal: no record is called %s", name)
		}
	}
}

// cmdDrops is "drops DIR": a person discards the copy of the only migration there.
func cmdDrops(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: drops DIR")
	}
	paths, err := journal.List(ts.MkAbs(args[0]), journal.Destination)
	ts.Check(err)
	if len(paths) != 1 {
		ts.Fatalf("%s has %d journals", args[0], len(paths))
	}
	mig, _, _ := strings.Cut(filepath.Base(paths[0]), ".")
	cmdResolve(ts, false, []string{"0", "HOSTNAME", "mig-recv", "resolve", mig, "--state-dir", args[0], "--volatile-state", "--give-up", "--why", "enough"})
}

// cmdResolve is "resolve EXIT TYPED COMMAND...": as exits, with TYPED as the typed line.
func cmdResolve(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: resolve EXIT TYPED COMMAND...")
	}
	typed := args[1]
	if typed == "HOSTNAME" {
		host, err := os.Hostname()
		ts.Check(err)
		typed = host
	}
	path := args[2]
	if p, err := exec.LookPath(bin + "/" + path); err == nil {
		path = p
	}
	cmd := exec.Command(path, args[3:]...)
	cmd.Env = append(os.Environ(), "PATH="+ts.Getenv("PATH"))
	cmd.Dir, cmd.Stdin = ts.MkAbs("."), strings.NewReader(typed+"\n")
	cmd.Stdout, cmd.Stderr = create(ts, "run.out"), create(ts, "run.err")
	cmd.Run()
	if got := cmd.ProcessState.ExitCode(); args[0] != string(rune('0'+got)) {
		ts.Fatalf("exit %d, want %s; %s", got, args[0], told(ts, "run"))
	}
}

// cmdMigration is "migration VAR DIR": the id of the only source's journal in a directory.
func cmdMigration(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: migration VAR DIR")
	}
	paths, err := filepath.Glob(filepath.Join(ts.MkAbs(args[1]), "*.source"))
	ts.Check(err)
	if len(paths) != 1 {
		ts.Fatalf("%s has %d journals", args[1], len(paths))
	}
	id, _, _ := strings.Cut(filepath.Base(paths[0]), ".")
	ts.Setenv(args[0], id)
}
