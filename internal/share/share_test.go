package share

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/migpipe/migpipe/internal/wire"
)

func needs(bytes ...uint64) (all []Need) {
	for _, b := range bytes {
		all = append(all, Need{Bytes: b, Known: true})
	}
	return all
}

func TestDivide(t *testing.T) {
	unknown, done := Need{Bytes: gib}, Need{Bytes: gib, Known: true, Done: true}
	for _, c := range []struct {
		name         string
		total, floor int
		needs        []Need
		want         []int
	}{
		{"no devices", 30, 2, nil, []int{}},
		{"one", 30, 2, needs(0), []int{30}},
		{"equals", 30, 2, needs(gib, gib, gib), []int{10, 10, 10}},
		{"nothing left", 30, 2, needs(0, 0, 0), []int{10, 10, 10}},
		{"in proportion", 30, 2, needs(gib, 2*gib), []int{10, 20}},
		{"floor", 30, 2, needs(mib, 1000*mib), []int{2, 28}},
		{"some floors do not change the proportion of the rest", 34, 2, needs(0, gib, 0, 2*gib), []int{2, 10, 2, 20}},
		{"no more than the floors", 6, 2, needs(gib, 0, 0), []int{2, 2, 2}},
		{"less than the floors", 5, 2, needs(gib, 0, 0), []int{3, 1, 1}},
		{"less than one each", 2, 2, needs(gib, 0, 0), []int{1, 0, 1}},
		{"unknown is average", 30, 2, append(needs(gib, 3*gib), unknown), []int{5, 14, 11}},
		{"all unknown", 30, 2, []Need{unknown, unknown}, []int{15, 15}},
		{"negative is unknown", 30, 2, needs(gib, 3*gib, math.MaxUint64-4), []int{5, 14, 11}},
		{"longest stream", 30, 2, needs(gib, wire.MaxStream), []int{2, 28}},
		{"done", 30, 2, append(needs(gib, 2*gib), done), []int{10, 20, 0}},
		{"all done", 30, 2, []Need{done, done}, []int{0, 0}},
		{"priority", 30, 2, []Need{{Bytes: gib, Known: true, Priority: 2}, {Bytes: gib, Known: true}}, []int{20, 10}},
		{"priority of the unknown", 30, 2, []Need{{Priority: 2}, {}}, []int{20, 10}},
		{"no more than that", 34, 2, []Need{{Bytes: gib, Known: true, Priority: 255}, {Bytes: gib, Known: true}}, []int{32, 2}},
	} {
		got := slices.Repeat([]int{-1}, len(c.needs)) // Divide overwrites all
		if Divide(got, c.total, c.floor, c.needs); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// anyNeeds generates random needs.
func anyNeeds(n int) *rapid.Generator[[]Need] {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Need {
		return Need{Bytes: rapid.Uint64().Draw(t, "bytes"), Known: rapid.Bool().Draw(t, "known"), Priority: rapid.Byte().Draw(t, "priority")}
	}), n, n)
}

// TestDivideAll checks for random needs that Divide divides the whole total, and that no part
// is below the floor.
func TestDivideAll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, wire.MaxDevices).Draw(t, "devices")
		total, floor := rapid.IntRange(0, math.MaxInt32).Draw(t, "total"), rapid.IntRange(0, 100).Draw(t, "floor")
		sum, shares := 0, make([]int, n)
		Divide(shares, total, floor, anyNeeds(n).Draw(t, "needs"))
		for i, s := range shares {
			if sum += s; s < min(floor, total/n) {
				t.Fatalf("device %d gets %d of %d", i, s, total)
			}
		}
		if sum != total {
			t.Fatalf("the parts sum up to %d of %d", sum, total)
		}
	})
}

// TestLedger makes random calls. No more is promised than there is, no promise shrinks, and
// a device that has data to send has credit.
func TestLedger(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 6).Draw(t, "devices")
		chunks := Floor*n + rapid.IntRange(0, 40).Draw(t, "more")
		l := NewLedger(chunks, anyNeeds(n).Draw(t, "first"))
		applied, last, ends := make([]uint64, n), make([]uint64, n), make([]uint64, n)
		any := rapid.IntRange(0, n-1)
		t.Repeat(map[string]func(*rapid.T){
			"apply": func(t *rapid.T) {
				i := any.Draw(t, "device")
				if applied[i] == l.Promised(i) {
					t.Skip("no device has credit")
				}
				applied[i]++
				l.Applied(i)
			},
			"end": func(t *rapid.T) {
				i := any.Draw(t, "device")
				if ends[i] > 0 {
					t.Skip("the stream has ended")
				}
				used := rapid.Uint64Range(applied[i], l.Promised(i)).Draw(t, "used")
				chunks := rapid.Uint64Max(100).Draw(t, "chunks")
				ends[i], last[i] = 1+max(chunks, used), 0 // End revokes unused credit
				l.End(i, chunks, used)
			},
			"estimate": func(t *rapid.T) { l.Divide(anyNeeds(n).Draw(t, "needs")) },
			"tell":     func(t *rapid.T) { l.MarkReported() },
			"": func(t *rapid.T) {
				sum, open := 0, 0
				for i := range n {
					may := l.Promised(i) - applied[i]
					sum += int(may)
					if end := ends[i] - 1; ends[i] == 0 || l.Promised(i) < end {
						open++
						if may < Floor {
							t.Fatalf("device %d has credit for %d chunks", i, may)
						}
					} else if l.Promised(i) > end {
						t.Fatalf("device %d has credit for %d chunks of %d", i, l.Promised(i), end)
					}
					if l.Promised(i) < last[i] {
						t.Fatalf("device %d was promised %d chunks, and then %d", i, last[i], l.Promised(i))
					}
					last[i] = l.Promised(i)
				}
				if sum > chunks || open > 0 && sum < chunks {
					t.Fatalf("%d chunks are promised, but memory is for %d", sum, chunks)
				}
			},
		})
	})
}

// TestLedgerFollows checks that freed memory goes to the device below its share.
func TestLedgerFollows(t *testing.T) {
	l := NewLedger(30, needs(gib, gib))
	l.Divide(needs(0, gib))
	for range 20 {
		l.Applied(0)
	}
	if a, b := l.Promised(0), l.Promised(1); a != 22 || b != 28 {
		t.Errorf("promised are %d and %d, want 22 (2 more) and 28", a, b)
	}
	l.End(1, 5, 5)
	if a, b := l.Promised(0), l.Promised(1); a != 45 || b != 5 {
		t.Errorf("after the END, promised are %d and %d, want 45 and 5", a, b)
	}
}

// TestPool checks that a device uses the shares that others do not want, and that the others
// get their shares when they want them.
func TestPool(t *testing.T) {
	p := NewPool(20, needs(gib, gib, 0))
	all := func() (n int) {
		for _, ok := p.Next(); ok; _, ok = p.Next() {
			n++
		}
		return n
	}
	p.Want(0, true)
	if n := all(); n != 16 {
		t.Errorf("alone a device gets %d of 20, want all but the floors of 2 others", n)
	}
	p.Want(1, true)
	if n := all(); n != 2 || p.Held(1) != 2 {
		t.Errorf("the second gets %d at once", n)
	}
	for range 6 {
		p.Return(0, 1)
		all()
	}
	if p.Held(0) != 10 || p.Held(1) != 8 {
		t.Errorf("then they hold %d and %d", p.Held(0), p.Held(1))
	}
	p.Want(0, false)
	p.Want(2, true)
	all()
	if p.Held(2) != 2 {
		t.Errorf("the third gets %d", p.Held(2))
	}
}

// TestPoolSlowReader has a device that wants one chunk at a time, with a pause between. Another
// device that always wants more must not keep it at the floor.
func TestPoolSlowReader(t *testing.T) {
	p := NewPool(20, needs(gib, gib))
	p.Want(0, true)
	for _, ok := p.Next(); ok; _, ok = p.Next() {
	}
	for range 20 {
		p.Return(0, 1)
		for _, ok := p.Next(); ok; _, ok = p.Next() { // the pause
		}
		p.Want(1, true)
		p.Next()
		p.Want(1, false)
	}
	if p.Held(1) < 8 {
		t.Errorf("the slow reader holds %d of 20", p.Held(1))
	}
}

func TestTurns(t *testing.T) {
	turns := NewTurns(needs(gib, 3*gib, 0))
	sent := func(n int) (out [3]int) {
		for range n {
			i, ok := turns.Next()
			if !ok {
				break
			}
			turns.Take(i, mib)
			out[i]++
		}
		return out
	}
	if got := sent(10); got != [3]int{} {
		t.Errorf("%d bytes are sent although no device is ready", got)
	}
	turns.Ready(0, true)
	turns.Ready(1, true)
	if got := sent(400); got[0] < 99 || got[0] > 101 {
		t.Errorf("1 to 3 becomes %d", got)
	}
	turns.Ready(1, false)
	if got := sent(100); got[0] != 100 {
		t.Errorf("a single ready device sends %d of 100", got)
	}
	turns.Ready(1, true)
	if got := sent(400); got[0] < 95 || got[0] > 101 {
		t.Errorf("after a pause 1 to 3 becomes %d", got)
	}
	turns.Ready(2, true)
	if got := sent(480); got[2] < 8 || got[2] > 12 {
		t.Errorf("a device with an estimate of 0 sends %d of 480", got[2])
	}
	turns.Divide(needs(0, 0, gib))
	if got := sent(100); got[2] < 85 {
		t.Errorf("after its estimate grew, it sends %d of 100", got[2])
	}
}

func TestNoAllocations(t *testing.T) {
	n := needs(gib, mib, 0)
	l, turns := NewLedger(30, n), NewTurns(n)
	turns.Ready(1, true)
	if allocs := testing.AllocsPerRun(100, func() {
		l.Applied(1)
		turns.Next()
		turns.Take(1, mib)
	}); allocs != 0 {
		t.Errorf("a chunk needs %v allocations", allocs)
	}
}
