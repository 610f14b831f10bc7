package cli

import (
	"testing"
	"time"
)

func TestParseSize(t *testing.T) {
	good := map[string]uint64{
		"0": 0, "1": 1, "4096": 4096, "64B": 64, "64KiB": 64 << 10, "1.5GiB": 3 << 29, "2TiB": 2 << 40,
		"100MB": 100e6, "3kB": 3000, "0.5KiB": 512, "9223372036854775807": 1<<63 - 1,
	}
	for text, want := range good {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("parseSize(%q) = %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "x", "-1", "+1", "1e3", "0x10", "1 MiB", "1mib", "MiB", "NaN", "Inf", "9223372036854775808", "9000000TiB", "1_000"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("parseSize(%q) = %d, want an error", text, got)
		}
	}
}

func TestSizeFlag(t *testing.T) {
	s := size{bytes: 1 << 20, min: 4096, max: 4 << 20}
	if s.String() != "1MiB" {
		t.Errorf("default prints as %q", s.String())
	}
	for _, text := range []string{"4095", "5MiB", "much"} {
		if err := s.Set(text); err == nil {
			t.Errorf("Set(%q) was accepted", text)
		}
	}
	if err := s.Set("64KiB"); err != nil || s.bytes != 64<<10 {
		t.Errorf("Set(64KiB) = %v, %d bytes", err, s.bytes)
	}
}

func FuzzParseSize(f *testing.F) {
	for _, text := range []string{"4096", "64KiB", "1.5GiB", "NaN", "-0"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		n, err := parseSize(text)
		if err != nil {
			return
		}
		if again, err := parseSize(exactBytes(n)); err != nil || again != n {
			t.Errorf("%q is %d, written as %q, read as %d, %v", text, n, exactBytes(n), again, err)
		}
	})
}

func TestHumanBytes(t *testing.T) {
	tests := map[uint64]string{
		0: "0 B", 176: "176 B", 1023: "1023 B", 1024: "1.0 KiB", 300 << 20: "300.0 MiB",
		1 << 30: "1.0 GiB", 1000 << 20: "1.0 GiB", 1<<64 - 1: "16.0 EiB",
	}
	for n, want := range tests {
		if got := humanBytes(n); got != want {
			t.Errorf("humanBytes(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestHumanTime(t *testing.T) {
	tests := map[time.Duration]string{
		0: "0.0 ms", 84*time.Millisecond + 160*time.Microsecond: "84.2 ms",
		3210 * time.Millisecond: "3.21 s", 61400 * time.Millisecond: "1m1s",
	}
	for d, want := range tests {
		if got := humanTime(d); got != want {
			t.Errorf("humanTime(%v) = %q, want %q", d, got, want)
		}
	}
}
