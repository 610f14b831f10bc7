// Package api compares the public API with its golden text.
package api

import (
	"bytes"
	"flag"
	"go/ast"
	"go/doc"
	"go/format"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite docs/api")

const root = "../.."

// TestAPI compares the public API of each package with docs/api, so that a review sees every
// change of it.
func TestAPI(t *testing.T) {
	dir := filepath.Join(root, "docs", "api")
	want := map[string]bool{}
	for _, pkg := range publicPackages(t) {
		name := strings.ReplaceAll(pkg, "/", "_") + ".txt"
		want[name] = true
		path, got := filepath.Join(dir, name), api(t, pkg)
		if *update {
			if err := os.WriteFile(path, got, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if text, err := os.ReadFile(path); err != nil || !bytes.Equal(text, got) {
			t.Errorf("docs/api/%s is not the API of %s (go test ./test/api -update rewrites it): %v", name, pkg, err)
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(want) < 8 {
		t.Errorf("%d packages: %v", len(want), err)
	}
	for _, f := range files {
		if !want[f.Name()] {
			t.Errorf("docs/api/%s is of no public package", f.Name())
		}
	}
}

// publicPackages are those that others may import, relative to the module.
func publicPackages(t *testing.T) (list []string) {
	t.Helper()
	cmd := exec.Command("go", "list", "-f", "{{if ne .Name \"main\"}}{{.ImportPath}}{{end}}", "./...")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for path := range strings.FieldsSeq(string(out)) {
		short := strings.TrimPrefix(path, "github.com/migpipe/migpipe/")
		if !strings.Contains("/"+short+"/", "/internal/") && !strings.HasPrefix(short, "test/") {
			list = append(list, short)
		}
	}
	return list
}

// api is what go doc prints of a package on Linux, without the comments.
func api(t *testing.T, pkg string) []byte {
	t.Helper()
	set := token.NewFileSet()
	paths, err := filepath.Glob(filepath.Join(root, pkg, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var files []*ast.File
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") || strings.HasSuffix(path, "_other.go") {
			continue
		}
		f, err := parser.ParseFile(set, path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	p, err := doc.NewFromFiles(set, files, "github.com/migpipe/migpipe/"+pkg)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	put := func(decl ast.Node) {
		if err := format.Node(&b, token.NewFileSet(), decl); err != nil {
			t.Fatal(err)
		}
		b.WriteByte('\n')
	}
	values := func(list []*doc.Value) {
		for _, v := range list {
			put(v.Decl)
		}
	}
	funcs := func(list []*doc.Func) {
		for _, f := range list {
			f.Decl.Body = nil
			put(f.Decl)
		}
	}
	values(p.Consts)
	values(p.Vars)
	funcs(p.Funcs)
	for _, typ := range p.Types {
		b.WriteByte('\n')
		put(typ.Decl)
		values(typ.Consts)
		values(typ.Vars)
		funcs(typ.Funcs)
		funcs(typ.Methods)
	}
	return b.Bytes()
}
