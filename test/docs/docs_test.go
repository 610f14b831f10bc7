// Package docs tests that the documents are true.
package docs

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const root = "../.."

// blocks returns the fenced blocks of a language.
func blocks(t *testing.T, file, language string) (found []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```").FindAllStringSubmatch(string(text), -1) {
		found = append(found, m[1])
	}
	if len(found) == 0 {
		t.Fatalf("%s has no block in %s: this test has lost its object", file, language)
	}
	return found
}

// TestReadmeCompiles builds the Go programs of the README as packages of the module.
func TestReadmeCompiles(t *testing.T) {
	for _, program := range blocks(t, "README.md", "go") {
		dir := t.TempDir()
		source := filepath.Join(dir, "main.go")
		if err := os.WriteFile(source, []byte(program), 0o600); err != nil {
			t.Fatal(err)
		}
		here, err := filepath.Abs("readme")
		if err != nil {
			t.Fatal(err)
		}
		overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(here, "main.go"): source}})
		if err != nil {
			t.Fatal(err)
		}
		list := filepath.Join(dir, "overlay.json")
		if err := os.WriteFile(list, overlay, 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("go", "build", "-overlay", list, "-o", filepath.Join(dir, "program"), "./readme")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
}

// helpTexts are the programs' help texts.
func helpTexts(t *testing.T) map[string]string {
	t.Helper()
	help := map[string]string{}
	for _, program := range []string{"mig-send", "mig-recv"} {
		out, err := exec.Command("go", "run", "../../cmd/"+program, "--help").CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		help[program] = string(out)
	}
	return help
}

var flag = regexp.MustCompile(`--[a-z-]+`)

// TestReadmeFlags compares the flags of every command in the README with the programs' help.
func TestReadmeFlags(t *testing.T) {
	help := helpTexts(t)
	checked := 0
	for _, block := range blocks(t, "README.md", "sh") {
		for line := range strings.Lines(block) {
			for program, text := range help {
				if !strings.Contains(line, program+" ") {
					continue
				}
				for _, f := range flag.FindAllString(line, -1) {
					checked++
					if !strings.Contains(text, f+" ") {
						t.Errorf("%s has no flag %s, which README uses in: %s", program, f, line)
					}
				}
			}
		}
	}
	if checked == 0 {
		t.Error("no flag was checked: this test has lost its object")
	}
}

// TestMakefileTargets compares the make commands of the documents with the Makefile.
func TestMakefileTargets(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"README.md", "CONTRIBUTING.md"} {
		text, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)(?:^    |`+"`"+`)make ([a-z- ]+)`).FindAllStringSubmatch(string(text), -1) {
			for target := range strings.FieldsSeq(m[1]) {
				if !strings.Contains(string(makefile), "\n"+target+":") {
					t.Errorf("%s names make %s, which the Makefile does not have", file, target)
				}
			}
		}
	}
}

// TestLinks compares the relative links of the documents with the tree.
func TestLinks(t *testing.T) {
	for _, file := range []string{"README.md", "CONTRIBUTING.md", "transport/PROTOCOL.md", "vfio/QUIRKS.md", "test/vm/README.md", "docs/systemd/README.md"} {
		text, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Error(err)
			continue
		}
		for _, m := range regexp.MustCompile(`\]\(([^)#:]+)\)`).FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat(filepath.Join(root, filepath.Dir(file), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", file, m[1], err)
			}
		}
	}
}

// TestReadmeWhatHappens: the README's table has every row of the hand-off's table with a case,
// and no other.
func TestReadmeWhatHappens(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(text), "## What happens when...")
	table, _, _ = strings.Cut(table, "\n## ")
	if !ok {
		t.Fatal("README has no such section: this test has lost its object")
	}
	said := map[string]bool{}
	for _, row := range regexp.MustCompile(`(?m)^\| ([0-9][0-9, ]*) \|`).FindAllStringSubmatch(table, -1) {
		for number := range strings.SplitSeq(row[1], ",") {
			said[strings.TrimSpace(number)] = true
		}
	}
	cases, err := os.ReadFile(filepath.Join(root, "test/chaos/rows_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range regexp.MustCompile(`(?s)\{row: (\d+), name: "([^"]*)"([^{]*)`).FindAllStringSubmatch(string(cases), -1) {
		if strings.Contains(row[3], "todo:") {
			t.Errorf("row %s, %q, does not run", row[1], row[2])
		}
		if !said[row[1]] {
			t.Errorf("README lacks row %s, %q", row[1], row[2])
		}
	}
	for number := range said {
		if number != "70" && !strings.Contains(string(cases), "{row: "+number+",") { // 70 follows every case
			t.Errorf("README has row %s without a case", number)
		}
	}
}

// TestReadmeOnlyCopy: the row about a source whose host restarts agrees with its case.
// The source asks the destination about a complete copy, and ends that copy only if a
// person insists. The hint names the way to insist.
func TestReadmeOnlyCopy(t *testing.T) {
	for file, row := range map[string]string{
		"README.md":                `(?m)^\| 44 \|.*asks first.*does not end a complete copy.*exit 11; .--migration ID. insists`,
		"test/chaos/rows_test.go":  `(?s)\{row: 44, .{0,300}"in-doubt", 11\}, waiting\}.{0,80}it may be the only one`,
		"cmd/internal/ui/hints.go": `reader\.ErrOnlyCopy, .*say --migration ID`,
		"reader/restart.go":        `it may be the only one`,
	} {
		text, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		if !regexp.MustCompile(row).Match(text) {
			t.Errorf("%s does not say %s", file, row)
		}
	}
}
