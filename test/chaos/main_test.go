package chaos

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/migpipe/migpipe/test/nobody"
	"github.com/migpipe/migpipe/transport/journal"
)

var (
	all    = flag.Bool("all", false, "run every case, not only those that are quick")
	draws  = flag.Int("random", 3, "how many cases are drawn")
	seed   = flag.Uint64("seed", 1, "what they are drawn from")
	keep   = flag.Bool("keep", false, "keep the files of cases that fail")
	shared struct {
		bin      string // the directory with the two programs, which have failpoints
		keys     string // of both sides
		ids      [2]string
		volatile []string // the flag that the temporary directory's file system needs
	}
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

// together is how many cases run at once for each core: they wait more than they work.
const together = 3

func run(m *testing.M) int {
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		flag.Set("test.parallel", fmt.Sprint(together*runtime.GOMAXPROCS(0)))
	}
	if testing.Short() {
		fmt.Println("chaos: skipped by -short: the processes are the same without the race detector")
		return 0
	}
	dir, err := os.MkdirTemp("", "mig-chaos-")
	if err == nil {
		defer os.RemoveAll(dir)
		err = prepare(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	totals.print()
	return code
}

// prepare builds the programs and makes a key for each side.
func prepare(dir string) error {
	shared.bin, shared.keys = nobody.Programs(), dir
	if shared.bin == "" {
		shared.bin = filepath.Join(dir, "bin")
		if err := errors.Join(build(shared.bin), os.Chmod(dir, 0o711)); err != nil { // an unprivileged user runs them too
			return err
		}
	}
	for s := range shared.ids {
		out, err := exec.Command(side(s).program(shared.bin), "id", "--identity", side(s).key()).Output()
		if err != nil {
			return fmt.Errorf("%v id: %w", side(s), err)
		}
		shared.ids[s] = strings.TrimSpace(string(out))
	}
	if err := journal.Check(dir, false); errors.Is(err, journal.ErrVolatile) {
		shared.volatile = []string{"--volatile-state"}
	}
	return nil
}

// build makes the two programs, which have failpoints.
func build(bin string, flags ...string) error {
	args := slices.Concat([]string{"build", "-tags", "failpoints", "-o", bin + "/"}, flags, []string{"../../cmd/mig-send", "../../cmd/mig-recv"})
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("go %v: %w\n%s", args, err, out)
	}
	return nil
}

// side is one end of a migration.
type side int

const (
	source side = iota
	destination
)

// String is the side as points and files name it.
func (s side) String() string { return [...]string{"source", "destination"}[s] }

func (s side) program(bin string) string {
	return filepath.Join(bin, [...]string{"mig-send", "mig-recv"}[s])
}

func (s side) key() string { return filepath.Join(shared.keys, s.String()+".key") }

func (s side) role() journal.Role { return [...]journal.Role{journal.Source, journal.Destination}[s] }

// TestAsNobody: without privileges, what needs them is skipped, and says so; the rest passes.
func TestAsNobody(t *testing.T) {
	t.Parallel()
	out := nobody.Again(t, "TestRows/(35|46)", shared.bin)
	if strings.Count(out, "SKIP: only root mounts") != 2 || !strings.Contains(out, "--- PASS: TestRows/35/") {
		t.Errorf("as nobody:\n%s", out)
	}
}
