// Package arch tests the shape of the tree: the imports, the places of raw system calls and
// goroutines, and the comment of every public name.
package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/migpipe/migpipe"

// root is the module's directory, relative to this package.
const root = "../.."

// mayImport lists what each directory's packages may import, beside the standard library and
// their own directory. The longest directory that contains a package counts.
var mayImport = map[string][]string{
	"vfio":                    {"golang.org/x/sys", "internal/crc32c", "internal/lockfile", "internal/units"},
	"codec":                   {"internal/must", "github.com/klauspost/compress", "github.com/cespare/xxhash/v2"},
	"transport":               {"internal/must", "internal/safefile", "internal/unixsocket", "github.com/quic-go/quic-go", "golang.org/x/sys", "golang.org/x/net/ipv4", "golang.org/x/time"},
	"transport/migration":     {"transport", "codec"},
	"transport/handoff":       {"transport", "internal/exe", "internal/safefile", "internal/wire", "golang.org/x/sys"},
	"transport/journal":       {"transport", "internal/crc32c", "internal/failpoint", "internal/lockfile", "internal/safefile", "golang.org/x/sys"},
	"transport/transporttest": {"transport", "codec", "internal/wire", "go.uber.org/goleak", "golang.org/x/sys"},
	"reader":                  {"vfio", "codec", "transport", "internal/failpoint", "internal/occupancy", "internal/share", "internal/tasks", "internal/wire", "golang.org/x/time"},
	"reader/internal/plan":    {"vfio", "transport/migration"},
	"writer":                  {"vfio", "codec", "transport", "internal/failpoint", "internal/occupancy", "internal/share", "internal/tasks", "internal/wire"},
	"internal/wire":           {"transport", "codec", "internal/crc32c", "internal/failpoint", "internal/must", "golang.org/x/sys", "github.com/fxamacker/cbor/v2"},
	"internal/share":          {"internal/wire"},
	"internal/occupancy":      {"transport/migration"},
	"internal/tasks":          {},
	"internal/crc32c":         {},
	"internal/failpoint":      {"golang.org/x/sys"},
	"internal/exe":            {"internal/safefile"},
	"internal/lockfile":       {"golang.org/x/sys"},
	"internal/must":           {},
	"internal/safefile":       {"golang.org/x/sys"},
	"internal/units":          {},
	"internal/unixsocket":     {"golang.org/x/sys"},
}

type pkg struct {
	ImportPath string
	Imports    []string
}

// packages are the packages of both modules.
func packages(t *testing.T) []pkg {
	t.Helper()
	return append(packagesOf(t, root), packagesOf(t, filepath.Join(root, "bench"))...)
}

func packagesOf(t *testing.T, dir string) (all []pkg) {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "./...")
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// rule is the longest directory of the table that contains the package.
func rule(path string) (dir string, allowed []string, ok bool) {
	for f, a := range mayImport {
		if within(path, f) && len(f) > len(dir) {
			dir, allowed, ok = f, a, true
		}
	}
	return dir, allowed, ok
}

func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, dir+"/")
}

func TestImports(t *testing.T) {
	checked := 0
	for _, p := range packages(t) {
		path := strings.TrimPrefix(p.ImportPath, module+"/")
		dir, allowed, ok := rule(path)
		if !ok {
			continue // bench, cmd and test may import everything
		}
		checked++
		for _, imp := range p.Imports {
			short := strings.TrimPrefix(imp, module+"/")
			std := !strings.Contains(strings.SplitN(imp, "/", 2)[0], ".")
			fits := func(f string) bool { return within(short, f) }
			if !std && !within(short, dir) && !slices.ContainsFunc(allowed, fits) {
				t.Errorf("%s imports %s; %s/ may import only %v", path, short, dir, allowed)
			}
		}
	}
	if checked < 10 {
		t.Errorf("only %d packages were checked: the table does not fit the tree", checked)
	}
}

// No program and no library imports the benchmarks' drawing packages.
func TestOnlyBenchDraws(t *testing.T) {
	for _, p := range packages(t) {
		path := strings.TrimPrefix(p.ImportPath, module+"/")
		for _, imp := range p.Imports {
			draws := strings.HasPrefix(imp, "gonum.org/") || within(strings.TrimPrefix(imp, module+"/"), "bench")
			if draws && !within(path, "bench") {
				t.Errorf("%s imports %s, which only bench/ may", path, imp)
			}
		}
	}
}

// Only the programs import the server of metrics: an embedder of the library has its own
// metrics.
func TestOnlyProgramsServeMetrics(t *testing.T) {
	const home = "cmd/internal/ui"
	found := false
	for _, p := range packages(t) {
		path := strings.TrimPrefix(p.ImportPath, module+"/")
		for _, imp := range p.Imports {
			if !strings.HasPrefix(imp, "github.com/prometheus/") {
				continue
			}
			found = found || path == home
			if path != home {
				t.Errorf("%s imports %s, which only %s may", path, imp, home)
			}
		}
	}
	if !found {
		t.Errorf("%s serves no metrics any more: this test has lost its object", home)
	}
}

// files calls do with every Go file of the tree that is not a test.
func files(t *testing.T, do func(path string, fset *token.FileSet, f *ast.File)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && d.Name() != ".." && path != root):
			return filepath.SkipDir
		case d.IsDir(), !strings.HasSuffix(path, ".go"), strings.HasSuffix(path, "_test.go"):
			return nil
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err == nil {
			do(filepath.ToSlash(rel), fset, f)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Raw system calls, and the unsafe pointers for them, are in one file.
func TestRawCallsAreInOneFile(t *testing.T) {
	const home = "vfio/sys_linux.go"
	found := false
	files(t, func(path string, fset *token.FileSet, f *ast.File) {
		if strings.HasPrefix(path, "test/") {
			return // the guest's stand-in for a VMM is a witness, and has its own
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if isRaw(n) {
				found = found || path == home
				if path != home {
					t.Errorf("%v: raw system call or unsafe outside %s", fset.Position(n.Pos()), home)
				}
			}
			return true
		})
	})
	if !found {
		t.Errorf("%s makes no raw system call any more: this test has lost its object", home)
	}
}

func isRaw(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.ImportSpec:
		return n.Path.Value == `"unsafe"`
	case *ast.SelectorExpr:
		switch n.Sel.Name {
		case "Syscall", "Syscall6", "RawSyscall", "RawSyscall6", "UnsafePointer":
			return true
		}
	}
	return false
}

// Goroutines of the engines start in the file of the part that joins them.
func TestGoroutinesStartWhereTheyAreJoined(t *testing.T) {
	starting := 0
	files(t, func(path string, fset *token.FileSet, f *ast.File) {
		if dir := filepath.Dir(path); dir != "reader" && dir != "writer" {
			return
		}
		starts, joins := token.NoPos, false
		ast.Inspect(f, func(n ast.Node) bool {
			if startsGoroutine(n) {
				starts = n.Pos()
			}
			if sel, ok := n.(*ast.SelectorExpr); ok && sel.Sel.Name == "Wait" {
				joins = true
			}
			return true
		})
		if starts.IsValid() {
			starting++
			if !joins {
				t.Errorf("%v starts a goroutine, and the file joins none", fset.Position(starts))
			}
		}
	})
	if starting == 0 {
		t.Error("no goroutine starts in reader/ or writer/: this test has lost its object")
	}
}

func startsGoroutine(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.GoStmt:
		return true
	case *ast.CallExpr:
		sel, ok := n.Fun.(*ast.SelectorExpr)
		return ok && sel.Sel.Name == "Go"
	}
	return false
}

func TestPublicNamesAreDocumented(t *testing.T) {
	files(t, func(path string, fset *token.FileSet, f *ast.File) {
		if f.Name.Name == "main" {
			return
		}
		for _, d := range f.Decls {
			for _, name := range undocumented(d) {
				t.Errorf("%v: %s has no doc comment", fset.Position(d.Pos()), name)
			}
		}
	})
}

func undocumented(d ast.Decl) (names []string) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Doc == nil && d.Name.IsExported() && exportedReceiver(d) {
			names = append(names, d.Name.Name)
		}
	case *ast.GenDecl:
		for _, s := range d.Specs {
			names = append(names, undocumentedSpec(d, s)...)
		}
	}
	return names
}

func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	typ := d.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	id, ok := typ.(*ast.Ident)
	return ok && id.IsExported()
}

// undocumentedSpec accepts a group's comment for its constants, variables and types.
func undocumentedSpec(d *ast.GenDecl, s ast.Spec) (names []string) {
	switch s := s.(type) {
	case *ast.TypeSpec:
		if s.Name.IsExported() && d.Doc == nil && s.Doc == nil {
			names = append(names, s.Name.Name)
		}
	case *ast.ValueSpec:
		for _, n := range s.Names {
			if n.IsExported() && d.Doc == nil && s.Doc == nil && s.Comment == nil {
				names = append(names, n.Name)
			}
		}
	}
	return names
}
