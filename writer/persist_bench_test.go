package writer

import (
	"bytes"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/migpipe/migpipe/internal/share"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/file"
)

// BenchmarkFileTarget loads 256 MiB into a file, up to STOP, from a source that retains at most 32
// MiB. One session ends with the process, and the complete state of the other outlives it.
func BenchmarkFileTarget(b *testing.B) {
	const size, chunks, total = 1 << 20, 32, 256
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{}).Read(data)
	for _, persists := range []bool{false, true} {
		name := "ends with the process"
		if persists {
			name = "persistent"
		}
		b.Run(name, func(b *testing.B) {
			b.SetBytes(total * size)
			arena, err := wire.NewArena(0, size, chunks)
			if err != nil {
				b.Fatal(err)
			}
			defer arena.Close()
			path := filepath.Join(b.TempDir(), "state")
			for b.Loop() {
				dev, err := file.NewDestination(path, nil)
				if err != nil {
					b.Fatal(err)
				}
				loadStream(b, dev, persists, arena, data, total)
				dev.Reset()
				dev.Close()
			}
		})
	}
}

func loadStream(b *testing.B, dev *file.Destination, persists bool, arena *wire.Arena, data []byte, total uint64) {
	chunks, size := arena.Count(), uint64(len(data))
	m := newMerge(newCredit(chunks, int(size), make([]share.Need, 1)), 0, wire.MaxStream)
	moved, ended := make(chan struct{}, 1), make(chan loaderEnded, 1)
	signal := func() {
		select {
		case moved <- struct{}{}:
		default:
		}
	}
	l := &loader{name: "d", dev: dev, merge: m, digest: wire.NewDigest(), noteApplied: signal, post: func(ev event) { ended <- ev.(loaderEnded) }}
	var err error
	if persists {
		l.stream, err = dev.Persist("bench")
		l.note = new(copyNote)
	} else {
		l.stream, err = dev.SetState(vfio.Resuming)
	}
	if err != nil {
		b.Fatal(err)
	}
	go l.run(b.Context())
	sum := wire.NewDigest()
	for seq := range total {
		for {
			ack, _ := m.status()
			if seq < min(ack.Window.Seq, ack.Seq+uint64(chunks)) {
				break
			}
			<-moved
		}
		c, err := arena.TryGet()
		if err != nil {
			b.Fatal(err)
		}
		if _, err := c.ReadRaw(bytes.NewReader(data), len(data)); err != nil {
			b.Fatal(err)
		}
		c.Seal(0, seq, seq*size)
		sum.Add(c.ChunkHead)
		if _, err := m.claim(c.ChunkHead, nil); err != nil {
			b.Fatal(err)
		}
		m.deliver(c)
	}
	if _, err := m.setEnd(&wire.End{Bytes: total * size, Chunks: total, Digest: sum.Sum()}); err != nil {
		b.Fatal(err)
	}
	if ev := <-ended; ev.fault != nil {
		b.Fatal(ev.fault)
	}
}
