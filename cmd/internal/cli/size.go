package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/migpipe/migpipe/internal/units"
)

// size is a number of bytes as a flag: "4096", "64KiB", "1.5GiB", "100MB".
type size struct {
	bytes    uint64
	min, max uint64 // max 0: none
}

// String implements pflag.Value.
func (s *size) String() string { return units.FormatBytes(s.bytes) }

// Type implements pflag.Value.
func (s *size) Type() string { return "SIZE" }

// Set implements pflag.Value.
func (s *size) Set(text string) error {
	n, err := units.ParseBytes(text)
	if err != nil {
		return err
	}
	if n < s.min || s.max > 0 && n > s.max {
		return fmt.Errorf("must be %s to %s", units.FormatBytes(s.min), units.FormatBytes(s.max))
	}
	s.bytes = n
	return nil
}

// parseRate reads the value of --max-bandwidth: a size and "/s", or nothing for
// no limit.
func parseRate(flag, text string) (uint64, error) {
	if text == "" {
		return 0, nil
	}
	const hint = "write a size per second, as in 100MiB/s, or leave the flag out for no limit"
	number, ok := strings.CutSuffix(text, "/s")
	n, err := units.ParseBytes(number)
	switch {
	case !ok || err != nil:
		return 0, mistakef(hint, "%s %.40q is not a rate", flag, text)
	case n == 0:
		return 0, mistakef(hint, "%s %s: nothing would ever arrive", flag, text)
	}
	return n, nil
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
