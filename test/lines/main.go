// Command lines counts the lines of code of the programs and the library: those of Go files,
// without tests, test/ and bench/, that hold more than a comment.
//
//	go run ./test/lines
package main

import (
	"fmt"
	"go/scanner"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	counts, err := count(".")
	if err != nil {
		fmt.Fprintln(os.Stderr, "lines: error:", err)
		os.Exit(1)
	}
	total := 0
	for _, dir := range slices.Sorted(maps.Keys(counts)) {
		total += counts[dir]
		fmt.Printf("%6d %s\n", counts[dir], dir)
	}
	fmt.Printf("%6d in all\n", total)
}

// count returns the lines of code by directory.
func count(root string) (map[string]int, error) {
	counts := map[string]int{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(root, path)
		if d.IsDir() && (name == "bench" || name != "." && strings.HasPrefix(d.Name(), ".") || strings.HasSuffix(d.Name(), "test") || d.Name() == "testdata") {
			return fs.SkipDir // the conformance suites, as vfio/vfiotest, are tests
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		counts[filepath.Dir(name)] += codeLines(text)
		return nil
	})
	return counts, err
}

// codeLines counts the lines of a file with a token other than a comment.
func codeLines(text []byte) int {
	files := token.NewFileSet()
	file := files.AddFile("", files.Base(), len(text))
	var s scanner.Scanner
	s.Init(file, text, nil, 0)
	lines := map[int]bool{}
	for {
		pos, tok, literal := s.Scan()
		if tok == token.EOF {
			return len(lines)
		}
		if tok == token.SEMICOLON && literal == "\n" { // the scanner's own
			continue
		}
		first := file.Line(pos)
		for i := range strings.Count(literal, "\n") + 1 { // a raw string has several
			lines[first+i] = true
		}
	}
}
