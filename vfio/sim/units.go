package sim

import (
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"strings"
	"time"

	"github.com/migpipe/migpipe/internal/units"
)

// parseSize parses a number of bytes.
func parseSize(s string) (int64, error) {
	n, err := units.ParseBytes(s) // fits an int64
	return int64(n), err
}

// parseNumber parses a number, in decimal or with a prefix as 0x.
func parseNumber(s string, least, most uint64) (uint64, error) {
	n, err := strconv.ParseUint(s, 0, 64)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("%q is not a number from %d to %d", s, least, most)
	}
	return n, nil
}

// parseRate parses a size per second. The "/s" is optional.
func parseRate(s string) (int64, error) {
	n, err := parseSize(strings.TrimSuffix(s, "/s"))
	if err != nil {
		return 0, fmt.Errorf("%q is not a rate like 100MiB/s", s)
	}
	return n, nil
}

// parseTime parses a duration like "300ms" or "1.5s".
func parseTime(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q is not a time like 300ms", s)
	}
	return d, nil
}

// bytesIn returns the number of bytes that a rate in bytes per second moves in d.
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

// timeFor returns the time that a rate in bytes per second needs for n bytes. It
// rounds up, so that bytesIn(rate, timeFor(rate, n)) >= n. A rate of 0 needs no
// time.
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
