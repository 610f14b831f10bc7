package cli

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// byteUnits are the suffixes of sizes, longest first where one ends in another.
var byteUnits = []struct {
	suffix string
	bytes  uint64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1},
}

// size is a number of bytes as a flag: "4096", "64KiB", "1.5GiB", "100MB".
type size struct {
	bytes    uint64
	min, max uint64 // max 0: none
}

// String implements pflag.Value.
func (s *size) String() string { return exactBytes(s.bytes) }

// Type implements pflag.Value.
func (s *size) Type() string { return "SIZE" }

// Set implements pflag.Value.
func (s *size) Set(text string) error {
	n, err := parseSize(text)
	if err != nil {
		return err
	}
	if n < s.min || s.max > 0 && n > s.max {
		return fmt.Errorf("must be %s to %s", exactBytes(s.min), exactBytes(s.max))
	}
	s.bytes = n
	return nil
}

func parseSize(text string) (uint64, error) {
	number, scale := text, uint64(1)
	for _, u := range byteUnits {
		if n, ok := strings.CutSuffix(text, u.suffix); ok {
			number, scale = n, u.bytes
			break
		}
	}
	if n, err := strconv.ParseUint(number, 10, 64); err == nil && n <= math.MaxInt64/scale {
		return n * scale, nil
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || strings.ContainsAny(number, "+-xXpPeE_") || !(f*float64(scale) < math.MaxInt64) {
		return 0, fmt.Errorf("%.40q is not a size like 4096, 64KiB or 1.5GiB", text)
	}
	return uint64(f * float64(scale)), nil
}

// exactBytes is a size as parseSize reads it back.
func exactBytes(n uint64) string {
	for i := 3; i >= 0; i-- {
		if u := byteUnits[i]; n >= u.bytes && n%u.bytes == 0 {
			return strconv.FormatUint(n/u.bytes, 10) + u.suffix
		}
	}
	return strconv.FormatUint(n, 10)
}

// humanBytes is a size with four digits at most: "176 B", "300.0 MiB".
func humanBytes(n uint64) string {
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n), ""
	for _, unit = range []string{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"} {
		if v /= 1 << 10; v < 1000 {
			break
		}
	}
	return fmt.Sprintf("%.1f %s", v, unit)
}

// humanRate is bytes per second.
func humanRate(perSecond float64) string { return humanBytes(uint64(perSecond)) + "/s" }

// humanTime is a duration with the digits that matter to people.
func humanTime(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%.1f ms", d.Seconds()*1e3)
	case d < time.Minute:
		return fmt.Sprintf("%.2f s", d.Seconds())
	}
	return d.Round(time.Second).String()
}
