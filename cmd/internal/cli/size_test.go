package cli

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/migpipe/migpipe/internal/units"
)

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
		if again, err := parseRate("--x", units.FormatBytes(n)+"/s"); n > 0 && (err != nil || again != n) {
			t.Errorf("%q is %d, which is read as %d, %v", text, n, again, err)
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
