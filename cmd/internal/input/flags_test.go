package input

import (
	"math"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/migpipe/migpipe/internal/units"
)

func TestSizeFlag(t *testing.T) {
	s := Size{Bytes: 1 << 20, Min: 4096, Max: 4 << 20}
	if s.String() != "1MiB" {
		t.Errorf("default prints as %q", s.String())
	}
	for _, text := range []string{"4095", "5MiB", "much"} {
		if err := s.Set(text); err == nil {
			t.Errorf("Set(%q) was accepted", text)
		}
	}
	if err := s.Set("64KiB"); err != nil || s.Bytes != 64<<10 {
		t.Errorf("Set(64KiB) = %v, %d bytes", err, s.Bytes)
	}
}

func TestParseRate(t *testing.T) {
	for text, want := range map[string]uint64{"": 0, "1B/s": 1, "4096/s": 4096, "64KiB/s": 64 << 10, "1.5GB/s": 1.5e9} {
		if got, err := parseRate(text); err != nil || got != want {
			t.Errorf("%q: %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"0", "0/s", "0MiB/s", "0.1/s", "5MiB", "/s", "s", "-1/s", "100Mbit/s", "1MiB/s/s", "1e9/s", "NaN/s", "99999999999TiB/s"} {
		if got, err := parseRate(text); err == nil {
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
		n, err := parseRate(text)
		if err != nil {
			if n != 0 {
				t.Fatalf("%q: %d with %v", text, n, err)
			}
			return
		}
		if n == 0 && text != "" || n > math.MaxInt64 {
			t.Fatalf("%q is %d", text, n)
		}
		if again, err := parseRate(units.FormatBytes(n) + "/s"); n > 0 && (err != nil || again != n) {
			t.Errorf("%q is %d, which is read as %d, %v", text, n, again, err)
		}
	})
}

// TestFlagError: the error names the flag, the value and what is wrong, and a value that was
// refused changes nothing.
func TestFlagError(t *testing.T) {
	cmd := &cobra.Command{Use: "x"}
	var d time.Duration
	var n int
	var rate uint64
	var word string
	Duration(cmd.Flags(), &d, "time", time.Second, Positive, "a `TIME`")
	Int(cmd.Flags(), &n, "number", 3, NotNegative, "a `NUMBER`")
	Rate(cmd.Flags(), &rate, "rate", "a `RATE`")
	Word(cmd, &word, "word", "a `WORD`", "one", "two", "three")
	for _, c := range [][2]string{
		{"--time=0s", "--time 0s: must be more than 0"}, {"--time=10", "--time 10: not a time, as 500ms, 10s or 2m are"},
		{"--number=-1", "--number -1: must not be negative"}, {"--number=x\x1b[2J", `--number "x\x1b[2J": not a number`}, {"--number=", `--number "": not a number`},
		{"--rate=0/s", "--rate 0/s: must be more than 0: leave the flag out for no limit"}, {"--word=four", "--word four: it is one, two or three"},
	} {
		err := FlagError("x", cmd.ParseFlags([]string{c[0]}))
		if err == nil || err.Error() != c[1] {
			t.Errorf("%s: %v, want %s", c[0], err, c[1])
		}
	}
	if d != time.Second || n != 3 || rate != 0 || word != "one" {
		t.Errorf("a refused value was taken: %v %d %d %s", d, n, rate, word)
	}
	if err := cmd.ParseFlags([]string{"--time=2s", "--number=4", "--rate=1MiB/s", "--word=two"}); err != nil || d != 2*time.Second || n != 4 || rate != 1<<20 || word != "two" {
		t.Errorf("%v: %v %d %d %s", err, d, n, rate, word)
	}
}
