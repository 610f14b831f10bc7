package cli

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSecrets: neither keys nor the devices' state appear in the programs' output, or in
// files that others may read.
func TestSecrets(t *testing.T) {
	dir := t.TempDir()
	marker := "PAYLOAD-NOBODY-MAY-SEE"
	from := filepath.Join(dir, "from")
	writeFile(t, from, []byte(strings.Repeat(marker, 10000)))
	var said, received, sent bytes.Buffer // by all of them together, and by each program on stderr
	env := append(os.Environ(), "XDG_CONFIG_HOME="+dir)
	ids := map[string]string{}
	for _, program := range []string{"mig-send", "mig-recv"} {
		cmd := command(t, program, "id")
		cmd.Env = env
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		ids[program] = strings.TrimSpace(string(out))
	}

	recv := command(t, "mig-recv", "--json", "--listen", "127.0.0.1:0", "--peer", ids["mig-send"], "--device", "d=file:"+filepath.Join(dir, "to"))
	recv.Env, recv.Stderr = env, &received
	events := bufio.NewScanner(start(t, recv))
	listening := nextEvent(t, events, "listening")
	_, rest, _ := strings.Cut(listening, `"address":"`)
	address, _, _ := strings.Cut(rest, `"`)
	for _, file := range []string{"cmdline", "comm", "status"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", recv.Process.Pid, file))
		if err != nil {
			t.Error(err)
		}
		said.Write(text)
	}
	send := command(t, "mig-send", "--json", "--to", address, "--peer", ids["mig-recv"], "--device", "d=file:"+from)
	send.Env, send.Stdout, send.Stderr = env, &sent, &sent
	if err := send.Run(); err != nil {
		t.Errorf("mig-send: %v\n%s", err, &sent)
	}
	for events.Scan() {
		said.Write(events.Bytes())
	}
	if err := recv.Wait(); err != nil {
		t.Errorf("mig-recv: %v\n%s", err, &received)
	}
	said.Write(received.Bytes())
	said.Write(sent.Bytes())

	keys := []string{filepath.Join(dir, "migpipe/send.key"), filepath.Join(dir, "migpipe/recv.key")}
	for _, path := range keys { // the error of an unreadable key
		text := readFile(t, path)
		writeFile(t, path, bytes.ReplaceAll(text, []byte("PRIVATE"), []byte("SECRET")))
		wrong, err := exec.Command(filepath.Join(bin, "mig-send"), "id", "--identity", path).CombinedOutput()
		if err == nil || !strings.Contains(string(wrong), path) {
			t.Errorf("a spoiled key: %v, %s", err, wrong)
		}
		said.Write(wrong)
		writeFile(t, path, text)
	}
	contains(t, said.String(), `"event":"done"`, `"outcome":"committed"`, "--peer")
	for _, secret := range append(keyForms(t, keys), marker) {
		if strings.Contains(said.String(), secret) {
			t.Errorf("%q was shown", secret)
		}
	}
}

// keyForms are the forms in which a key may leak.
func keyForms(t *testing.T, paths []string) (forms []string) {
	t.Helper()
	for _, path := range paths {
		block, _ := pem.Decode(readFile(t, path))
		if block == nil {
			t.Fatalf("%s is no key", path)
		}
		seed := block.Bytes[len(block.Bytes)-32:] // RFC 8410, section 7
		forms = append(forms, string(seed), hex.EncodeToString(seed), strings.ToUpper(hex.EncodeToString(seed)), strings.Trim(fmt.Sprint(seed), "[]"),
			base64.StdEncoding.EncodeToString(block.Bytes), base64.RawStdEncoding.EncodeToString(seed), base64.RawURLEncoding.EncodeToString(seed))
	}
	return forms
}

func writeFile(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestNoAccess: the memory, the environment and the descriptors of the programs
// are closed to other processes of the same user, and no core is left.
func TestNoAccess(t *testing.T) {
	allowCores(t)
	for _, program := range []struct {
		name string
		args []string
	}{
		{"mig-recv", []string{"--json", "--listen", "127.0.0.1:0", "--device", "d=sim:mtty", "--peer"}},
		{"mig-send", []string{"--json", "--to", "127.0.0.1:9", "--device", "d=sim:mtty", "--peer"}},
	} {
		t.Run(program.name, func(t *testing.T) {
			dir := t.TempDir()
			user := uint32(os.Geteuid())
			cmd := command(t, program.name, append(program.args, someID(t))...)
			cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+dir)
			if user == 0 { // everything belongs to root: use another user
				user = 65534
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
				own(t, dir, int(user))
			}
			stdout := start(t, cmd)
			if !bufio.NewScanner(stdout).Scan() { // by now all is set up
				t.Fatal("it says nothing")
			}
			proc := fmt.Sprintf("/proc/%d/", cmd.Process.Pid)
			// "The files inside each /proc/pid directory are normally owned by the
			// effective user and effective group ID of the process. However, as a security
			// measure, the ownership is made root:root if the process's 'dumpable'
			// attribute is set to a value other than 1" (proc_pid(5)).
			for _, file := range []string{"environ", "mem", "maps", "fd"} {
				var info syscall.Stat_t
				if err := syscall.Stat(proc+file, &info); err != nil || info.Uid == user {
					t.Errorf("%s belongs to user %d, %v: the process can be looked into", file, info.Uid, err)
				}
			}
			limits := string(readFile(t, proc+"limits"))
			if line := rowOf(limits, "Max core file size"); !strings.HasPrefix(line, "0") {
				t.Errorf("cores may have %s", line)
			}
			cmd.Process.Kill()
			cmd.Wait()
		})
	}
}

// allowCores raises the limit that the programs inherit to its maximum.
func allowCores(t *testing.T) {
	t.Helper()
	var was unix.Rlimit
	err := unix.Getrlimit(unix.RLIMIT_CORE, &was)
	if err != nil {
		t.Fatal(err)
	}
	raised := unix.Rlimit{Cur: was.Max, Max: was.Max}
	if os.Geteuid() == 0 {
		raised = unix.Rlimit{Cur: 1 << 30, Max: 1 << 30}
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &raised); err != nil {
		t.Logf("a limit of %d stays: %v", was.Cur, err)
	}
	t.Cleanup(func() { unix.Setrlimit(unix.RLIMIT_CORE, &was) })
}

// own gives a user a directory, and access to it and to the programs.
func own(t *testing.T, dir string, user int) {
	t.Helper()
	err := os.Chown(dir, user, user)
	for _, d := range []string{bin, filepath.Dir(dir)} {
		if err == nil {
			err = os.Chmod(d, 0o755)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

func someID(t *testing.T) string {
	t.Helper()
	out, err := exec.Command(filepath.Join(bin, "mig-send"), "id", "--identity", filepath.Join(t.TempDir(), "key")).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func rowOf(text, name string) string {
	_, rest, _ := strings.Cut(text, name)
	line, _, _ := strings.Cut(rest, "\n")
	return strings.TrimSpace(line)
}
