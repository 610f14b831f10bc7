package wire

import (
	"bytes"
	"fmt"
	"os"
	"reflect"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMapPages checks that exactly the requested bytes are resident, and that large memory is
// aligned to a huge page.
func TestMapPages(t *testing.T) {
	page := os.Getpagesize()
	for _, size := range []int{page, hugePage - page, hugePage, hugePage + page, 5*hugePage + 3*page} {
		p, err := mapPages(size)
		if err != nil {
			t.Fatal(err)
		}
		if at := address(p.mem); size >= hugePage && at%hugePage != 0 {
			t.Errorf("%d bytes begin at %#x", size, at)
		}
		if rss := mapped(t, p, "Rss:"); len(p.mem) != size || rss != size {
			t.Errorf("%d bytes: mapped %d, resident %d", size, len(p.mem), rss)
		}
		for i, b := range p.mem {
			if b != 0 {
				t.Fatalf("byte %d of %d is %d", i, size, b)
			}
			p.mem[i] = 1
		}
		if err := p.unmap(); err != nil {
			t.Error(err)
		}
	}
}

func address(p []byte) uint { return uint(reflect.ValueOf(p).Pointer()) }

// mapped returns the sum of a row of /proc/self/smaps, in bytes, for the addresses of p.
func mapped(t testing.TB, p pages, row string) (total int) {
	t.Helper()
	rows, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Skip(err)
	}
	first, inside := address(p.mapping), false
	for text := range bytes.Lines(rows) {
		var from, to uint // a 32-bit int cannot hold every address
		var n int
		if _, err := fmt.Sscanf(string(text), "%x-%x ", &from, &to); err == nil {
			inside = from < first+uint(len(p.mapping)) && to > first
		}
		if rest, ok := bytes.CutPrefix(text, []byte(row)); ok && inside {
			fmt.Sscanf(string(rest), "%d", &n)
			total += n << 10
		}
	}
	return total
}

// BenchmarkArena maps 32 MiB of resident memory. The metric is the number of huge pages in it.
func BenchmarkArena(b *testing.B) {
	const size = 32 << 20
	for _, huge := range []bool{false, true} {
		b.Run(fmt.Sprintf("huge=%v", huge), func(b *testing.B) {
			given := 0
			for b.Loop() {
				p, err := mapPagesAs(size, huge)
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				given = mapped(b, p, "AnonHugePages:")
				if err := p.unmap(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			b.SetBytes(size)
			b.ReportMetric(float64(given)/hugePage, "huge-pages")
		})
	}
}

// mapPagesAs is mapPages, without huge pages if huge is not set, as for a process that has
// disabled them.
func mapPagesAs(size int, huge bool) (pages, error) {
	if !huge {
		if err := unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0); err != nil {
			return pages{}, err
		}
		defer unix.Prctl(unix.PR_SET_THP_DISABLE, 0, 0, 0, 0)
	}
	return mapPages(size)
}
