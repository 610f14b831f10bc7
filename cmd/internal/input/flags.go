package input

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/migpipe/migpipe/cmd/internal/ui"
	"github.com/migpipe/migpipe/internal/units"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/journal"
)

// Side is one of the two programs.
type Side struct {
	Program     string // mig-send or mig-recv
	PeerProgram string // the other one
	KeyName     string // of the file with this side's key
	Role        journal.Role
}

// laneRole is the role of this side on its lanes.
func (s Side) laneRole() transport.Role {
	if s.Role == journal.Source {
		return transport.RoleSource
	}
	return transport.RoleDestination
}

// Size is a number of bytes as a flag: "4096", "64KiB", "1.5GiB", "100MB".
type Size struct {
	Bytes    uint64
	Min, Max uint64 // max 0: none
}

// String implements pflag.Value.
func (s *Size) String() string { return units.FormatBytes(s.Bytes) }

// Type implements pflag.Value.
func (s *Size) Type() string { return "SIZE" }

// Set implements pflag.Value.
func (s *Size) Set(text string) error {
	n, err := units.ParseBytes(text)
	if err != nil {
		return err
	}
	if n < s.Min || s.Max > 0 && n > s.Max {
		return fmt.Errorf("must be %s to %s", units.FormatBytes(s.Min), units.FormatBytes(s.Max))
	}
	s.Bytes = n
	return nil
}

// checked is the value of a flag that is parsed, and held against its bounds, when the flag is
// read.
type checked[T any] struct {
	to    *T
	kind  string
	parse func(string) (T, error)
	print func(T) string
	check func(T) error // nil where all values are good
}

// String implements pflag.Value.
func (c *checked[T]) String() string { return c.print(*c.to) }

// Type implements pflag.Value.
func (c *checked[T]) Type() string { return c.kind }

// Set implements pflag.Value.
func (c *checked[T]) Set(text string) error {
	v, err := c.parse(text)
	if err == nil && c.check != nil {
		err = c.check(v)
	}
	if err == nil {
		*c.to = v
	}
	return err
}

// Duration registers a flag for a time. check is nil where every time is good.
func Duration(f *pflag.FlagSet, to *time.Duration, name string, value time.Duration, check func(time.Duration) error, usage string) {
	*to = value
	parse := func(text string) (time.Duration, error) {
		d, err := time.ParseDuration(text)
		if err != nil {
			err = errors.New("not a time, as 500ms, 10s or 2m are")
		}
		return d, err
	}
	print := func(d time.Duration) string {
		if d == 0 {
			return "" // no default is shown
		}
		return d.String()
	}
	f.Var(&checked[time.Duration]{to, "duration", parse, print, check}, name, usage)
}

// Int registers a flag for a number. check is nil where every number is good.
func Int(f *pflag.FlagSet, to *int, name string, value int, check func(int) error, usage string) {
	*to = value
	parse := func(text string) (int, error) {
		n, err := strconv.Atoi(text)
		if err != nil {
			err = errors.New("not a number")
		}
		return n, err
	}
	f.Var(&checked[int]{to, "int", parse, strconv.Itoa, check}, name, usage)
}

// Choice registers a flag for one of some words, and its completion. Each word stands for a
// value. The first word is the default.
func Choice[T any](cmd *cobra.Command, to *T, name, usage string, words []string, values map[string]T) {
	chosen := words[0]
	*to = values[chosen]
	parse := func(text string) (string, error) {
		v, ok := values[text]
		if !ok {
			last := len(words) - 1
			return "", fmt.Errorf("it is %s or %s", strings.Join(words[:last], ", "), words[last])
		}
		*to = v
		return text, nil
	}
	cmd.Flags().Var(&checked[string]{&chosen, "string", parse, func(s string) string { return s }, nil}, name, usage)
	_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}

// Word registers a flag for one of some words. The first word is the default.
func Word(cmd *cobra.Command, to *string, name, usage string, words ...string) {
	values := map[string]string{}
	for _, w := range words {
		values[w] = w
	}
	Choice(cmd, to, name, usage, words, values)
}

// Rate registers a flag for bytes per second, as 100MiB/s, which has no limit by default.
func Rate(f *pflag.FlagSet, to *uint64, name, usage string) {
	print := func(n uint64) string {
		if n == 0 {
			return ""
		}
		return units.FormatBytes(n) + "/s"
	}
	f.Var(&checked[uint64]{to, "rate", parseRate, print, nil}, name, usage)
}

func parseRate(text string) (uint64, error) {
	if text == "" {
		return 0, nil
	}
	number, ok := strings.CutSuffix(text, "/s")
	n, err := units.ParseBytes(number)
	switch {
	case !ok || err != nil:
		return 0, errors.New("not a rate, as 100MiB/s is")
	case n == 0:
		return 0, errors.New("must be more than 0: leave the flag out for no limit")
	}
	return n, nil
}

// Positive refuses 0 and less.
func Positive[T int | time.Duration](v T) error {
	if v <= 0 {
		return errors.New("must be more than 0")
	}
	return nil
}

// NotNegative refuses less than 0.
func NotNegative[T int | time.Duration](v T) error {
	if v < 0 {
		return errors.New("must not be negative")
	}
	return nil
}

// FlagError names the flag and the value that the flag cannot have. program is for the hint.
func FlagError(program string, err error) error {
	bad, ok := errors.AsType[*pflag.InvalidValueError](err)
	if !ok {
		return err
	}
	value := bad.GetValue()
	if strings.ContainsFunc(value, func(r rune) bool { return !unicode.IsPrint(r) }) || value == "" {
		value = strconv.Quote(value)
	}
	return ui.Mistakef("see "+program+" --help", "--%s %.80s: %v", bad.GetFlag().Name, value, errors.Unwrap(err))
}
