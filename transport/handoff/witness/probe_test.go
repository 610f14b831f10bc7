package witness

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/migpipe/migpipe/transport/handoff"
)

// program makes a witness of a shell script.
func program(t *testing.T, script string) Witness {
	t.Helper()
	path := filepath.Join(t.TempDir(), "witness")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	w, err := NewExec(path)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestProbe(t *testing.T) {
	for _, c := range []struct {
		name, script, want string
	}{
		{"it answers", `echo "$MIGPIPE_SIDE"`, ""},
		{"it fails", "exit 3", "exit status 3"},
		{"it says who has none", "echo nobody", "neither source nor destination"},
		{"it gives a new register to who has not asked", "echo source", "the destination was the first to ask for a register, and the source has it"},
	} {
		t.Run(c.name, func(t *testing.T) {
			took, err := Probe(context.Background(), program(t, c.script), handoff.DestSide)
			switch {
			case took <= 0:
				t.Errorf("it took %v", took)
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

// TestProbeIsOfNoMigration: two probes have two registers, and a directory keeps none.
func TestProbeIsOfNoMigration(t *testing.T) {
	dir := t.TempDir()
	d := openDir(t, dir)
	for _, me := range []handoff.Side{handoff.SourceSide, handoff.DestSide} {
		if _, err := Probe(context.Background(), d, me); err != nil {
			t.Error(err)
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Name() != idFile {
		t.Errorf("the directory has %v, %v", left, err)
	}
}
