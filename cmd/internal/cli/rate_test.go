package cli

import "testing"

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
