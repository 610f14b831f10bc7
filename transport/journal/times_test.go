package journal

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/transport/handoff"
)

func TestTimes(t *testing.T) {
	dir := t.TempDir()
	times := NewTimes(dir)
	if took, ok := times.Last(handoff.StepAccept); ok {
		t.Errorf("%v before the first run", took)
	}
	for _, run := range []map[string]time.Duration{
		{handoff.StepAccept: time.Second, handoff.StepGuest: 3 * time.Millisecond}, {handoff.StepAccept: 512 * time.Millisecond},
	} {
		if err := times.Keep(run); err != nil {
			t.Fatal(err)
		}
	}
	again := NewTimes(dir)
	for step, want := range map[string]time.Duration{handoff.StepAccept: 512 * time.Millisecond, handoff.StepGuest: 3 * time.Millisecond} {
		if took, ok := again.Last(step); !ok || took != want {
			t.Errorf("%s took %v, %v", step, took, ok)
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Errorf("%v, %v", files, err)
	}
	for _, role := range []Role{Source, Destination} { // it is no journal
		if list, err := List(dir, role); err != nil || len(list) > 0 {
			t.Errorf("%v, %v", list, err)
		}
	}
	if info, err := files[0].Info(); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

// TestTimesUnusable: a file with any content gives no time, or a possible one.
func TestTimesUnusable(t *testing.T) {
	for name, text := range map[string]string{
		"empty": "", "no object": "[1]", "no duration": `{"guest":"soon"}`, "negative": `{"guest":"-3s"}`, "absurd": `{"guest":"9999h"}`,
		"a number": `{"guest":3}`, "too long": `{"guest":"3s","x":"` + strings.Repeat("x", maxTimes) + `"}`,
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, TimesFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		times := NewTimes(dir)
		if took, ok := times.Last(handoff.StepGuest); ok {
			t.Errorf("%s: %v", name, took)
		}
		if err := times.Keep(map[string]time.Duration{handoff.StepGuest: time.Second}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if took, ok := times.Last(handoff.StepGuest); !ok || took != time.Second {
			t.Errorf("%s: then %v, %v", name, took, ok)
		}
	}
	dir := t.TempDir()
	if err := unix.Mkfifo(filepath.Join(dir, TimesFile), 0o600); err != nil {
		t.Fatal(err)
	}
	if took, ok := NewTimes(dir).Last(handoff.StepGuest); ok {
		t.Errorf("of a pipe: %v", took)
	}
}

// TestTimesAfterCrash: what a crash has left is replaced, and nothing else is written to.
func TestTimesAfterCrash(t *testing.T) {
	dir, other := t.TempDir(), filepath.Join(t.TempDir(), "other")
	times, left := NewTimes(dir), filepath.Join(dir, "."+TimesFile+".new")
	if err := os.WriteFile(left, []byte(strings.Repeat("x", 2*maxTimes)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := times.Keep(map[string]time.Duration{handoff.StepGuest: time.Second}); err != nil {
		t.Fatal(err)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
		t.Errorf("%v, %v", files, err)
	}
	if took, ok := times.Last(handoff.StepGuest); !ok || took != time.Second {
		t.Errorf("%v, %v", took, ok)
	}
	if err := os.WriteFile(other, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(other, left); err != nil {
		t.Fatal(err)
	}
	times.Keep(map[string]time.Duration{handoff.StepGuest: time.Minute})
	if text, err := os.ReadFile(other); err != nil || string(text) != "text" {
		t.Errorf("behind the link: %q, %v", text, err)
	}
}
