// Package units parses and formats numbers of bytes: "4096", "64KiB", "1.5GiB", "100MB".
package units

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// suffixes are the suffixes of numbers of bytes. The binary ones come first, in ascending order.
// "B" comes last, since all others end with it.
var suffixes = []struct {
	name  string
	bytes uint64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1},
}

// ParseBytes parses a number of bytes with or without a suffix. The number is decimal, may have
// a fraction, and has no sign and no exponent. The result fits an int64.
func ParseBytes(text string) (uint64, error) {
	number, scale := text, uint64(1)
	for _, s := range suffixes {
		if n, ok := strings.CutSuffix(text, s.name); ok {
			number, scale = n, s.bytes
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

// FormatBytes formats a number of bytes with the largest binary suffix that divides it, or
// without one. ParseBytes of the result returns the same number.
func FormatBytes(n uint64) string {
	for i := 3; i >= 0; i-- {
		if s := suffixes[i]; n >= s.bytes && n%s.bytes == 0 {
			return strconv.FormatUint(n/s.bytes, 10) + s.name
		}
	}
	return strconv.FormatUint(n, 10)
}
