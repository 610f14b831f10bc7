//go:build failpoints

package handoff

import (
	"fmt"
	"strings"
)

// String names the point of the action, see internal/failpoint.
func (a Append) String() string { return "append." + a.Entry.Record.String() }

// String names the point of the action, see internal/failpoint.
func (s Send) String() string {
	return "send." + strings.TrimPrefix(fmt.Sprintf("%T", s.Message), "*transport.")
}
