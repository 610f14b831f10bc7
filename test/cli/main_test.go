package cli

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"

	llsys "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/migpipe/migpipe/test/golden"
	"github.com/migpipe/migpipe/test/nobody"
)

// bin is the directory with the two programs.
var bin string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	// A run under nohup ignores SIGHUP, and its children would inherit that. Because the
	// test catches the signal, the programs have its default.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	if bin = nobody.Programs(); bin != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "mig-cli-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := errors.Join(build(dir), os.Chmod(dir, 0o711)); err != nil { // an unprivileged user runs them too
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	bin = dir
	return m.Run()
}

// build builds the programs as users get them, or with the race detector if the tests have it.
func build(dir string) error {
	args := []string{"build", "-o", dir}
	if raceEnabled() {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "./cmd/mig-send", "./cmd/mig-recv")...)
	cmd.Dir = filepath.Join("..", "..")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w\n%s", cmd, err, out)
	}
	return nil
}

func raceEnabled() bool {
	info, _ := debug.ReadBuildInfo()
	for _, s := range info.Settings {
		if s.Key == "-race" {
			return s.Value == "true"
		}
	}
	return false
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		Setup:               setup,
		Cmds:                commands,
		Condition:           condition,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       *golden.Update,
	})
}

// TestAsNobody runs the scripts that behave differently for an unprivileged user.
func TestAsNobody(t *testing.T) {
	t.Parallel()
	nobody.Again(t, "TestScripts/(inuse|resolve|local|trust)", bin)
}

// setup gives every script its own keys: $SEND and $RECV are their names.
func setup(env *testscript.Env) error {
	env.Setenv("PATH", bin+string(os.PathListSeparator)+env.Getenv("PATH"))
	config := filepath.Join(env.WorkDir, "config")
	if err := os.Mkdir(config, 0o700); err != nil {
		return err
	}
	env.Setenv("XDG_CONFIG_HOME", config)
	for name, program := range map[string]string{"SEND": "mig-send", "RECV": "mig-recv"} {
		cmd := exec.Command(filepath.Join(bin, program), "id")
		cmd.Env = env.Vars
		id, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("%v: %w", cmd, err)
		}
		env.Setenv(name, strings.TrimSpace(string(id)))
	}
	env.Values[authority{}] = &ca{}
	env.Values[processes{}] = map[string]*process{}
	env.Defer(func() { killAll(env.Values[processes{}].(map[string]*process)) })
	return nil
}

// landlocked reports whether the kernel has Landlock.
func landlocked() bool {
	_, err := llsys.LandlockGetABIVersion()
	return err == nil
}

func condition(name string) (bool, error) {
	switch name {
	case "root":
		return os.Geteuid() == 0, nil
	case "localhost":
		_, err := net.LookupHost("localhost")
		return err == nil, nil
	case "landlock":
		return landlocked(), nil
	}
	return false, fmt.Errorf("unknown condition %q", name)
}
