package arch

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// source is a package as the compiler would be given it, on another machine.
type source struct {
	Dir, ImportPath, Name string
	GoFiles, Imports      []string
	ImportMap             map[string]string
	Standard              bool
	Module                *struct{ Main bool }
}

// machine is one that packages are checked for.
type machine struct {
	system, arch string
	packages     []string
	tests        bool // as well
}

// TestOtherMachines checks the types of packages for machines that CI does not have. All
// packages and tests have to fit Linux: on words of 32 bits, in the other byte order, and with
// the structures and numbers that mips alone has in its kernel's API. What an embedder may
// import on another system has to fit macOS. A compiler would take ten times as long.
func TestOtherMachines(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: the race detector makes it slow, and finds nothing here")
	}
	machines := []machine{{"darwin", "arm64", []string{"./codec"}, false}}
	for _, arch := range []string{"386", "arm", "arm64", "mips", "riscv64", "s390x"} {
		machines = append(machines, machine{"linux", arch, []string{"./..."}, true})
	}
	for _, m := range machines {
		t.Run(m.system+"-"+m.arch, func(t *testing.T) {
			t.Parallel()
			checked := map[string]*types.Package{"unsafe": types.Unsafe}
			for _, p := range m.sources(t) {
				if p.ImportPath != "unsafe" {
					checked[p.ImportPath] = checkTypes(t, m.arch, p, checked)
				}
			}
			if len(checked) < 30 {
				t.Errorf("only %d packages", len(checked))
			}
		})
	}
}

// sources lists the packages, their tests and all that they import: what is imported comes
// before who imports it.
func (m machine) sources(t *testing.T) (all []source) {
	t.Helper()
	args := []string{"list", "-deps", "-test=" + strconv.FormatBool(m.tests), "-json=Dir,ImportPath,Name,GoFiles,Imports,ImportMap,Standard,Module"}
	cmd := exec.Command("go", append(args, m.packages...)...)
	cmd.Dir, cmd.Stderr = root, os.Stderr
	cmd.Env = append(os.Environ(), "GOOS="+m.system, "GOARCH="+m.arch, "CGO_ENABLED=0")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	for dec := json.NewDecoder(out); ; {
		var p source
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(p.ImportPath, ".test") { // the main package of a test is not written yet
			all = append(all, p)
		}
	}
}

// checkTypes looks into the functions of this module alone.
func checkTypes(t *testing.T, arch string, p source, checked map[string]*types.Package) *types.Package {
	t.Helper()
	ours := p.Module != nil && p.Module.Main
	files, set := []*ast.File(nil), token.NewFileSet()
	for _, name := range p.GoFiles {
		if !filepath.IsAbs(name) {
			name = filepath.Join(p.Dir, name)
		}
		f, err := parser.ParseFile(set, name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	conf := types.Config{
		Sizes: types.SizesFor("gc", arch), IgnoreFuncBodies: !ours,
		Importer: importer(func(path string) (*types.Package, error) {
			if real, ok := p.ImportMap[path]; ok {
				path = real
			}
			if found := checked[path]; found != nil {
				return found, nil
			}
			return nil, fmt.Errorf("%s was not listed", path)
		}),
		Error: func(err error) {
			if ours {
				t.Error(err)
			}
		},
	}
	path, _, _ := strings.Cut(p.ImportPath, " ")
	out, _ := conf.Check(path, set, files, nil)
	return out
}

type importer func(path string) (*types.Package, error)

func (i importer) Import(path string) (*types.Package, error) { return i(path) }
