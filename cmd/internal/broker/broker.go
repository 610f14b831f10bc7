// Package broker does, for a process in a sandbox, the two things that a sandbox cannot
// allow by itself: it looks host names up, and it opens files that were named when it
// began. A Landlock rule is tied to the file that has a name when the rule is made. Once
// another file is renamed over it, only a right on the whole directory would help, and
// that would be a right on all secrets in it.
//
// The broker is the same program in a process of its own, which [Start] begins before the
// sandbox stands. It answers over a socket that it inherits. It hands over an open file
// and never reads one, so no private key passes through it. A question names a file by
// its number among those of the start: no path comes over the socket, and nothing from
// the peer of a migration does.
package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/transport"
)

// Word is the first argument of a program that [Start] has begun: it has to call [Serve].
const Word = "broker"

// Sizes of messages. Each message is one packet.
const (
	maxQuestion = 1 << 10
	maxAnswer   = 4 << 10
	maxHost     = 255 // RFC 1035, section 2.3.4
	maxAddrs    = 16
	maxText     = 512
)

// begun is the ID of the first answer, which belongs to no question: the broker has begun.
const begun = 0

// startLimit bounds the wait for the first answer.
const startLimit = 10 * time.Second

// openLimit bounds the wait for a file: its file system may hang.
const openLimit = 2 * time.Second

// question is for a host, or else for a file.
type question struct {
	ID   uint32 `json:"id"`
	Host string `json:"host,omitempty"`
	File int    `json:"file,omitempty"`
}

// answer has an open file with it, or addresses, or why not.
type answer struct {
	ID        uint32        `json:"id"`
	Addrs     []netip.Addr  `json:"addrs,omitempty"`
	Errno     syscall.Errno `json:"errno,omitempty"`      // of a file
	NoAddress bool          `json:"no_address,omitempty"` // of a host
	Error     string        `json:"error,omitempty"`

	file *os.File
}

// Broker asks the process that [Start] has begun. Its methods may be called by several
// goroutines at once.
type Broker struct {
	files []string
	conn  *net.UnixConn
	cmd   *exec.Cmd
	ended chan struct{}

	mu      sync.Mutex
	last    uint32
	waiting map[uint32]chan answer // nil once the process has ended
}

// closeLimit bounds the wait for the end of the process, which has nothing left to do. A
// program with the race detector sleeps for a second before it ends.
const closeLimit = 5 * time.Second

var errEnded = errors.New("the process that reads files again and looks names up has ended")

// Start begins a broker for some files, and for host names if hosts is set, and waits until
// that is in its own sandbox. It has to come before that of this process.
func Start(files []string, hosts bool) (*Broker, error) {
	ours, theirs, err := pair()
	if err != nil {
		return nil, fmt.Errorf("broker: %w", err)
	}
	defer theirs.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = append([]string{os.Args[0], Word, strconv.FormatBool(hosts)}, files...)
	cmd.Env = []string{} // it needs none, and ours may hold secrets
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = append([]*os.File{theirs}, closed()...)
	capability := noCapability
	if len(files) > 0 {
		capability = unix.CAP_DAC_READ_SEARCH
	}
	if err := startWith(capability, cmd); err != nil {
		ours.Close()
		return nil, fmt.Errorf("broker: %w", err)
	}
	ready := make(chan answer, 1)
	b := &Broker{files: slices.Clone(files), conn: ours, cmd: cmd, ended: make(chan struct{}), waiting: map[uint32]chan answer{begun: ready}}
	go b.receive() // Close ends it, or the end of the process
	select {
	case _, ok := <-ready:
		if ok {
			return b, nil
		}
		err = errEnded
	case <-time.After(startLimit):
		err = fmt.Errorf("it has not begun for %v", startLimit)
	}
	b.Close()
	return nil, fmt.Errorf("broker: %w", err)
}

// pair makes a connection that keeps messages apart. No program inherits its ends, except
// the broker, which gets one.
func pair() (ours *net.UnixConn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	theirs = os.NewFile(uintptr(fds[1]), "broker")
	if ours, err = connection(fds[0]); err != nil {
		theirs.Close()
	}
	return ours, theirs, err
}

// connection owns the descriptor.
func connection(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "broker")
	defer f.Close() // FileConn has its own
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		return nil, errors.New("the descriptor is no unix socket")
	}
	return unixConn, nil
}

// closed is a nil file for each descriptor behind the socket's that the broker would
// inherit: the broker must not hold a device open, which is in use until its last holder
// closes it.
func closed() []*os.File {
	most := 3
	names, _ := os.ReadDir("/proc/self/fd")
	for _, name := range names {
		n, err := strconv.Atoi(name.Name())
		if err != nil {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(n), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			most = max(most, n)
		}
	}
	return make([]*os.File, most-3) // the new process closes the descriptor of a nil file (os.ProcAttr)
}

// noCapability is the number of none.
const noCapability = -1

// startWith starts a process that can have one capability, and no other. execve limits the
// capabilities of a process to its bounding set, which each thread has for itself
// (capabilities(7)). So a thread of its own gives the others up. That thread ends with the
// goroutine, which never unlocks it.
func startWith(capability int, cmd *exec.Cmd) error {
	started := make(chan error)
	go func() { // ends by itself
		runtime.LockOSThread()
		_ = unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
		var now [2]unix.CapUserData
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		if unix.Capget(&header, &now[0]) == nil {
			now[0].Inheritable, now[1].Inheritable = 0, 0
			_ = unix.Capset(&header, &now[0])
		}
		for c := range unix.CAP_LAST_CAP + 1 {
			if c != capability {
				_ = unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0) // without CAP_SETPCAP there is little to drop
			}
		}
		started <- cmd.Start()
	}()
	return <-started
}

// receive delivers each answer to its question.
func (b *Broker) receive() {
	defer close(b.ended)
	buf, oob := make([]byte, maxAnswer), make([]byte, unix.CmsgSpace(4))
	for {
		n, oobn, flags, _, err := b.conn.ReadMsgUnix(buf, oob)
		var a answer
		if err == nil {
			a.file = received(oob[:oobn])
			if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 || json.Unmarshal(buf[:n], &a) != nil {
				err = errors.New("not an answer")
			}
		}
		if err != nil {
			a.close()
			break
		}
		b.mu.Lock()
		wait := b.waiting[a.ID]
		delete(b.waiting, a.ID)
		b.mu.Unlock()
		if wait == nil { // the asker has stopped waiting
			a.close()
			continue
		}
		wait <- a
	}
	b.conn.Close()
	b.mu.Lock()
	for _, wait := range b.waiting {
		close(wait)
	}
	b.waiting = nil
	b.mu.Unlock()
	_ = b.cmd.Wait()
}

// received is the open file that came with a message, nil if none did.
func received(oob []byte) *os.File {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) == 0 {
		return nil
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) == 0 {
		return nil
	}
	return os.NewFile(uintptr(fds[0]), "broker")
}

func (a answer) close() {
	if a.file != nil {
		a.file.Close()
	}
}

// ask waits for an answer until ctx ends.
func (b *Broker) ask(ctx context.Context, q question) (answer, error) {
	wait := make(chan answer, 1)
	b.mu.Lock()
	if b.waiting == nil {
		b.mu.Unlock()
		return answer{}, errEnded
	}
	b.last++
	q.ID = b.last
	b.waiting[q.ID] = wait
	b.mu.Unlock()
	text, err := json.Marshal(q)
	if err == nil {
		_, err = b.conn.Write(text)
	}
	if err != nil {
		return answer{}, b.giveUp(q.ID, wait, errEnded)
	}
	select {
	case a, ok := <-wait:
		if !ok {
			return answer{}, errEnded
		}
		return a, nil
	case <-ctx.Done():
		return answer{}, b.giveUp(q.ID, wait, context.Cause(ctx))
	}
}

// giveUp drops the answer to a question, which may have come by now.
func (b *Broker) giveUp(id uint32, wait chan answer, why error) error {
	b.mu.Lock()
	delete(b.waiting, id)
	b.mu.Unlock()
	select {
	case a := <-wait:
		a.close()
	default:
	}
	return why
}

// Lookup is a [transport.LookupFunc].
func (b *Broker) Lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if host == "" || len(host) > maxHost {
		return nil, fmt.Errorf("%w: a host name has 1 to %d characters", transport.ErrNoAddress, maxHost)
	}
	a, err := b.ask(ctx, question{Host: host})
	switch {
	case err != nil:
		return nil, err
	case a.NoAddress:
		return nil, fmt.Errorf("%w: %s", transport.ErrNoAddress, a.Error)
	case a.Error != "":
		return nil, errors.New(a.Error)
	}
	return a.Addrs, nil
}

// Open opens one of the files of [Start] for reading.
func (b *Broker) Open(path string) (*os.File, error) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), openLimit, fmt.Errorf("no answer for %v", openLimit))
	defer cancel()
	i := slices.Index(b.files, path)
	err := fs.ErrPermission
	var a answer
	if i >= 0 {
		a, err = b.ask(ctx, question{File: i})
	}
	switch {
	case err != nil:
	case a.Errno != 0:
		err = a.Errno
	case a.file == nil:
		err = errors.New("no file came with the answer")
	default:
		return a.file, nil
	}
	return nil, &fs.PathError{Op: "open", Path: path, Err: err}
}

// PID is that of the process.
func (b *Broker) PID() int { return b.cmd.Process.Pid }

// Close ends the process, and waits for its end, for a bounded time.
func (b *Broker) Close() {
	b.conn.Close()
	select {
	case <-b.ended:
	case <-time.After(closeLimit):
		_ = b.cmd.Process.Kill() // which the sandbox of this process may not allow
		select {
		case <-b.ended:
		case <-time.After(closeLimit): // it ends with the socket, once what it waits for has answered
		}
	}
}

// readable are the directories below which a broker may read. A directory can be replaced
// by rename as well, so for each file it is the one above its own, unless that is the root.
// A link counts for itself and for the file that it leads to.
func readable(files []string, hosts bool) (dirs []string) {
	if hosts {
		files = append(slices.Clone(files), "/etc/hosts", "/etc/resolv.conf", "/etc/nsswitch.conf")
	}
	for _, path := range files {
		all := []string{path}
		if target, err := filepath.EvalSymlinks(path); err == nil {
			all = append(all, target)
		}
		for _, path := range all {
			whole, err := filepath.Abs(path)
			if err != nil {
				continue
			}
			dir := filepath.Dir(whole)
			if above := filepath.Dir(dir); above != "/" {
				dir = above
			}
			if !slices.Contains(dirs, dir) {
				dirs = append(dirs, dir)
			}
		}
	}
	return dirs
}
