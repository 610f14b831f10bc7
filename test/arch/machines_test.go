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

// source is a package as the compiler would get it on another machine.
type source struct {
	Dir, ImportPath, Name string
	GoFiles, Imports      []string
	ImportMap             map[string]string
	Standard              bool
	Module                *struct{ Main bool }
}

// machine is a machine for which packages are checked.
type machine struct {
	system, arch string
	modules      []string // their directories
	packages     string
	tests        bool   // as well
	direction    string // what _IO adds to the numbers of VFIO's requests; empty without VFIO
}

// TestOtherMachines checks the types of packages for machines that CI does not have. All
// packages and tests have to fit Linux: on words of 32 bits, in the other byte order, and with
// the structures and numbers that mips alone has in its kernel's API. Packages that an embedder
// may import on another system have to fit macOS. A compiler would need ten times as long.
func TestOtherMachines(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: the race detector makes it slow, and finds nothing here")
	}
	machines := []machine{{system: "darwin", arch: "arm64", modules: []string{root}, packages: "./codec"}}
	for arch, direction := range map[string]string{
		"386": "0", "arm": "0", "arm64": "0", "riscv64": "0", "s390x": "0", "mips": "536870912", "ppc64le": "536870912",
	} {
		machines = append(machines, machine{"linux", arch, []string{root, filepath.Join(root, "bench")}, "./...", true, direction})
	}
	for _, m := range machines {
		t.Run(m.system+"-"+m.arch, func(t *testing.T) {
			t.Parallel()
			checked := map[string]*types.Package{"unsafe": types.Unsafe}
			for _, dir := range m.modules {
				for _, p := range m.sources(t, dir) {
					if checked[p.ImportPath] == nil {
						checked[p.ImportPath] = checkTypes(t, m.arch, p, checked)
					}
				}
			}
			if len(checked) < 30 {
				t.Errorf("only %d packages", len(checked))
			}
			if m.direction != "" {
				m.checkDirection(t, checked[module+"/vfio"])
			}
		})
	}
}

// checkDirection compares the constant by which package vfio recognises the machines whose
// kernel devices it does not support.
func (m machine) checkDirection(t *testing.T, vfio *types.Package) {
	t.Helper()
	c, ok := vfio.Scope().Lookup("ioctlDirection").(*types.Const)
	if !ok {
		t.Fatal("package vfio has no constant ioctlDirection any more: this test has lost its object")
	}
	if got := c.Val().ExactString(); got != m.direction {
		t.Errorf("ioctlDirection is %s, want %s", got, m.direction)
	}
}

// sources lists the packages, their tests and all their imports, each package after its
// imports.
func (m machine) sources(t *testing.T, dir string) (all []source) {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-test="+strconv.FormatBool(m.tests), "-json=Dir,ImportPath,Name,GoFiles,Imports,ImportMap,Standard,Module", m.packages)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
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

// checkTypes checks the bodies of functions in this module alone.
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
