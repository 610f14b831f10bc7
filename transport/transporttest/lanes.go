package transporttest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/migpipe/migpipe/transport"
)

// leavesNothing checks, after everything that the test cleans up, that no
// goroutine and no file descriptor is left.
func leavesNothing(t *testing.T) {
	goroutines, fds := goleak.IgnoreCurrent(), openFiles(t)
	t.Cleanup(func() {
		goleak.VerifyNone(t, goroutines)
		if left := openFiles(t); left > fds {
			t.Errorf("%d file descriptors are open, %d were", left, fds)
		}
	})
}

func openFiles(t *testing.T) int {
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(err)
	}
	return len(names)
}

// open connects one lane. Its first byte makes the lane visible to carriers
// that show nothing before.
func open(t testing.TB, d transport.Dialer, l transport.Listener) (dialled, accepted transport.Lane) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	dialled, err := d.Dial(ctx)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	t.Cleanup(func() { dialled.Close() })
	if _, err := dialled.Write([]byte{'!'}); err != nil {
		t.Fatalf("first write: %v", err)
	}
	accepted, err = l.Accept(ctx)
	if err != nil {
		t.Fatalf("accept: %v", err)
	}
	t.Cleanup(func() { // each of the two may wait for the other
		var wg sync.WaitGroup
		wg.Go(func() { dialled.Close() })
		wg.Go(func() { accepted.Close() })
		wg.Wait()
	})
	if _, err := io.ReadFull(accepted, make([]byte, 1)); err != nil {
		t.Fatalf("first read: %v", err)
	}
	return dialled, accepted
}

// openFrom is open with the dialling end first, or the other.
func openFrom(t testing.TB, d transport.Dialer, l transport.Listener, dialler bool) (first, second transport.Lane) {
	t.Helper()
	dialled, accepted := open(t, d, l)
	if dialler {
		return dialled, accepted
	}
	return accepted, dialled
}

// send writes size pseudo-random bytes in pieces of random sizes and finishes.
func send(lane transport.Lane, seed uint64, size int) error {
	r := rand.New(rand.NewPCG(seed, 0))
	data := noise(seed, size)
	for len(data) > 0 {
		n := min(len(data), 1+r.IntN(1<<r.IntN(20)))
		if _, err := lane.Write(data[:n]); err != nil {
			return err
		}
		data = data[n:]
	}
	return lane.CloseWrite()
}

// receive reads to the end, in pieces of random sizes, and compares.
func receive(lane transport.Lane, seed uint64, size int) error {
	r := rand.New(rand.NewPCG(seed, 1))
	digest, room := sha256.New(), make([]byte, 1<<20)
	for {
		n, err := lane.Read(room[:1+r.IntN(len(room))])
		digest.Write(room[:n])
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if want := sha256.Sum256(noise(seed, size)); !bytes.Equal(digest.Sum(nil), want[:]) {
		return errors.New("other bytes came than were sent")
	}
	return nil
}

// noise makes data that only its seed tells from noise.
func noise(seed uint64, size int) []byte {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	data := make([]byte, size)
	rand.NewChaCha8(key).Read(data)
	return data
}

// together runs the functions at the same time and reports their errors.
func together(t *testing.T, functions ...func() error) {
	t.Helper()
	errs := make(chan error, len(functions))
	var wg sync.WaitGroup
	for _, f := range functions {
		wg.Go(func() { errs <- f() })
	}
	wg.Wait()
	for range functions {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func writeAll(lane transport.Lane, p []byte) error {
	n, err := lane.Write(p)
	if err == nil && n < len(p) {
		return io.ErrShortWrite
	}
	return err
}

// background runs a call that should block.
func background(call func([]byte) (int, error), size int) chan error {
	c := make(chan error, 1)
	go func() { _, err := call(make([]byte, size)); c <- err }()
	return c
}

// tooMuch is more than any carrier takes without a reader.
const tooMuch = 64 << 20

func await(t *testing.T, what string, c chan error) error {
	t.Helper()
	select {
	case err := <-c:
		return err
	case <-time.After(patience):
		t.Fatalf("%s still blocks", what)
		return nil
	}
}

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
