package input

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/migpipe/migpipe/transport/journal"
)

// environment is LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES of one process.
func environment(pid, fds, names string) func(string) string {
	return func(name string) string {
		return map[string]string{"LISTEN_PID": pid, "LISTEN_FDS": fds, "LISTEN_FDNAMES": names}[name]
	}
}

func TestHanded(t *testing.T) {
	for _, c := range []struct {
		pid, fds, names string
		want            map[string][]int
		fails           string
	}{
		{"7", "2", "a:b", map[string][]int{"a": {3}, "b": {4}}, ""},
		{"7", "3", "a::a", map[string][]int{"a": {3, 5}, "": {4}}, ""},
		{"7", "1", "", map[string][]int{"": {3}}, ""},
		{"8", "2", "a:b", nil, "LISTEN_PID"},
		{"", "", "", nil, "LISTEN_PID"},
		{"7", "", "", nil, `LISTEN_FDS="" is not`},
		{"7", "-1", "a", nil, `LISTEN_FDS="-1" is not`},
		{"7", "2", "a", nil, "has 1 names, and LISTEN_FDS is 2"},
		{"7", "65536", "a", nil, "is not a number"},
	} {
		got, err := handed(environment(c.pid, c.fds, c.names), 7)
		if !maps.EqualFunc(got, c.want, slices.Equal) || (err == nil) != (c.fails == "") || err != nil && !strings.Contains(err.Error(), c.fails) {
			t.Errorf("%q: %v, %v", []string{c.pid, c.fds, c.names}, got, err)
		}
	}
}

// FuzzHanded: what the environment says becomes each descriptor once, from 3 on, or
// an error.
func FuzzHanded(f *testing.F) {
	f.Add("2", "a:b")
	f.Add("1", "")
	f.Add("3", "a:a:b")
	f.Add("65536", "a")
	f.Fuzz(func(t *testing.T, fds, names string) {
		got, err := handed(environment("7", fds, names), 7)
		if err != nil {
			if got != nil {
				t.Errorf("%v beside %v", got, err)
			}
			return
		}
		all := slices.Concat(slices.Collect(maps.Values(got))...)
		slices.Sort(all)
		if len(all) != strings.Count(names, ":")+1 {
			t.Errorf("%d descriptors of %q", len(all), names)
		}
		for i, fd := range all {
			if fd != firstHanded+i {
				t.Errorf("%q: %v", names, all)
			}
		}
	})
}

func TestCheckFD(t *testing.T) {
	tests := []struct {
		c    Descriptors
		n    int
		want bool
	}{
		{Descriptors{Side: Side{Role: journal.Source}}, 0, true},
		{Descriptors{Side: Side{Role: journal.Source}}, 1, false},
		{Descriptors{Side: Side{Role: journal.Source}}, 2, false},
		{Descriptors{Side: Side{Role: journal.Destination}}, 1, false},
		{Descriptors{Side: Side{Role: journal.Destination}}, 1, false},
		{Descriptors{Side: Side{Role: journal.Destination}, Quiet: true}, 1, true},
		{Descriptors{Side: Side{Role: journal.Destination}, Quiet: true}, 2, false},
		{Descriptors{Side: Side{Role: journal.Destination}}, 1 << 20, false},
	}
	for _, tt := range tests {
		if err := tt.c.checkDevice("d", tt.n); (err == nil) != tt.want {
			t.Errorf("role %d, quiet %v, fd:%d: %v", tt.c.Role, tt.c.Quiet, tt.n, err)
		}
	}
}

func TestInherited(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if inherited(int(f.Fd())) {
		t.Error("a file that this process opened counts as inherited")
	}
	if !inherited(1) {
		t.Error("stdout does not count as inherited")
	}
	if inherited(1 << 20) {
		t.Error("a descriptor that is not open counts as inherited")
	}
}
