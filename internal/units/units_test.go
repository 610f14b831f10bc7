package units

import "testing"

func TestParseBytes(t *testing.T) {
	good := map[string]uint64{
		"0": 0, "1": 1, "4096": 4096, "64B": 64, "64KiB": 64 << 10, "1.5GiB": 3 << 29, "2TiB": 2 << 40,
		"100MB": 100e6, "3kB": 3000, "0.5KiB": 512, "9223372036854775807": 1<<63 - 1,
	}
	for text, want := range good {
		if got, err := ParseBytes(text); err != nil || got != want {
			t.Errorf("ParseBytes(%q) = %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "x", "-1", "+1", "1e3", "0x10", "1 MiB", "1mib", "MiB", "NaN", "Inf", "9223372036854775808", "9000000TiB", "1_000"} {
		if got, err := ParseBytes(text); err == nil {
			t.Errorf("ParseBytes(%q) = %d, want an error", text, got)
		}
	}
}

// FuzzParseBytes checks that a formatted number parses to the same number.
func FuzzParseBytes(f *testing.F) {
	for _, text := range []string{"4096", "64KiB", "1.5GiB", "NaN", "-0"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		n, err := ParseBytes(text)
		if err != nil {
			return
		}
		if again, err := ParseBytes(FormatBytes(n)); err != nil || again != n {
			t.Errorf("%q is %d, formatted %q, which parses to %d, %v", text, n, FormatBytes(n), again, err)
		}
	})
}
