package handoff

import (
	"context"
	"time"

	"github.com/migpipe/migpipe/transport/migration"
)

// Hook is told of a step of the hand-off, so that networks, storage or an
// orchestrator can let the newer epoch in and shut the older one out: the attempt is
// the fencing token. It may be told of a step more than once, after a crash, and
// returns when ctx ends.
type Hook func(ctx context.Context, attempt migration.Attempt) error

// HookTimeout is how long a hook may take.
const HookTimeout = 5 * time.Second

// Run runs the hook, if there is one.
func (h Hook) Run(attempt migration.Attempt) error {
	if h == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), HookTimeout)
	defer cancel()
	return h(ctx, attempt)
}
