package transporttest

import (
	"io"
	"testing"
)

// Bench measures one lane: writes of 1 MiB at one end, reads at the other.
func Bench(b *testing.B, connect Connect) {
	d, l := connect(b)
	b.Cleanup(func() { l.Close() })
	ours, theirs := open(b, d, l)
	data, room := noise(1, 1<<20), make([]byte, 1<<20)
	done := make(chan error, 1)
	go func() {
		_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{theirs}, room)
		done <- err
	}()
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if _, err := ours.Write(data); err != nil {
			b.Fatal(err)
		}
	}
	ours.CloseWrite()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}
