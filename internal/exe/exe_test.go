package exe

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRun(t *testing.T) {
	env := AttemptEnv("ab00", 7, "source", "MIGPIPE_EVENT=commit")
	out, err := Run(t.Context(), script(t, `echo "$#" $MIGPIPE_MIGRATION $MIGPIPE_EPOCH $MIGPIPE_SIDE $MIGPIPE_EVENT`), env)
	if want := "0 ab00 7 source commit\n"; out != want || err != nil {
		t.Errorf("%q, %v, want %q", out, err, want)
	}
	for text, says := range map[string]string{
		"exit 3":                          "exit status 3",
		"echo out; echo 'no' >&2; exit 1": `exit status 1: "no"`,
		"kill -9 $$":                      "signal: killed",
		"head -c 70000 /dev/zero | tr '\\0' x >&2; exit 1": strings.Repeat("x", maxOutput) + `"`,
	} {
		if _, err := Run(t.Context(), script(t, text), nil); err == nil || !strings.HasSuffix(err.Error(), says) {
			t.Errorf("%s: %v, want %s", text, err, says)
		}
	}
	if _, err := Run(t.Context(), "/none", nil); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// TestKilled checks that the time limit also ends the processes that the program has started.
func TestKilled(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := Run(ctx, script(t, "sleep 61 & sleep 61"), nil)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "took too long") || time.Since(began) > 30*time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
}

// TestLeavesProcess has a program that leaves another process running, which has both outputs
// open. Run returns the status and the outputs of the program, and does not wait for the process.
func TestLeavesProcess(t *testing.T) {
	began, left := time.Now(), filepath.Join(t.TempDir(), "left")
	leave := "sleep 60 & echo $! >" + left + "; "
	for _, c := range []struct{ text, out, says string }{
		{leave + "echo source", "source\n", ""},
		{"echo source; (while echo more; do :; done) & exit 0", "source\n", ""}, // until the pipe is closed
		{leave + "echo no >&2; exit 3", "", `exit status 3: "no"`},
		{leave + "kill -9 $$", "", "signal: killed"},
	} {
		out, err := Run(t.Context(), script(t, c.text), nil)
		end(left)
		if !strings.HasPrefix(out, c.out) || (c.says == "") != (err == nil) || err != nil && !strings.HasSuffix(err.Error(), c.says) {
			t.Errorf("%s: %q, %v, want %q, %q", c.text, out, err, c.out, c.says)
		}
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("Run waited %v for the other processes", took)
	}
}

// end ends the process whose number is in a file.
func end(path string) {
	text, _ := os.ReadFile(path)
	if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	_ = os.Remove(path)
}

func TestFind(t *testing.T) {
	if path, err := Find("true"); err != nil || !filepath.IsAbs(path) {
		t.Errorf("%s, %v", path, err)
	}
	if _, err := Find("no-such-program-here"); err == nil {
		t.Error("found")
	}
}
