//go:build failpoints

package failpoint

import (
	"fmt"
	"testing"
	"time"
)

type subject struct{ of string }

func (s subject) String() string { return "append." + s.of }

func TestPoints(t *testing.T) {
	points = parse("source.did.append.commit=sleep:30ms@2;a.decoded=flip;destination.on.point=sleep:20ms")
	defer func() { points = nil }()
	for i, want := range []bool{false, true, false} {
		began := time.Now()
		Reach("source", "did", subject{"COMMIT"})
		if got := time.Since(began) >= 30*time.Millisecond; got != want {
			t.Errorf("reached %d times, slept: %v", i+1, got)
		}
	}
	began := time.Now()
	Reach("destination", "on", &point{})
	if time.Since(began) < 20*time.Millisecond {
		t.Error("the point with the name of a type was not reached")
	}
	for _, want := range []string{"[0 0 1]", "[0 0 0]"} {
		data := make([]byte, 5)
		Spoil("a.decoded", data)
		if got := fmt.Sprint(data[:3]); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestMistakesAreNoticed(t *testing.T) {
	for _, spec := range []string{"a", "a=", "a=explode", "a=kill@", "a=kill@0", "a=sleep:long"} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%q is accepted", spec)
				}
			}()
			parse(spec)
		}()
	}
}
