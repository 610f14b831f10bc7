package main

import (
	"bytes"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"testing"
)

// TestMutants: every fault still has its place, is a change, and leaves valid Go.
func TestMutants(t *testing.T) {
	const root, least = "../..", 15
	if len(mutants) < least {
		t.Errorf("%d mutants, want %d at least", len(mutants), least)
	}
	seen := map[string]bool{}
	for _, m := range mutants {
		if seen[m.name] {
			t.Errorf("%s: two mutants have this name", m.name)
		}
		seen[m.name] = true
		text, err := m.text(root)
		if err != nil {
			t.Errorf("%s: %v", m.name, err)
			continue
		}
		if now, err := os.ReadFile(filepath.Join(root, m.file)); err != nil || bytes.Equal(now, text) {
			t.Errorf("%s: it changes nothing: %v", m.name, err)
		}
		if _, err := parser.ParseFile(token.NewFileSet(), m.file, text, 0); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
	}
}
