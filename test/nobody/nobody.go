// Package nobody runs tests again as a user without any privilege. CI is root, and otherwise
// would not see the behaviour for such a user.
package nobody

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// ID is the user, and the group, that owns nothing.
const ID = 65534

// Programs is the directory with the programs under test, "" where TestMain has to build them.
func Programs() string { return os.Getenv("MIGPIPE_TEST_PROGRAMS") }

// Again runs the tests of a pattern in a process of that user, with these programs, and
// returns its output. The test fails if one of them fails.
func Again(t *testing.T, pattern, programs string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIP: only root can be another user")
	}
	if here, err := os.Stat("."); err != nil || here.Mode()&0o005 != 0o005 {
		t.Skip("SKIP: no other user may read this checkout")
	}
	tmp, err := os.MkdirTemp("", "nobody-") // other users cannot pass through that of t
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(tmp) })
	if err := os.Chown(tmp, ID, ID); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.v", "-test.run", pattern)
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp, "HOME="+tmp, "MIGPIPE_TEST_PROGRAMS="+programs)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: ID, Gid: ID}, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("as user %d: %v\n%s", ID, err, out)
	}
	return string(out)
}
