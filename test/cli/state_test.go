package cli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/migpipe/migpipe/internal/wire"
)

// status is a program's report of its journals, one for each migration.
type status struct {
	Migration, Record, Meaning, File string
	Attempt                          uint64
}

func statusOf(t *testing.T, program, dir string) (list []status) {
	t.Helper()
	out, err := exec.Command(filepath.Join(bin, program), "status", "--json", "--state-dir", dir).Output()
	if err != nil {
		t.Fatalf("%s status: %v", program, err)
	}
	for line := range strings.SplitSeq(strings.TrimSpace(string(out)), "\n") {
		var s status
		if err := json.Unmarshal([]byte(line), &s); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		list = append(list, s)
	}
	return list
}

func wantStatus(t *testing.T, program, dir, record string, attempt uint64) status {
	t.Helper()
	list := statusOf(t, program, dir)
	if len(list) != 1 || list[0].Record != record || list[0].Attempt != attempt {
		t.Fatalf("%s status: %+v, want %s of attempt %d", program, list, record, attempt)
	}
	return list[0]
}

// TestKilledSender: a source that is killed while its guest runs has lost nothing, and its
// journal records that. The same migration, tried again, commits. After that it cannot be
// tried again.
func TestKilledSender(t *testing.T) {
	dir := t.TempDir()
	sock := "unix:" + filepath.Join(dir, "sock")
	from, to := filepath.Join(dir, "send"), filepath.Join(dir, "recv")
	recv := func() *exec.Cmd {
		cmd := command(t, "mig-recv", "--json", "--listen", sock, "--device", "d=sim:mlx5", "--state-dir", to)
		events := bufio.NewScanner(start(t, cmd))
		nextEvent(t, events, "listening")
		go func() { // ends with the program
			for events.Scan() {
			}
		}()
		return cmd
	}
	d := recv()
	cmd := command(t, "mig-send", "--json", "--to", sock, "--device", "d=sim:mlx5?size=64MiB&save=8MiB/s", "--state-dir", from)
	events := bufio.NewScanner(start(t, cmd))
	contains(t, nextEvent(t, events, "phase"), `"connect"`)
	contains(t, nextEvent(t, events, "phase"), `"pre-copy"`)
	signalProcess(t, cmd, syscall.SIGKILL)
	cmd.Wait()
	d.Wait()
	s := wantStatus(t, "mig-send", from, "OPEN", 1)
	wantStatus(t, "mig-recv", to, "ABORTED", 1)

	d = recv()
	exits(t, 0, exec.Command(filepath.Join(bin, "mig-send"), "--to", sock, "--device", "d=sim:mlx5?size=1MiB", "--state-dir", from, "--migration", s.Migration))
	d.Wait()
	wantStatus(t, "mig-send", from, "DONE", 2)
	wantStatus(t, "mig-recv", to, "DONE", 2)
	again := exec.Command(filepath.Join(bin, "mig-send"), "--json", "--to", sock, "--device", "d=file:gone", "--state-dir", from, "--migration", s.Migration)
	var stdout bytes.Buffer
	again.Stdout = &stdout
	exits(t, 0, again)
	contains(t, stdout.String(), `"outcome":"committed"`, "the devices of this migration run at its destination (attempt 2): nothing was sent")
}

// TestDoubtStays: a source that recorded COMMIT does not resume in a new process
// either, in any state of its device. No new migration begins beside it.
func TestDoubtStays(t *testing.T) {
	dir := t.TempDir()
	from, state := filepath.Join(dir, "from"), filepath.Join(dir, "state")
	if err := os.WriteFile(from, []byte("state"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := listenUnix(t)
	served := serve(t, l, &vanishing{until: wire.TypeCommit})
	send := func(args ...string) *exec.Cmd {
		return exec.Command(filepath.Join(bin, "mig-send"), append([]string{"--to", "unix:" + l.Addr().String(), "--device", "d=file:" + from,
			"--state-dir", state, "--doubt-for", "1ms"}, args...)...)
	}
	exits(t, 11, send())
	if err := <-served; err != nil {
		t.Error(err)
	}
	s := wantStatus(t, "mig-send", state, "COMMIT", 1)
	contains(t, s.Meaning, "IN DOUBT")
	again := "hint: `mig-send --migration " + s.Migration + "`"
	for _, args := range [][]string{{"--migration", s.Migration}, {"--continue"}} {
		contains(t, exits(t, 11, send(args...)), "continuing migration "+s.Migration, "error: the destination has not answered COMMIT", "hint: do NOT start the guest here", again)
	}
	contains(t, exits(t, 2, send()), "error: migration "+s.Migration+" of these devices is in doubt", "hint: --continue asks the destination")
	if err := os.Remove(from); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"--migration", s.Migration}, {"--continue"}} {
		contains(t, exits(t, 11, send(args...)), "error: device d: file:"+from, "hint: do NOT start the guest here", again)
	}
	contains(t, exits(t, 2, send()), "error: migration "+s.Migration+" of these devices is in doubt")
	wantStatus(t, "mig-send", state, "COMMIT", 1)
}
