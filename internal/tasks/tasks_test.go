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

// TestGroup: what runs sees the end of the context, by Stop and by the parent, and is joined.
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

// TestChild: a child ends alone, and its parent joins it.
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
		t.Errorf("of none: %v", err)
	}
}

// TestWithin: what ends in time is joined, and what does not is followed by what is to come then.
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
