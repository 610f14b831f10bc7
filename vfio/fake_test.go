package vfio

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fakeKernel is a kernel with one VFIO device that behaves as the uAPI says,
// and that fails where a test wants it to. Calls have names as "set PRE_COPY",
// "get", "reset", "read", "write", "pending", "size" or "open PATH".
type fakeKernel struct {
	t  *testing.T
	mu sync.Mutex

	flags   uint64 // of VFIO_DEVICE_FEATURE_MIGRATION
	absent  unix.Errno
	lacks   []uint32 // feature indices that answer absent
	state   State
	session int    // the live session's fd, 0 for none
	out     []byte // what the session still yields
	in      []byte // what it was given
	size    uint64
	pending precopyInfo // flags here are or'ed into those of the caller

	script map[string][]result // what the next calls of a name do instead
	nextFD int
	files  map[int]string // open fds and what they are
	calls  []string
}

// result is what a scripted call returns; then, if set, happens before.
type result struct {
	n    int
	err  error
	then func(k *fakeKernel)
}

const fakeDeviceFD = 100

func newFakeKernel(t *testing.T) *fakeKernel {
	k := &fakeKernel{
		t: t, flags: migrationStopCopy | migrationP2P | migrationPreCopy, absent: unix.ENOTTY,
		state: Running, nextFD: fakeDeviceFD + 1, script: map[string][]result{},
		files: map[int]string{fakeDeviceFD: "device"},
	}
	return k
}

// device opens the fake's device as the given driver's.
func (k *fakeKernel) device(info Info) *device {
	k.t.Helper()
	d, err := newDevice(k, fakeDeviceFD, "dev0", info, nil)
	if err != nil {
		k.t.Fatal(err)
	}
	k.calls = nil
	return d
}

// fail makes the next calls of that name fail with these errors, one by one.
func (k *fakeKernel) fail(call string, errs ...error) {
	for _, err := range errs {
		k.script[call] = append(k.script[call], result{err: err})
	}
}

func (k *fakeKernel) does(call string, r ...result) { k.script[call] = append(k.script[call], r...) }

// enter logs a call and gives what the script has for it.
func (k *fakeKernel) enter(call string) (result, bool) {
	k.calls = append(k.calls, call)
	queue := k.script[call]
	if len(queue) == 0 {
		return result{}, false
	}
	k.script[call] = queue[1:]
	if queue[0].then != nil {
		queue[0].then(k)
	}
	return queue[0], true
}

// count says how often a call was made, by its name or the name's first word.
func (k *fakeKernel) count(name string) (n int) {
	for _, c := range k.calls {
		if c == name || strings.HasPrefix(c, name+" ") {
			n++
		}
	}
	return n
}

func (k *fakeKernel) newFD(what string) int {
	k.nextFD++
	k.files[k.nextFD] = what
	return k.nextFD
}

var groupNode = regexp.MustCompile(`/dev/vfio/[0-9]+$`)

func (k *fakeKernel) open(path string) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if r, ok := k.enter("open " + path); ok {
		return -1, r.err
	}
	if groupNode.MatchString(path) && slices.Contains(slices.Collect(maps.Values(k.files)), path) {
		return -1, unix.EBUSY // vfio_group_fops_open: group->opened_file
	}
	return k.newFD(path), nil
}

func (k *fakeKernel) close(fd int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, ok := k.files[fd]; !ok {
		k.t.Errorf("fd %d closed twice", fd)
	}
	delete(k.files, fd)
}

func (k *fakeKernel) ioctl(fd int, req uint32, arg any) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, ok := k.files[fd]; !ok {
		k.t.Errorf("ioctl %#x on closed fd %d", req, fd)
	}
	switch req {
	case reqDeviceFeature:
		return 0, k.feature(arg)
	case reqDeviceReset:
		return 0, k.reset()
	case reqMigGetPrecopyInfo:
		return 0, k.precopyInfo(fd, arg.(*precopyInfo))
	}
	return k.openingIoctl(req, arg)
}

// openingIoctl answers what leads to a device fd.
func (k *fakeKernel) openingIoctl(req uint32, arg any) (int, error) {
	r, ok := k.enter(fmt.Sprintf("ioctl %#x", req))
	switch {
	case ok:
		return r.n, r.err
	case req == reqGroupGetStatus:
		arg.(*groupStatus).flags = groupViable
	case req == reqGroupGetDeviceFD:
		return k.newFD("device"), nil
	}
	return 0, nil
}

func (k *fakeKernel) feature(arg any) error {
	switch a := arg.(type) {
	case *featureStateArg:
		if a.flags&featureSet != 0 {
			return k.set(a)
		}
		r, _ := k.enter("get")
		a.state, a.dataFD = k.state, -1
		return r.err
	case *featureMigrationArg:
		a.migration = k.flags
		r, _ := k.enter("migration")
		return r.err
	case *featureSizeArg:
		a.stopCopyLength = k.size
		r, _ := k.enter("size")
		return r.err
	case *featureHeader:
		k.enter(fmt.Sprintf("feature %#x", a.flags))
		if slices.Contains(k.lacks, a.flags&0xffff) {
			return k.absent
		}
	}
	return nil
}

// set echoes the requested state whether it reaches it or not.
func (k *fakeKernel) set(a *featureStateArg) error {
	to := a.state
	a.dataFD = -1
	r, scripted := k.enter("set " + to.String())
	if scripted && r.err != nil {
		return r.err
	}
	opens := OpensSession(k.state, to)
	if opens || !k.state.Saving() || !to.Saving() {
		k.session = 0
	}
	k.state = to
	if opens && (!scripted || r.n >= 0) {
		k.session = k.newFD("session")
		a.dataFD = int32(k.session)
	}
	return nil
}

func (k *fakeKernel) reset() error {
	if r, ok := k.enter("reset"); ok && r.err != nil {
		return r.err
	}
	k.state, k.session = Running, 0
	return nil
}

func (k *fakeKernel) precopyInfo(fd int, a *precopyInfo) error {
	r, scripted := k.enter("pending")
	switch {
	case scripted:
		return r.err
	case k.flags&migrationPreCopy == 0:
		return unix.ENOTTY
	case fd != k.session:
		return unix.ENODEV
	case k.state != PreCopy && k.state != PreCopyP2P:
		return unix.EINVAL
	}
	a.flags |= k.pending.flags // echoed, as most drivers do
	a.initial, a.dirty = k.pending.initial, k.pending.dirty
	return nil
}

func (k *fakeKernel) read(fd int, p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if r, ok := k.enter("read"); ok {
		return copy(p, make([]byte, r.n)), r.err
	}
	if fd != k.session {
		return -1, unix.ENODEV
	}
	n := copy(p, k.out)
	k.out = k.out[n:]
	return n, nil
}

func (k *fakeKernel) write(fd int, p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	r, ok := k.enter("write")
	switch {
	case ok && r.err != nil:
		return -1, r.err
	case fd != k.session:
		return -1, unix.ENODEV
	case ok:
		p = p[:r.n]
	}
	k.in = append(k.in, p...)
	return len(p), nil
}

func (k *fakeKernel) splice(dst, src, n int) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if r, ok := k.enter("splice"); ok {
		return r.n, r.err
	}
	return -1, unix.EINVAL
}

func (k *fakeKernel) waitReadable(int, time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.enter("poll")
}
