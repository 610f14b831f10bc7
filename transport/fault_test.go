package transport

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

func TestCodeNames(t *testing.T) {
	seen := map[string]bool{}
	for c := CodeInternal; int(c) < len(codeNames); c++ {
		if name := c.String(); name == "" || strings.HasPrefix(name, "code-") || seen[name] {
			t.Errorf("code %d is called %q", c, name)
		}
		seen[c.String()] = true
	}
	for _, c := range []Code{0, Code(len(codeNames)), 65535} {
		if got, want := c.String(), fmt.Sprintf("code-%d", c); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestCodeOf(t *testing.T) {
	for _, c := range []struct {
		err  error
		want Code
	}{
		{&Fault{Code: CodeBusy, Err: ErrCorrupt}, CodeBusy},
		{fmt.Errorf("while: %w", &Fault{Code: CodeStart, Err: io.EOF}), CodeStart},
		{fmt.Errorf("while: %w", ErrCorrupt), CodeCorrupt},
		{fmt.Errorf("while: %w", ErrProtocol), CodeProtocol},
		{fmt.Errorf("while: %w", ErrAuth), CodeAuth},
		{io.ErrUnexpectedEOF, CodeNetwork},
	} {
		if got := CodeOf(c.err); got != c.want {
			t.Errorf("%v is %v, want %v", c.err, got, c.want)
		}
	}
}

func TestFaultText(t *testing.T) {
	for _, c := range []struct {
		fault Fault
		want  string
	}{
		{Fault{Err: io.EOF}, "EOF"},
		{Fault{Device: "net0", Offset: 96, Err: io.EOF}, "device net0 at offset 96: EOF"},
		{Fault{Remote: true, Device: "net0", Err: io.EOF}, "peer: device net0 at offset 0: EOF"},
	} {
		if got := c.fault.Error(); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
		if !errors.Is(&c.fault, io.EOF) {
			t.Errorf("%v hides its cause", &c.fault)
		}
	}
}

func TestPeerText(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", ""},
		{"plain text, with (marks).", "plain text, with (marks)."},
		{"two\nlines", `"two\nlines"`},
		{"\x1b[2J", `"\x1b[2J"`},
		{`"quoted", and a \`, `"quoted", and a \`},
		{"turned \u202e round", `"turned \u202e round"`},
		{"not UTF-8 \xff", `"not UTF-8 \xff"`},
		{strings.Repeat("x", 300), strings.Repeat("x", 300)},
		{strings.Repeat("x", 301), strings.Repeat("x", 300) + "..."},
		{strings.Repeat("x", 299) + "é", strings.Repeat("x", 299) + "..."},
	} {
		if got := PeerText(c.text); got != c.want {
			t.Errorf("%q became %s, want %s", c.text, got, c.want)
		}
	}
}
