package cli

import "strings"

// parseRate reads the value of --max-bandwidth: a size and "/s", or nothing for
// no limit.
func parseRate(flag, text string) (uint64, error) {
	if text == "" {
		return 0, nil
	}
	const hint = "write a size per second, as in 100MiB/s, or leave the flag out for no limit"
	number, ok := strings.CutSuffix(text, "/s")
	n, err := parseSize(number)
	switch {
	case !ok || err != nil:
		return 0, mistakef(hint, "%s %.40q is not a rate", flag, text)
	case n == 0:
		return 0, mistakef(hint, "%s %s: nothing would ever arrive", flag, text)
	}
	return n, nil
}
