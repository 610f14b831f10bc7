package codectest

import "math/rand/v2"

// words are what logs and configuration are made of.
var words = []string{
	"device", "state", "queue", "ring", "buffer", "page", "offset", "length",
	"enabled", "disabled", "running", "stopped", "error", "warning", "info",
	"0x0000", "0xffff", "index=", "count=", "flags=", "true", "false", "the",
	"of", "and", "to", "is", "in", "received", "sent", "packet", "interrupt",
	"vector", "function", "capability", "register", "firmware", "version",
}

// Text fills dst with lines of words and numbers.
func Text(dst []byte, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 3))
	for len(dst) > 0 {
		n := copy(dst, words[r.IntN(len(words))])
		n += copy(dst[n:], separator(r))
		dst = dst[n:]
	}
}

func separator(r *rand.Rand) string {
	switch r.IntN(10) {
	case 0:
		return "\n"
	case 1, 2:
		return string([]byte{' ', digit(r), digit(r), digit(r), ' '})
	}
	return " "
}

func digit(r *rand.Rand) byte { return byte('0' + r.IntN(10)) }
