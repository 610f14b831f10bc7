package reader

import "testing"

func TestTail(t *testing.T) {
	const kib, mib = 1 << 10, 1 << 20
	for _, c := range []struct {
		name   string
		tail   tail
		limit  int
		offset uint64
		want   int
	}{
		{"nothing is known", tail{}, mib, 5 * mib, mib},
		{"more than the lanes hold at once", tail{100 * mib, 4}, mib, 10 * mib, mib},
		{"as much as they hold", tail{100 * mib, 4}, mib, 96 * mib, mib},
		{"a page less", tail{100 * mib, 4}, mib, 96*mib + 4*kib, 512 * kib},
		{"half of that", tail{100 * mib, 4}, mib, 98 * mib, 256 * kib},
		{"to whole pages", tail{100*mib + 8, 4}, mib, 98 * mib, 260 * kib},
		{"no shorter than is worth it", tail{100 * mib, 4}, mib, 100*mib - 100*kib, 64 * kib},
		{"one lane", tail{100 * mib, 1}, mib, 100*mib - 800*kib, 400 * kib},
		{"short chunks", tail{mib, 4}, 16 * kib, mib - 4*kib, 16 * kib},
		{"a whole state of 60 bytes", tail{60, 4}, mib, 0, 64 * kib},
		{"more than was estimated", tail{100 * mib, 4}, mib, 100 * mib, mib},
	} {
		if got := c.tail.most(c.limit, c.offset); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}
