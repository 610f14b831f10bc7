package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/migpipe/migpipe/transport"
)

func TestParsePeersFile(t *testing.T) {
	a, b := transport.ID{1}, transport.ID{2}
	var many strings.Builder
	for i := range maxPeers + 1 {
		fmt.Fprintln(&many, transport.ID{byte(i), byte(i >> 8), 1})
	}
	for name, c := range map[string]struct {
		text string
		want []transport.ID // of mig-recv
		err  string
	}{
		"permissions":         {fmt.Sprintf("%v recv\n%v  send # host b\n", a, b), []transport.ID{b}, ""},
		"the other one":       {fmt.Sprintf("%v recv\n", a), nil, "it names no peer that may send"},
		"both":                {fmt.Sprintf("%v recv\n%v send\n", a, a), []transport.ID{a}, ""},
		"another word":        {fmt.Sprintf("%v receive\n", a), nil, `line 1: behind the identity is "receive"`},
		"one a line":          {fmt.Sprintf("%v\n%v\n", a, b), []transport.ID{a, b}, ""},
		"comments":            {fmt.Sprintf("# ours\n\n  %v # host a\r\n#%v\n%v", a, a, b), []transport.ID{a, b}, ""},
		"twice":               {fmt.Sprintf("%v\n%v\n", a, a), []transport.ID{a}, ""},
		"nothing":             {"# nobody\n\n", nil, "it names no peer"},
		"an empty file":       {"", nil, "it names no peer"},
		"something else":      {fmt.Sprintf("%v\nhost-a\n", a), nil, "line 2: "},
		"two on a line":       {fmt.Sprintf("%v %v\n", a, b), nil, "line 1: "},
		"more than there may": {many.String(), nil, fmt.Sprintf("line %d: more than %d", maxPeers+1, maxPeers)},
	} {
		got, err := parsePeersFile([]byte(c.text), sink)
		if !slices.Equal(got, c.want) || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

// TestPeersFilePermissions: of a file that both programs read, each takes those
// that may be its peers.
func TestPeersFilePermissions(t *testing.T) {
	sends, receives, both := transport.ID{1}, transport.ID{2}, transport.ID{3}
	text := fmt.Appendf(nil, "%v send\n%v recv\n%v\n", sends, receives, both)
	for r, want := range map[role][]transport.ID{source: {receives, both}, sink: {sends, both}} {
		if got, err := parsePeersFile(text, r); err != nil || !slices.Equal(got, want) {
			t.Errorf("role %v: %v, %v, want %v", r, got, err, want)
		}
	}
}

func TestReadPeers(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for path, want := range map[string]string{
		write("good", "text", 0o644):                                          "",
		write("group", "text", 0o664):                                         "can be written by others",
		write("all", "text", 0o606):                                           "can be written by others",
		write("large", strings.Repeat("#", maxPeersFile+1), 0o600):            "more than 65536 bytes",
		write("as large as it may", strings.Repeat("#", maxPeersFile), 0o600): "",
		dir:                           "no regular file",
		filepath.Join(dir, "missing"): "no such file",
	} {
		if _, err := readPeers(path); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}

// FuzzPeersFile: what is read is no more than was written, each identity once.
func FuzzPeersFile(f *testing.F) {
	f.Add([]byte(fmt.Sprintf("# ours\n%v\n", transport.ID{7})))
	f.Add([]byte("mig1\n\r\n#\n"))
	f.Add(fmt.Appendf(nil, "%v\tsend\n%v recv", transport.ID{1}, transport.ID{2}))
	f.Fuzz(func(t *testing.T, text []byte) {
		ids, err := parsePeersFile(text, sink)
		if (err == nil) != (len(ids) > 0) || len(ids) > maxPeers {
			t.Fatalf("%d identities, %v", len(ids), err)
		}
		for i, id := range ids {
			if slices.Contains(ids[:i], id) || !strings.Contains(strings.ToLower(string(text)), id.String()) {
				t.Errorf("%v is there twice, or was not written", id)
			}
		}
	})
}
