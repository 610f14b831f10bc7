package main

import "testing"

func TestCodeLines(t *testing.T) {
	const text = "// Package p.\npackage p\n\nvar x = `a\n\nb` // three\n\n/* no\nline */\nfunc f() { // one\n\tx = \"\"\n}\n"
	if got := codeLines([]byte(text)); got != 7 {
		t.Errorf("%d lines", got)
	}
}

// TestCount: the tree has code, and only code of the programs and the library counts.
func TestCount(t *testing.T) {
	counts, err := count("../..")
	if err != nil {
		t.Fatal(err)
	}
	if counts["reader"] < 1000 || counts["test/lines"] > 0 || counts["bench"] > 0 {
		t.Errorf("%v", counts)
	}
}
