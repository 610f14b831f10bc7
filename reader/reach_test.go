package reader

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/migpipe/migpipe/transport"
)

// TestReach: a destination that ends the connection is dialled again until the limit, whether
// it does so in the handshake or when it has heard what the lane is for. Other errors are final.
func TestReach(t *testing.T) {
	final := errors.New("no")
	for _, c := range []struct {
		name  string
		err   error
		times int // it fails, then it succeeds
		want  error
		took  time.Duration
	}{
		{"at once", nil, 0, nil, 0},
		{"hangs up", transport.ErrHungUp, 3, nil, 3 * lanePause},
		{"gone under the preamble", transport.ErrLost, 3, nil, 3 * lanePause},
		{"always gone", transport.ErrLost, 1 << 20, transport.ErrLost, connectLimit},
		{"final", final, 1, final, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			began, n := time.Now(), 0
			_, err := reach(t.Context(), connectLimit, func(ctx context.Context) (transport.Lane, error) {
				if n++; n <= c.times {
					return nil, c.err
				}
				return nil, nil
			})
			if took := time.Since(began); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) || took != c.took {
				t.Errorf("%s: %v after %v, want %v after %v", c.name, err, took, c.want, c.took)
			}
		})
	}
}
