package command

import (
	"errors"
	"flag"
	"fmt"
	"strings"
	"testing"
)

func TestComplain(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		says   string
	}{
		{nil, 0, ""},
		{fmt.Errorf("parse: %w", flag.ErrHelp), 0, ""},
		{errors.New("no room"), 1, "bench: error: no room\n"},
		{fmt.Errorf("parse: %w", NewMistake("--rounds is 0", "1 or more")), 1, "bench: error: parse: --rounds is 0\nhint: 1 or more\n"},
	} {
		var b strings.Builder
		if status := complain(&b, c.err); status != c.status || b.String() != c.says {
			t.Errorf("%v: %d, %q, want %d, %q", c.err, status, b.String(), c.status, c.says)
		}
	}
}
