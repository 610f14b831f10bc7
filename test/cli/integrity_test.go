package cli

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// The peer of these tests has a wrong digest of the stream. Both ends exit with 8, and the
// right to run does not move.

// TestRecvLyingEnd: the file that would hold the stream does not appear.
func TestRecvLyingEnd(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "sock")
	said := make(chan error, 1)
	go func() { said <- sendLyingEnd(t.Context(), path) }() // the answer ends it
	to := filepath.Join(t.TempDir(), "to")
	cmd := exec.Command(filepath.Join(bin, "mig-recv"), "--json", "--listen", "unix:"+path, "--device", "d=file:"+to)
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	stderr := exits(t, 8, cmd)
	contains(t, stderr, "mig-recv: error: device d", "digest", "hint: try again")
	contains(t, stdout.String(), `"outcome":"aborted"`, `"exit":8`, `"code":"corrupt"`, `"side":"destination"`, `"device":"d"`)
	if err := <-said; err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(filepath.Dir(to)); err != nil || len(left) > 0 {
		t.Errorf("the destination left %v, %v", left, err)
	}
}

// sendLyingEnd is a source that sends one good chunk, and END with another digest.
func sendLyingEnd(ctx context.Context, path string) error {
	attempt := migration.Attempt{Mig: migration.NewID(), Epoch: 1}
	lane, err := dial(ctx, path, wire.LaneControl, attempt)
	if err != nil {
		return err
	}
	defer lane.Close()
	control := wire.NewControl(lane)
	if err := control.Send(offer(attempt, wire.Versions{Min: wire.Version, Max: wire.Version})); err != nil {
		return err
	}
	if m, err := control.Receive(); err != nil || m.Type() != wire.TypeWelcome {
		return fmt.Errorf("the answer to HELLO is %v, %w", m, err)
	}
	data, err := dial(ctx, path, wire.LaneData, attempt)
	if err != nil {
		return err
	}
	defer data.Close()
	head, err := sendChunk(data, "state")
	if err != nil {
		return err
	}
	end := &wire.End{Attempt: attempt, Bytes: uint64(head.RawLen), Chunks: 1, Digest: migration.StreamDigest{1}}
	if err := control.Send(end); err != nil {
		return err
	}
	return awaitDeclined(control, transport.CodeCorrupt)
}

// sendChunk sends a stream's first chunk.
func sendChunk(lane transport.Lane, text string) (wire.ChunkHead, error) {
	arena, err := wire.NewArena(0, 4096, 1)
	if err != nil {
		return wire.ChunkHead{}, err
	}
	defer arena.Close()
	c, err := arena.TryGet()
	if err != nil {
		return wire.ChunkHead{}, err
	}
	defer c.Release()
	c.ReadRaw(bytes.NewReader([]byte(text)), len(text))
	c.Seal(0, 0, 0)
	return c.ChunkHead, c.WriteFrame(lane)
}

// awaitDeclined reads past the ACKs.
func awaitDeclined(control *wire.Control, code transport.Code) error {
	for {
		m, err := control.Receive()
		if err != nil {
			return err
		}
		switch m := m.(type) {
		case *wire.Ack:
		case *wire.Declined:
			if m.Code == code {
				return nil
			}
			return fmt.Errorf("DECLINED says %v, want %v", m.Code, code)
		default:
			return fmt.Errorf("the answer to END is %v", m.Type())
		}
	}
}

// TestSendToLyingReady: the source's device returns to RUNNING, and the source reports that to
// the destination.
func TestSendToLyingReady(t *testing.T) {
	l := listenUnix(t)
	served := serve(t, l, &vanishing{until: wire.TypeAbort, lies: true})
	cmd := exec.Command(filepath.Join(bin, "mig-send"), "--json", "--downtime-target", "20s", "--to", "unix:"+l.Addr().String(), "--device", "d=sim:pds")
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	stderr := exits(t, 8, cmd)
	contains(t, stderr, "mig-send: error: READY with another digest than END", "hint: try again")
	contains(t, stdout.String(), `"outcome":"aborted"`, `"exit":8`, `"code":"corrupt"`, `"side":"source"`, `"state":"RUNNING"`)
	if err := <-served; err != nil {
		t.Error(err)
	}
}
