package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestArchitecture: the files, methods and functions in docs/architecture.md exist.
func TestArchitecture(t *testing.T) {
	text, err := os.ReadFile("../../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	files, names := declared(t, "../../reader", "../../writer", "../../transport", "../../internal/wire")
	checked := 0
	for _, m := range regexp.MustCompile("`([a-zA-Z][a-zA-Z./]*)`|\\b([a-z]+\\.go)\\b").FindAllStringSubmatch(string(text), -1) {
		name := m[1] + m[2]
		switch base := filepath.Base(name); {
		case strings.HasSuffix(name, ".go"):
			checked++
			if !files[base] {
				t.Errorf("there is no file %s", name)
			}
		case strings.Contains(name, ".") && !strings.Contains(name, "/"):
			checked++
			if !names[name] {
				t.Errorf("there is no %s", name)
			}
		}
	}
	if checked < 30 {
		t.Errorf("only %d names were checked", checked)
	}
}

// declared returns the files of some directories, and their declarations: "package.Name",
// "Type.method" and "package.method".
func declared(t *testing.T, dirs ...string) (files, names map[string]bool) {
	t.Helper()
	files, names = map[string]bool{}, map[string]bool{}
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				return err
			}
			files[filepath.Base(path)] = true
			for _, decl := range f.Decls {
				switch decl := decl.(type) {
				case *ast.FuncDecl:
					names[f.Name.Name+"."+decl.Name.Name] = true
					if decl.Recv != nil {
						names[receiver(decl)+"."+decl.Name.Name] = true
					}
				case *ast.GenDecl:
					for _, s := range decl.Specs {
						if s, ok := s.(*ast.TypeSpec); ok {
							names[f.Name.Name+"."+s.Name.Name] = true
						}
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return files, names
}

func receiver(f *ast.FuncDecl) string {
	typ := f.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	id, _ := typ.(*ast.Ident)
	if id == nil {
		return ""
	}
	return id.Name
}
