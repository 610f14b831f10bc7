package vm

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// host has the machine's resources for all guests.
type host struct {
	kernels  []kernel
	programs map[string]program
}

// kernel is one of build.sh's products.
type kernel struct{ name, dir string }

// program is a static binary for the guests, or the reason why there is none.
type program struct {
	path string
	err  error
}

// newHost prepares kernels and programs, or skips the test with the reason.
func newHost(t *testing.T) *host {
	mode := os.Getenv("MIGPIPE_VM")
	absent := t.Fatal
	switch mode {
	case "":
		t.Skip("set MIGPIPE_VM=1 (make test does)")
	case "1":
		absent = func(why ...any) { t.Skip(append([]any{"SKIP:"}, why...)...) }
	case "require":
	default:
		t.Fatalf("MIGPIPE_VM=%s: want 1 or require", mode)
	}
	if reason := unfit(); reason != "" {
		absent("the VM test " + reason)
	}
	kernels, err := buildKernels()
	if err != nil {
		absent("the VM test has no kernels:", err)
	}
	return &host{kernels: kernels, programs: buildPrograms(t)}
}

// unfit returns why this machine cannot run the test, "" if it can.
func unfit() string {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		return "needs linux/amd64, this is " + runtime.GOOS + "/" + runtime.GOARCH
	}
	release, _ := os.ReadFile("/etc/os-release")
	if !strings.Contains(string(release), "\nID=debian\n") || !strings.Contains(string(release), "\nVERSION_ID=\"12\"\n") {
		return "needs Debian 12: its kernels come from apt"
	}
	if os.Geteuid() != 0 {
		return "needs root"
	}
	if _, err := exec.LookPath(qemu); err != nil {
		return "needs " + qemu + ": apt-get install the packages of test/vm/packages.txt"
	}
	return ""
}

// buildKernels runs build.sh. The first run needs minutes; later runs use the cache.
func buildKernels() ([]kernel, error) {
	cmd := exec.Command("./build.sh")
	var complaint strings.Builder
	cmd.Stderr = io.MultiWriter(&complaint, vmLines{}) // the only output for some minutes
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("build.sh: %w\n%s", err, complaint.String())
	}
	var kernels []kernel
	lines := bufio.NewScanner(strings.NewReader(string(out)))
	for lines.Scan() {
		name, dir, ok := strings.Cut(lines.Text(), " ")
		if !ok {
			return nil, fmt.Errorf("build.sh printed %q, want a kernel's name and directory", lines.Text())
		}
		kernels = append(kernels, kernel{name, dir})
	}
	return kernels, nil
}

// vmLines prints lines as the steps of this test.
type vmLines struct{}

func (vmLines) Write(p []byte) (int, error) {
	for line := range strings.Lines(string(p)) {
		fmt.Printf("vm: %s\n", strings.TrimRight(line, "\n"))
	}
	return len(p), nil
}

// The programs with the points of internal/failpoint. Only scenarios with kills run them: the
// others test the shipped programs.
const (
	killableSend = "mig-send-failpoints"
	killableRecv = "mig-recv-failpoints"
)

// buildPrograms builds the programs of the guests. If one does not build, only the scenarios
// that need it fail.
func buildPrograms(t *testing.T) map[string]program {
	dir := t.TempDir()
	programs := make(map[string]program)
	for name, args := range map[string][]string{
		"guest":       {"build", "-ldflags=-s -w", "./test/vm/guest"},
		"mig-send":    {"build", "-ldflags=-s -w", "./cmd/mig-send"},
		"mig-recv":    {"build", "-ldflags=-s -w", "./cmd/mig-recv"},
		killableSend:  {"build", "-tags", "failpoints", "-ldflags=-s -w", "./cmd/mig-send"},
		killableRecv:  {"build", "-tags", "failpoints", "-ldflags=-s -w", "./cmd/mig-recv"},
		"vfio.test":   {"test", "-c", "-ldflags=-s -w", "./vfio"},
		"reader.test": {"test", "-c", "-ldflags=-s -w", "./reader"},
	} {
		path := filepath.Join(dir, name)
		// -o goes right before the package, which is last.
		last := len(args) - 1
		cmd := exec.Command("go", append(args[:last:last], "-o", path, args[last])...)
		cmd.Dir = "../.."
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // nothing to link with in the guest
		p := program{path: path}
		if out, err := cmd.CombinedOutput(); err != nil {
			p.err = fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
		} else if _, err := os.Stat(path); err != nil {
			p.err = fmt.Errorf("%s made nothing: %w", strings.Join(cmd.Args, " "), err)
		}
		programs[name] = p
	}
	return programs
}

// initramfs makes a kernel's root file system: the guest program as /init, the
// modules, busybox and the programs in /bin.
func (h *host) initramfs(k kernel, to string) error {
	if err := h.programs["guest"].err; err != nil {
		return err
	}
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	defer f.Close()
	buffered := bufio.NewWriterSize(f, 1<<20)
	c := &cpio{w: buffered}
	for _, dir := range []string{"bin", "dev", "modules", "root", "tmp"} {
		c.dir(dir)
	}
	c.char("dev/console", 5, 1) // for init's messages, before /dev is mounted
	c.file("bin/busybox", filepath.Join(k.dir, "busybox"))
	c.link("bin/sh", "busybox")
	modules, err := filepath.Glob(filepath.Join(k.dir, "modules", "*"))
	if err != nil {
		return err
	}
	for _, m := range modules {
		c.file("modules/"+filepath.Base(m), m)
	}
	for name, p := range h.programs {
		if p.err == nil {
			c.file("bin/"+name, p.path)
		}
	}
	c.link("init", "bin/guest")
	if err := c.end(); err != nil {
		return err
	}
	if err := buffered.Flush(); err != nil {
		return err
	}
	return f.Close()
}

// need fails the scenario if a program could not be built.
func (h *host) need(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := h.programs[name].err; err != nil {
			t.Fatal(err)
		}
	}
}
