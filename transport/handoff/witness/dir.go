package witness

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/internal/safefile"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
)

// Dir is a witness in a directory that both hosts have mounted. A register is a file that link(2)
// makes. link(2) fails if the name exists, on NFS, too (open(2), O_EXCL), and never leaves half of
// a file.
type Dir struct {
	path  string
	name  string
	calls chan struct{} // one token for each call that waits for the file system
}

// maxCalls bounds the calls that wait for a file system: each holds an OS thread until it
// answers.
const maxCalls = 4

var errHangs = fmt.Errorf("%d calls to this directory have not returned: its file system hangs", maxCalls)

// maxFile bounds the read of a file that another process may have written.
const maxFile = 256

// idFile has the id of the directory, by which both hosts recognise it.
const idFile = "witness-id"

// OpenDir opens the witness in an existing directory. The first call gives the directory an id. A
// directory that another user may write is refused: that user could give the devices to both
// sides.
func OpenDir(path string) (*Dir, error) {
	d := &Dir{path: path, calls: make(chan struct{}, maxCalls)}
	if err := safefile.CheckDir(path); err != nil {
		return nil, fmt.Errorf("witness dir:%s: %w", path, err)
	}
	id, err := d.once(filepath.Join(path, idFile), rand.Text())
	if err != nil {
		return nil, fmt.Errorf("witness dir:%s: %w", path, err)
	}
	if d.name = "dir:" + id; len(d.name) > MaxName {
		return nil, fmt.Errorf("witness dir:%s: %s has no name of at most %d bytes", path, idFile, MaxName)
	}
	return d, nil
}

// Name has the id of the directory, and not its path.
func (d *Dir) Name() string { return d.name }

// Decide links the register, or reads who has. A file system that hangs is waited
// for no longer than ctx; the call to it ends when the file system answers.
func (d *Dir) Decide(ctx context.Context, attempt migration.Attempt, me handoff.Side) (handoff.Side, error) {
	return d.await(ctx, func() (handoff.Side, error) { return d.decide(attempt, me) })
}

// decideAndRemove is Decide for an attempt that does not exist: it leaves no register.
func (d *Dir) decideAndRemove(ctx context.Context, unused migration.Attempt, me handoff.Side) (handoff.Side, error) {
	return d.await(ctx, func() (handoff.Side, error) {
		winner, err := d.decide(unused, me)
		if err == nil {
			err = os.Remove(d.register(unused))
		}
		return winner, err
	})
}

// await waits for what do does, and no longer than ctx. It fails at once while maxCalls
// others have not returned.
func (d *Dir) await(ctx context.Context, do func() (handoff.Side, error)) (handoff.Side, error) {
	type answer struct {
		winner handoff.Side
		err    error
	}
	select {
	case d.calls <- struct{}{}:
	default:
		return 0, fmt.Errorf("witness dir:%s: %w", d.path, errHangs)
	}
	answers := make(chan answer, 1)
	go func() { // ends when the file system answers
		winner, err := do()
		<-d.calls // before the answer: who has it may ask again at once
		answers <- answer{winner, err}
	}()
	select {
	case a := <-answers:
		return a.winner, a.err
	case <-ctx.Done():
		return 0, fmt.Errorf("witness dir:%s: %w", d.path, context.Cause(ctx))
	}
}

// register is the path of an attempt's register.
func (d *Dir) register(a migration.Attempt) string {
	return filepath.Join(d.path, fmt.Sprintf("%v.%d", a.Mig, a.Epoch))
}

func (d *Dir) decide(attempt migration.Attempt, me handoff.Side) (handoff.Side, error) {
	text, err := d.once(d.register(attempt), me.String())
	if err == nil {
		var winner handoff.Side
		if winner, err = parseSide(text); err == nil {
			return winner, nil
		}
	}
	return 0, fmt.Errorf("witness dir:%s: %w", d.path, err)
}

// once makes a file with a text unless it exists, and returns the content of the file. The file is
// on the disk then: once syncs the name even if the other host has made it, since that host may
// have been cut off before it could.
func (d *Dir) once(final, text string) (string, error) {
	got, err := read(final)
	if errors.Is(err, fs.ErrNotExist) {
		if err = d.link(final, text); err == nil {
			got, err = read(final)
		}
	}
	if err == nil {
		err = safefile.SyncDir(d.path)
	}
	return got, err
}

// link gives a new file the final name. A failure of link(2) proves nothing: the answer of a server
// that made the link may be lost, and the next answer is EEXIST (open(2) of Linux, NFS). The file
// with the final name decides.
func (d *Dir) link(final, text string) error {
	tail := make([]byte, 8)
	rand.Read(tail) // never fails
	own := filepath.Join(d.path, ".new-"+hex.EncodeToString(tail))
	if err := write(own, text+"\n"); err != nil {
		return err
	}
	defer os.Remove(own)
	if err := os.Link(own, final); err != nil && !errors.Is(err, fs.ErrExist) {
		if _, there := os.Lstat(final); there != nil {
			return err
		}
	}
	return nil
}

// write makes a file that is on the disk when it returns.
func write(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		os.Remove(path)
	}
	return err
}

func read(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO is not waited for
	if err != nil {
		return "", err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return "", errors.Join(err, fmt.Errorf("%s is no regular file", path))
	}
	b := make([]byte, maxFile)
	n, err := f.Read(b)
	text, whole := strings.CutSuffix(string(b[:n]), "\n")
	if err != nil || !whole || strings.ContainsAny(text, "\n\r") {
		return "", fmt.Errorf("%s is no line of at most %d bytes", path, maxFile)
	}
	return text, nil
}
