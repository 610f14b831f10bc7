package transport

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestParsePeers(t *testing.T) {
	a, b := PeerID{1}, PeerID{2}
	var many strings.Builder
	for i := range maxPeers + 1 {
		fmt.Fprintln(&many, PeerID{byte(i), byte(i >> 8), 1})
	}
	for name, c := range map[string]struct {
		text string
		want []PeerID // of mig-recv
		err  string
	}{
		"permissions":         {fmt.Sprintf("%v recv\n%v  send # host b\n", a, b), []PeerID{b}, ""},
		"the other one":       {fmt.Sprintf("%v recv\n", a), nil, "it names no peer that may send"},
		"both":                {fmt.Sprintf("%v recv\n%v send\n", a, a), []PeerID{a}, ""},
		"another word":        {fmt.Sprintf("%v receive\n", a), nil, `line 1: behind the identity is "receive"`},
		"one a line":          {fmt.Sprintf("%v\n%v\n", a, b), []PeerID{a, b}, ""},
		"comments":            {fmt.Sprintf("# ours\n\n  %v # host a\r\n#%v\n%v", a, a, b), []PeerID{a, b}, ""},
		"twice":               {fmt.Sprintf("%v\n%v\n", a, a), []PeerID{a}, ""},
		"nothing":             {"# nobody\n\n", nil, "it names no peer"},
		"an empty file":       {"", nil, "it names no peer"},
		"something else":      {fmt.Sprintf("%v\nhost-a\n", a), nil, "line 2: "},
		"two on a line":       {fmt.Sprintf("%v %v\n", a, b), nil, "line 1: "},
		"more than there may": {many.String(), nil, fmt.Sprintf("line %d: more than %d", maxPeers+1, maxPeers)},
	} {
		got, err := parsePeers([]byte(c.text), RoleDestination)
		if !slices.Equal(got, c.want) || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

// TestPeersFilePermissions: of a file that both programs read, each takes those
// that may be its peers.
func TestPeersFilePermissions(t *testing.T) {
	sends, receives, both := PeerID{1}, PeerID{2}, PeerID{3}
	text := fmt.Appendf(nil, "%v send\n%v recv\n%v\n", sends, receives, both)
	for r, want := range map[Role][]PeerID{RoleSource: {receives, both}, RoleDestination: {sends, both}} {
		if got, err := parsePeers(text, r); err != nil || !slices.Equal(got, want) {
			t.Errorf("role %v: %v, %v, want %v", r, got, err, want)
		}
	}
}

func TestLoadPeers(t *testing.T) {
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
	one := PeerID{1}.String() + "\n"
	for path, want := range map[string]string{
		write("good", one, 0o644):                                  "",
		write("group", "text", 0o664):                              "lets others change it",
		write("all", "text", 0o606):                                "lets others change it",
		write("large", strings.Repeat("#", maxPeersFile+1), 0o600): "want at most 65536",
		write("as large as it may", one+strings.Repeat("#", maxPeersFile-len(one)), 0o600): "",
		dir:                           "not a regular file",
		filepath.Join(dir, "missing"): "no such file",
	} {
		if _, err := LoadPeers(path, RoleDestination, nil); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}

// FuzzPeersFile: what is read is no more than was written, each identity once.
func FuzzPeersFile(f *testing.F) {
	f.Add(fmt.Appendf(nil, "# ours\n%v\n", PeerID{7}))
	f.Add([]byte("mig1\n\r\n#\n"))
	f.Add(fmt.Appendf(nil, "%v\tsend\n%v recv", PeerID{1}, PeerID{2}))
	f.Fuzz(func(t *testing.T, text []byte) {
		ids, err := parsePeers(text, RoleDestination)
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
