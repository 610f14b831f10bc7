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

// TestWordSizes checks the types of every package and of every test for machines whose words
// have 32 bits: 386, and mips, which also has the other byte order and other structures and
// numbers in its kernel's API. A compiler would take ten times as long.
func TestWordSizes(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: the race detector makes it slow, and finds nothing here")
	}
	for _, arch := range []string{"386", "mips"} {
		t.Run(arch, func(t *testing.T) {
			t.Parallel()
			checked := map[string]*types.Package{"unsafe": types.Unsafe}
			for _, p := range sources(t, arch) {
				if p.ImportPath != "unsafe" {
					checked[p.ImportPath] = checkTypes(t, arch, p, checked)
				}
			}
			if len(checked) < 100 {
				t.Errorf("only %d packages", len(checked))
			}
		})
	}
}

// sources lists the module's packages, its tests and all that they import: what is imported
// comes before who imports it.
func sources(t *testing.T, arch string) (all []source) {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-test", "-json=Dir,ImportPath,Name,GoFiles,Imports,ImportMap,Standard,Module", "./...")
	cmd.Dir, cmd.Stderr = root, os.Stderr
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+arch, "CGO_ENABLED=0")
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
