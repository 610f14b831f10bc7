package reader

import (
	"errors"
	"fmt"
	"io"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/vfio"
)

// tap takes bytes out of a device's stream: by splice(2) where that works and
// nobody needs to see them, by read(2) into the chunk everywhere else. The
// first bytes are the probe; every VFIO driver answers EINVAL to it.
type tap struct {
	stream vfio.Stream
	source wire.SpliceSource // nil where the stream cannot, or is not to, be spliced
	holes  vfio.HoleReader   // nil where the stream knows of none
	unseen bool              // nobody needs to see the bytes
	empty  int               // times in a row that the stream gave no byte and no error
	path   string            // "read" or "splice", for the report
	why    string
}

// mostEmpty is how often in a row a stream may give no byte and no error, as in package bufio.
const mostEmpty = 100

// newTap taps a stream. unseen says that the lanes stay in this host's kernel
// and that no codec was asked for.
func newTap(s vfio.Stream, unseen bool) *tap {
	t := &tap{stream: s, unseen: unseen, path: "read", why: "the stream has no splice"}
	if source, ok := s.(wire.SpliceSource); ok {
		t.source, t.why = source, "nothing was there to probe with"
	}
	t.holes, _ = s.(vfio.HoleReader)
	return t
}

// fill takes what the device has, up to limit bytes, into the empty chunk.
func (t *tap) fill(c *wire.Chunk, limit int) (int, error) {
	n, err := t.take(c, limit)
	if n > 0 || err != nil {
		t.empty = 0
	} else if t.empty++; t.empty == mostEmpty {
		return 0, fmt.Errorf("%w: the stream gave no byte and no error %d times in a row", io.ErrNoProgress, mostEmpty)
	}
	switch {
	case n == 0 || !c.Unchecked:
	case t.unseen:
		t.path, t.why = "splice", "the lanes stay in this host and no codec was asked for"
	default:
		t.source, t.why = nil, "splice works, but the bytes are summed up and encrypted in user space"
		err = errors.Join(err, c.Unsplice())
	}
	return n, err
}

// take is one look at the stream. A hole becomes a chunk of zeros, which every destination
// takes, over every carrier.
func (t *tap) take(c *wire.Chunk, limit int) (int, error) {
	if t.holes != nil {
		if n, err := c.FillHole(t.holes, limit); n > 0 || err != nil {
			return n, err
		}
	}
	if t.source != nil {
		n, err := c.Splice(t.source, limit)
		if !errors.Is(err, errors.ErrUnsupported) {
			return n, err
		}
		t.source, t.why = nil, err.Error()
	}
	return c.Fill(t.stream, limit)
}
