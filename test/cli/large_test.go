package cli

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// maxRSS is the limit for the peak memory of either program.
const maxRSS = 160 << 20

// TestLargeFiles sends a file of random bytes, which is the most work, and a sparse one, which
// is the longest stream. It measures the memory of both programs.
func TestLargeFiles(t *testing.T) {
	if testing.Short() || raceEnabled() {
		t.Skip("moves gigabytes and measures memory: not with -short or -race")
	}
	t.Run("1GiB-random", func(t *testing.T) { moveLarge(t, 1<<30, fillRandom) })
	t.Run("8GiB-sparse", func(t *testing.T) { moveLarge(t, 8<<30, func(io.Writer, int64) error { return nil }) })
}

func fillRandom(w io.Writer, n int64) error {
	_, err := io.CopyN(w, rand.NewChaCha8([32]byte{1}), n)
	return err
}

func moveLarge(t *testing.T, n int64, fill func(io.Writer, int64) error) {
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", dir)
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	makeFile(t, from, n, fill)
	start := time.Now()
	recv := command(t, "mig-recv", "--json", "--listen", "127.0.0.1:0", "--peer", identity(t, "mig-send"), "--device", "d=file:"+to)
	address := listen(t, recv)
	send := command(t, "mig-send", "-q", "--to", address, "--peer", identity(t, "mig-recv"), "--device", "d=file:"+from)
	if err := send.Run(); err != nil {
		t.Errorf("mig-send: %v", err)
	}
	if err := recv.Wait(); err != nil {
		t.Errorf("mig-recv: %v", err)
	}
	took := time.Since(start)
	compare(t, from, to)
	t.Logf("%d MiB in %v (%.0f MiB/s), peak memory: mig-send %d MiB, mig-recv %d MiB",
		n>>20, took.Round(10*time.Millisecond), float64(n>>20)/took.Seconds(), peak(t, send)>>20, peak(t, recv)>>20)
}

func makeFile(t *testing.T, path string, n int64, fill func(io.Writer, int64) error) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := fill(f, n); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(n); err != nil {
		t.Fatal(err)
	}
}

func command(t *testing.T, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, program), args...)
	cmd.Stderr = t.Output()
	return cmd
}

// start starts a program and returns its stdout.
func start(t *testing.T, cmd *exec.Cmd) io.Reader {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func identity(t *testing.T, program string) string {
	t.Helper()
	id, err := command(t, program, "id").Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(id[:len(id)-1])
}

// listen starts a mig-recv and returns the address that it prints.
func listen(t *testing.T, recv *exec.Cmd) string {
	t.Helper()
	out := start(t, recv)
	lines := bufio.NewReader(out)
	line, err := lines.ReadBytes('\n')
	var ev struct{ Address string }
	if err != nil || json.Unmarshal(line, &ev) != nil || ev.Address == "" {
		t.Fatalf("mig-recv says %q: %v", line, err)
	}
	go io.Copy(io.Discard, lines) // the end of the process ends it
	return ev.Address
}

// peak is the most memory that an ended process had.
func peak(t *testing.T, cmd *exec.Cmd) int64 {
	t.Helper()
	rss := int64(cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss) << 10
	if rss > maxRSS {
		t.Errorf("%s needed %d MiB of memory, at most %d are allowed", filepath.Base(cmd.Path), rss>>20, maxRSS>>20)
	}
	return rss
}

// compare accepts two files as equal without reading them if both are one hole of the same
// length.
func compare(t *testing.T, from, to string) {
	t.Helper()
	a, aIsHole := hole(t, from)
	b, bIsHole := hole(t, to)
	if aIsHole && bIsHole && a == b {
		return
	}
	if out, err := exec.Command("cmp", from, to).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func hole(t *testing.T, path string) (size int64, is bool) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size, err = f.Seek(0, io.SeekEnd)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Seek(0, unix.SEEK_DATA)
	return size, errors.Is(err, unix.ENXIO)
}
