package cli

import (
	"errors"
	"math"
	"testing"
)

func TestParseRate(t *testing.T) {
	for text, want := range map[string]uint64{"": 0, "1B/s": 1, "4096/s": 4096, "64KiB/s": 64 << 10, "1.5GB/s": 1.5e9} {
		if got, err := parseRate("--x", text); err != nil || got != want {
			t.Errorf("%q: %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"0", "0/s", "0MiB/s", "0.1/s", "5MiB", "/s", "s", "-1/s", "100Mbit/s", "1MiB/s/s", "1e9/s", "NaN/s", "99999999999TiB/s"} {
		if got, err := parseRate("--x", text); err == nil {
			t.Errorf("%q is %d", text, got)
		}
	}
}

// FuzzParseRate: a rate is a size that comes each second, never none, and stays the
// same when it is written out.
func FuzzParseRate(f *testing.F) {
	for _, text := range []string{"", "100MiB/s", "1.5GB/s", "0/s", "5MiB", "1e9/s"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		n, err := parseRate("--x", text)
		if err != nil {
			if _, ok := errors.AsType[*mistake](err); !ok || n != 0 {
				t.Fatalf("%q: %d with %T", text, n, err)
			}
			return
		}
		if n == 0 && text != "" || n > math.MaxInt64 {
			t.Fatalf("%q is %d", text, n)
		}
		if again, err := parseRate("--x", exactBytes(n)+"/s"); n > 0 && (err != nil || again != n) {
			t.Errorf("%q is %d, which is read as %d, %v", text, n, again, err)
		}
	})
}
