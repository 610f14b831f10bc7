package transport

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/internal/safefile"
)

// FileOptions say how credentials read their files. Nil, or a zero field, means the
// default.
type FileOptions struct {
	// Open opens a file of the credentials for reading. It is for a process in a sandbox, which
	// asks another process to open the file. Several goroutines may call it at once. It must not
	// wait for the other end of a FIFO.
	// Default: this process opens the file itself.
	Open func(path string) (*os.File, error)

	// Kept is called when files have changed and cannot be used: their former content stays in
	// force. It is called once for each change, with a [KeptError], by any goroutine, and must
	// not wait. Default: the error is dropped.
	Kept func(error)
}

func (o *FileOptions) withDefaults() FileOptions {
	v := *cmp.Or(o, new(FileOptions))
	if v.Open == nil {
		v.Open = safefile.Open
	}
	if v.Kept == nil {
		v.Kept = func(error) {}
	}
	return v
}

// KeptError is why a file that has changed is not used. Its former content stays in force.
type KeptError struct{ Err error }

// Error names the file, the reason, and the content that stays in force.
func (e *KeptError) Error() string {
	text := e.Err.Error()
	if c, ok := errors.AsType[*CertificateError](e.Err); ok { // no peer has failed to authenticate
		text = fmt.Sprintf("%s: %v", c.Of, c.Err)
	}
	return "transport: what was read before stays in force: " + text
}

// Unwrap gives the reason.
func (e *KeptError) Unwrap() error { return e.Err }

// open opens a small file for reading.
type open func(path string) (*os.File, error)

// retryWrong is the time after which files that could not be used are tried again though
// they have not changed: a certificate may have become valid.
const retryWrong = time.Second

// reread is the content of some files. It reads them again when they have changed. If they cannot
// be used, their former content stays.
type reread[T any] struct {
	paths []string
	parse func(open) (T, error)
	open  open
	kept  func(error)

	mu    sync.Mutex
	good  T
	from  []stamp   // of the files that good was read from
	tried []stamp   // of the files that were read last
	wrong time.Time // when these could not be used, zero if they could
}

// newReread reads files for the first time. parse opens no others than those of paths,
// which need not all be there.
func newReread[T any](opts *FileOptions, parse func(open) (T, error), paths ...string) (*reread[T], error) {
	o := opts.withDefaults()
	r := &reread[T]{paths: paths, parse: parse, open: o.Open, kept: o.Kept}
	r.from = r.stamps()
	r.tried = r.from
	var err error
	r.good, err = parse(r.open)
	return r, err
}

// now is the present content of the files, or the former one. Without a change it costs a stat(2)
// of each file.
func (r *reread[T]) now() T {
	r.mu.Lock()
	defer r.mu.Unlock()
	stamps := r.stamps() // first: what changes while it is read is read again
	changed := !slices.Equal(stamps, r.tried)
	if !changed && (r.wrong.IsZero() || time.Since(r.wrong) < retryWrong) {
		return r.good
	}
	r.tried, r.wrong = stamps, time.Time{}
	good, err := r.again(stamps)
	if err == nil {
		r.good, r.from = good, stamps
		return good
	}
	r.wrong = time.Now()
	if changed {
		r.kept(&KeptError{err})
	}
	return r.good
}

// again refuses the files if one is gone: without the revocation list, every certificate would
// be valid.
func (r *reread[T]) again(stamps []stamp) (good T, err error) {
	for i, s := range stamps {
		if s.err != 0 && r.from[i].err == 0 {
			return good, &fs.PathError{Op: "read", Path: r.paths[i], Err: s.err}
		}
	}
	return r.parse(r.open)
}

// stamp identifies one state of a file. A process can read the stamp of a file that it may not
// open: Landlock does not restrict stat(2).
type stamp struct {
	err              unix.Errno
	device, file     uint64
	size             int64
	written, changed unix.Timespec
}

func (r *reread[T]) stamps() []stamp {
	list := make([]stamp, len(r.paths))
	for i, path := range r.paths {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			list[i].err, _ = errors.AsType[unix.Errno](err)
			continue
		}
		list[i] = stamp{device: uint64(st.Dev), file: st.Ino, size: st.Size, written: st.Mtim, changed: st.Ctim}
	}
	return list
}
