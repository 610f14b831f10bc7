package tasks

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestGroup checks that Stop and the end of the parent end the context, and that Wait joins the
// goroutines.
func TestGroup(t *testing.T) {
	for name, end := range map[string]func(g *Group, parent context.CancelFunc){
		"Stop":   func(g *Group, _ context.CancelFunc) { g.Stop() },
		"parent": func(_ *Group, parent context.CancelFunc) { parent() },
	} {
		parent, cancel := context.WithCancel(t.Context())
		g := NewGroup(parent)
		var ended atomic.Int64
		for range 3 {
			g.Go(func(ctx context.Context) {
				<-ctx.Done()
				ended.Add(1)
			})
		}
		end(g, cancel)
		if g.Wait(); ended.Load() != 3 {
			t.Errorf("%s: %d have ended", name, ended.Load())
		}
		g.Stop()
		cancel()
	}
}

// TestChild checks that the Stop of a child does not end its parent, and that the parent's Wait
// joins the child.
func TestChild(t *testing.T) {
	g := NewGroup(t.Context())
	child, alone := g.Child(), make(chan error, 1)
	child.Go(func(ctx context.Context) { <-ctx.Done() })
	g.Go(func(ctx context.Context) {
		<-ctx.Done()
		alone <- nil
	})
	child.Stop()
	select {
	case <-alone:
		t.Error("the parent has ended with its child")
	default:
	}
	g.Child().Go(func(ctx context.Context) { <-ctx.Done() })
	g.Stop()
	g.Wait()
}

func TestParallel(t *testing.T) {
	broken := errors.New("broken")
	err := Parallel(3, func(i int) error {
		if i == 1 {
			return nil
		}
		return fmt.Errorf("%d is %w", i, broken)
	})
	if !errors.Is(err, broken) || strings.Count(err.Error(), "broken") != 2 {
		t.Errorf("%v", err)
	}
	if err := Parallel(0, nil); err != nil {
		t.Errorf("n is 0: %v", err)
	}
}

// TestWithin checks that Within joins a function that ends in time, and that late follows one that
// does not.
func TestWithin(t *testing.T) {
	for takes, in := range map[time.Duration]bool{0: true, 999 * time.Millisecond: true, 2 * time.Second: false} {
		synctest.Test(t, func(t *testing.T) {
			var late atomic.Bool
			if got := Within(time.Second, func() { time.Sleep(takes) }, func() { late.Store(true) }); got != in || late.Load() {
				t.Errorf("%v within a second: %v", takes, got)
			}
			time.Sleep(takes)
			synctest.Wait()
			if late.Load() == in {
				t.Errorf("%v within a second: late is %v", takes, late.Load())
			}
		})
	}
}
