package handoff

import (
	"context"
	"time"

	"github.com/migpipe/migpipe/transport/migration"
)

// Hook is called at a step of the hand-off. Networks, storage or an orchestrator can then admit
// the newer epoch and shut the older one out: the attempt is the fencing token. After a crash a
// hook may be called again for the same step. It must return when ctx ends.
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
