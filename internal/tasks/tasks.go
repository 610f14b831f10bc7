// Package tasks starts goroutines and joins them.
package tasks

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Group is a group of goroutines with a common context, which Stop ends.
type Group struct {
	wg    *sync.WaitGroup
	start func(func(context.Context))
	child func(wg *sync.WaitGroup) *Group
	stop  context.CancelFunc
}

// NewGroup returns a group whose context ends with Stop or with parent.
func NewGroup(parent context.Context) *Group { return newGroup(parent, new(sync.WaitGroup)) }

func newGroup(parent context.Context, wg *sync.WaitGroup) *Group {
	ctx, stop := context.WithCancel(parent)
	return &Group{
		wg:    wg,
		start: func(f func(context.Context)) { wg.Go(func() { f(ctx) }) },
		child: func(wg *sync.WaitGroup) *Group { return newGroup(ctx, wg) },
		stop:  stop,
	}
}

// Child returns a group whose context ends with that of g, or earlier with its own Stop. The Wait
// of g also joins the child's goroutines.
func (g *Group) Child() *Group { return g.child(g.wg) }

// Part returns a group whose context ends with that of g, or earlier with its own Stop. The Wait
// of g does not join its goroutines.
func (g *Group) Part() *Group { return g.child(new(sync.WaitGroup)) }

// Go runs f in a goroutine.
func (g *Group) Go(f func(ctx context.Context)) { g.start(f) }

// Stop ends the group's context. It does not wait for the goroutines.
func (g *Group) Stop() { g.stop() }

// Wait returns when all goroutines of the group have ended.
func (g *Group) Wait() { g.wg.Wait() }

// Parallel runs do concurrently for 0 to n-1, and returns all of their errors.
func Parallel(n int, do func(i int) error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = do(i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Within runs do, and reports whether it has ended within the limit. If not, do continues, and late
// is called when do ends.
func Within(limit time.Duration, do, late func()) bool {
	ended, over := make(chan struct{}), make(chan struct{})
	go func() { // ends with do
		do()
		select {
		case ended <- struct{}{}:
		case <-over:
			late()
		}
	}()
	select {
	case <-ended:
		return true
	case <-time.After(limit):
		close(over)
		return false
	}
}
