package sim

import (
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"strings"
	"time"
)

var units = []struct {
	suffix string
	bytes  float64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1},
}

// parseSize reads "4096", "64KiB", "1.5GiB" or "100MB".
func parseSize(s string) (int64, error) {
	number, scale := s, 1.0
	for _, u := range units {
		if n, ok := strings.CutSuffix(s, u.suffix); ok {
			number, scale = n, u.bytes
			break
		}
	}
	if n, err := strconv.ParseInt(number, 10, 64); err == nil && scale == 1 && n >= 0 {
		return n, nil
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || !(f >= 0 && f*scale < math.MaxInt64) || strings.ContainsAny(number, "xXpPeE_") {
		return 0, fmt.Errorf("%q is not a size like 4096, 64KiB or 1.5GiB", s)
	}
	return int64(f * scale), nil
}

// parseNumber reads a number, in decimal or as 0x and so on.
func parseNumber(s string, least, most uint64) (uint64, error) {
	n, err := strconv.ParseUint(s, 0, 64)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("%q is not a number from %d to %d", s, least, most)
	}
	return n, nil
}

// parseRate reads a size per second; the "/s" may be left out.
func parseRate(s string) (int64, error) {
	n, err := parseSize(strings.TrimSuffix(s, "/s"))
	if err != nil {
		return 0, fmt.Errorf("%q is not a rate like 100MiB/s", s)
	}
	return n, nil
}

// parseTime reads "300ms" or "1.5s".
func parseTime(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q is not a time like 300ms", s)
	}
	return d, nil
}

// bytesIn is what a rate in bytes per second makes of d.
func bytesIn(rate int64, d time.Duration) int64 {
	if rate <= 0 || d <= 0 {
		return 0
	}
	hi, lo := bits.Mul64(uint64(rate), uint64(d))
	if hi >= uint64(time.Second)/2 {
		return math.MaxInt64
	}
	q, _ := bits.Div64(hi, lo, uint64(time.Second))
	return int64(q)
}

// timeFor is how long a rate in bytes per second takes for n bytes, rounded up
// so that bytesIn(rate, timeFor(rate, n)) >= n. A rate of 0 takes no time.
func timeFor(rate, n int64) time.Duration {
	if rate <= 0 || n <= 0 {
		return 0
	}
	hi, lo := bits.Mul64(uint64(n), uint64(time.Second))
	if hi >= uint64(rate) {
		return math.MaxInt64
	}
	q, r := bits.Div64(hi, lo, uint64(rate))
	if r > 0 {
		q++
	}
	return time.Duration(min(q, math.MaxInt64))
}
