package witness

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/internal/safefile"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func attempt(mig byte, epoch uint64) migration.Attempt {
	return migration.Attempt{Mig: migration.ID{mig}, Epoch: epoch}
}

// asks asks and wants an answer.
func asks(t *testing.T, w Witness, a migration.Attempt, me handoff.Side) handoff.Side {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	winner, err := w.Decide(ctx, a, me)
	if err != nil {
		t.Fatal(err)
	}
	return winner
}

// conforms is what every witness has to do. The two are one witness, as its two
// hosts see it.
func conforms(t *testing.T, source, dest Witness) {
	const s, d = handoff.SourceSide, handoff.DestSide
	if source.Name() != dest.Name() || source.Name() == "" || len(source.Name()) > MaxName {
		t.Errorf("it has the names %q and %q", source.Name(), dest.Name())
	}
	for _, c := range []struct {
		what  string
		at    migration.Attempt
		w     Witness
		me    handoff.Side
		wants handoff.Side
	}{
		{"the first to ask wins", attempt(1, 1), source, s, s},
		{"who asks later loses", attempt(1, 1), dest, d, s},
		{"and loses again", attempt(1, 1), dest, d, s},
		{"who has won is told so again", attempt(1, 1), source, s, s},
		{"another attempt is another register", attempt(1, 2), dest, d, d},
		{"of which the first knows nothing", attempt(1, 1), dest, d, s},
		{"the source can lose as well", attempt(1, 2), source, s, d},
		{"another migration is another register", attempt(2, 1), dest, d, d},
	} {
		if got := asks(t, c.w, c.at, c.me); got != c.wants {
			t.Errorf("%s: %v of %v has it, want %v", c.what, got, c.at, c.wants)
		}
	}
	t.Run("all agree", func(t *testing.T) { agree(t, source, dest) })
	t.Run("no longer than it may", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(errors.New("enough"))
		if winner, err := source.Decide(ctx, attempt(3, 1), s); err == nil && winner != s || err != nil && !strings.Contains(err.Error(), "enough") {
			t.Errorf("%v, %v", winner, err)
		}
	})
}

// agree has both sides ask at the same time, several times.
func agree(t *testing.T, source, dest Witness) {
	for round := range uint64(8) {
		var all [8]handoff.Side
		var errs [8]error
		var wg sync.WaitGroup
		for i := range all {
			wg.Go(func() {
				w, me := source, handoff.SourceSide
				if i%2 == 1 {
					w, me = dest, handoff.DestSide
				}
				all[i], errs[i] = w.Decide(context.Background(), attempt(9, round+1), me)
			})
		}
		wg.Wait()
		for i := range all {
			if errs[i] != nil || all[i] != all[0] || all[i] == 0 {
				t.Fatalf("round %d: %v, %v", round, all, errs)
			}
		}
	}
}

func openDir(t *testing.T, path string) *Dir {
	t.Helper()
	d, err := OpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDir(t *testing.T) {
	base := t.TempDir()
	shared, there := filepath.Join(base, "shared"), filepath.Join(base, "there")
	if err := errors.Join(os.Mkdir(shared, 0o700), os.Symlink("shared", there)); err != nil {
		t.Fatal(err)
	}
	conforms(t, openDir(t, shared), openDir(t, there))
	// The one that was not waited for makes its register all the same, and tidies up then.
	late, left := false, []string(nil)
	for end := time.Now().Add(10 * time.Second); (!late || len(left) > 0) && time.Now().Before(end); {
		_, err := os.Stat(filepath.Join(shared, attempt(3, 1).Mig.String()+".1"))
		late = err == nil
		if left, err = filepath.Glob(shared + "/.new-*"); err != nil {
			t.Fatal(err)
		}
	}
	if !late || len(left) > 0 {
		t.Errorf("it was made: %v; left behind: %v", late, left)
	}
	if other := openDir(t, t.TempDir()); other.Name() == openDir(t, shared).Name() {
		t.Error("two directories have the same name")
	}
}

// TestDirIsLinked: a server may have made the link and lost its answer. Asked again
// it says EEXIST, and the register is ours.
func TestDirIsLinked(t *testing.T) {
	d := openDir(t, t.TempDir())
	final := filepath.Join(d.path, attempt(1, 1).Mig.String()+".1")
	if err := write(final, "source\n"); err != nil {
		t.Fatal(err)
	}
	if err := d.link(final, "source"); err != nil {
		t.Error(err)
	}
	if got := asks(t, d, attempt(1, 1), handoff.SourceSide); got != handoff.SourceSide {
		t.Errorf("%v has it", got)
	}
}

// TestDirDamaged: what is no register decides nothing.
func TestDirDamaged(t *testing.T) {
	for _, text := range []string{"", "source", "nobody\n", "source\ndestination\n", strings.Repeat("x", maxFile) + "\n"} {
		d := openDir(t, t.TempDir())
		if err := os.WriteFile(filepath.Join(d.path, attempt(1, 1).Mig.String()+".1"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if winner, err := d.Decide(context.Background(), attempt(1, 1), handoff.SourceSide); err == nil || winner != 0 {
			t.Errorf("%q: %v has it, %v", text, winner, err)
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, idFile), []byte(strings.Repeat("x", MaxName)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if d, err := OpenDir(dir); err == nil {
		t.Errorf("a directory has the name %q", d.Name())
	}
	if _, err := OpenDir(filepath.Join(dir, "none")); err == nil {
		t.Error("a directory that is not there was opened")
	}
}

// TestUntrusted: a directory or a program that another user may write is no witness, and a FIFO
// is not waited for.
func TestUntrusted(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenDir(dir); !errors.Is(err, safefile.ErrUntrusted) {
		t.Errorf("a directory that all may write: %v", err)
	}
	dir = t.TempDir()
	if err := unix.Mkfifo(filepath.Join(dir, idFile), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenDir(dir); err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Errorf("a FIFO: %v", err)
	}
	path := filepath.Join(dir, "ask")
	if err := errors.Join(os.WriteFile(path, []byte("#!/bin/sh\necho source\n"), 0o700), os.Chmod(path, 0o722)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open("exec:" + path); !errors.Is(err, safefile.ErrUntrusted) {
		t.Errorf("a program that all may write: %v", err)
	}
}

func script(t *testing.T, text string) *Exec {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ask")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	e, err := NewExec(path)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestExec(t *testing.T) {
	// noclobber is O_EXCL for the shell; what is renamed in is whole.
	dir := t.TempDir()
	register := func() *Exec {
		return script(t, `r=`+dir+`/$MIGPIPE_MIGRATION.$MIGPIPE_EPOCH
echo $MIGPIPE_SIDE >$r.$$
ln $r.$$ $r 2>/dev/null
cat $r`)
	}
	conforms(t, register(), register())
}

// TestDirHangs: of the questions to a file system that hangs few wait for it, and it is
// asked again when it answers.
func TestDirHangs(t *testing.T) {
	d, hangs := openDir(t, t.TempDir()), make(chan struct{})
	ask := func(ctx context.Context) error {
		_, err := d.await(ctx, func() (handoff.Side, error) { <-hangs; return handoff.SourceSide, nil })
		return err
	}
	over, cancel := context.WithCancelCause(context.Background())
	cancel(errors.New("enough"))
	for range maxCalls {
		if err := ask(over); err == nil || !strings.Contains(err.Error(), "enough") {
			t.Errorf("a question that may wait: %v", err)
		}
	}
	for range 2 {
		if err := ask(over); !errors.Is(err, errHangs) {
			t.Errorf("one more: %v", err)
		}
	}
	close(hangs)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		_, err := d.Decide(context.Background(), attempt(1, 1), handoff.SourceSide)
		if err == nil {
			return
		}
		if !errors.Is(err, errHangs) || time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// TestExecSaysNothing: only a side's name and an exit with 0 decide.
func TestExecSaysNothing(t *testing.T) {
	for _, c := range []struct{ text, says string }{
		{"exit 0", `"" is neither source nor destination`},
		{"echo source; exit 1", "exit status 1"},
		{"echo 'no quorum' >&2; exit 3", `exit status 3: "no quorum"`},
		{"echo me", `"me" is neither`},
		{"echo source; echo destination", "is neither"},
		{"head -c 100000 /dev/zero", "is neither"},
		{"kill -9 $$", "signal: killed"},
	} {
		winner, err := script(t, c.text).Decide(context.Background(), attempt(1, 1), handoff.SourceSide)
		if winner != 0 || err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v has it, %v", c.text, winner, err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := script(t, "sleep 60; echo source").Decide(ctx, attempt(1, 1), handoff.SourceSide)
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 10*time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
}

func TestOpen(t *testing.T) {
	for url, says := range map[string]string{
		"dir:" + t.TempDir(): "", "exec:true": "", "dir:": "it is dir:PATH or exec:PROGRAM", "exec:": "it is dir:PATH", "/tmp": "it is dir:PATH",
		"etcd:x": "it is dir:PATH", "exec:/none": "no such file", "dir:/none": "no such file",
	} {
		_, err := Open(url)
		if (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", url, err)
		}
	}
}
