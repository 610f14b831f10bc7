//go:build failpoints

package handoff

import (
	"reflect"

	"github.com/migpipe/migpipe/internal/wire"
)

// String names the point of the action, see internal/failpoint.
func (a Append) String() string { return "append." + a.Entry.Record.String() }

// String names the point of the action, see internal/failpoint.
func (s Send) String() string { return "send." + nameMessage(s.Message) }

// String names the point of the event, see internal/failpoint.
func (r Received) String() string { return nameMessage(r.Message) }

// nameMessage is the name of a message's type.
func nameMessage(m wire.Message) string {
	return reflect.TypeOf(m).Elem().Name()
}
