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

// fakeKernel is a kernel with one VFIO device that behaves as the uAPI defines.
// A test scripts its failures. Calls have names as "set PRE_COPY", "get",
// "reset", "read", "write", "pending", "size" or "open PATH".
type fakeKernel struct {
	t  *testing.T
	mu sync.Mutex

	flags   uint64     // of VFIO_DEVICE_FEATURE_MIGRATION
	absent  unix.Errno // the errno for features in lacks
	lacks   []uint32   // indices of features that the device does not have
	state   State
	session int    // the open session's fd, 0 for none
	out     []byte // the bytes that the session still yields
	in      []byte // the bytes that were written to it
	size    uint64
	pending precopyInfo // flags here are or'ed into those of the caller

	script map[string][]result // results of the next calls, by name
	nextFD int
	files  map[int]string // the kind of each open fd
	calls  []string
}

// result is the result of a scripted call. before, if set, runs first.
type result struct {
	n      int
	err    error
	before func(k *fakeKernel)
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

// device opens the fake's device with the given description.
func (k *fakeKernel) device(info Info) *device {
	k.t.Helper()
	d, err := newDevice(k, fakeDeviceFD, "dev0", info, nil)
	if err != nil {
		k.t.Fatal(err)
	}
	k.calls = nil
	return d
}

// fail makes the next calls of a name fail with these errors, one error per call.
func (k *fakeKernel) fail(call string, errs ...error) {
	for _, err := range errs {
		k.script[call] = append(k.script[call], result{err: err})
	}
}

// returns makes the next calls of a name return these results, one result per call.
func (k *fakeKernel) returns(call string, r ...result) { k.script[call] = append(k.script[call], r...) }

// enter logs a call and returns its scripted result, if it has one.
func (k *fakeKernel) enter(call string) (result, bool) {
	k.calls = append(k.calls, call)
	queue := k.script[call]
	if len(queue) == 0 {
		return result{}, false
	}
	k.script[call] = queue[1:]
	if queue[0].before != nil {
		queue[0].before(k)
	}
	return queue[0], true
}

// count returns how often a call was made, by its name or the name's first word.
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

// openingIoctl handles the ioctls that open a device.
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

// set writes the requested state back, even if it fails.
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
