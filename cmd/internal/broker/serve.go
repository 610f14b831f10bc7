package broker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/cmd/internal/sandbox"
	"github.com/migpipe/migpipe/transport"
)

// The socket is the first descriptor behind stderr.
const socket = 3

// lookupLimit bounds a lookup whose asker has stopped waiting.
const lookupLimit = 10 * time.Second

// maxAtOnce is how many questions are answered at once; further ones wait.
const maxAtOnce = 16

// Serve is the broker: it answers until the process that has begun it ends, and gives the
// exit code. args are those behind [Word].
func Serve(args []string) int {
	if err := serve(args); err != nil {
		fmt.Fprintln(os.Stderr, "broker:", err)
		return 1
	}
	return 0
}

func serve(args []string) error {
	// Who has begun this needs it until its own end, and a signal may be for all of a
	// service's processes. Its end closes the socket, however it comes.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	if len(args) == 0 {
		return errors.New("mig-send and mig-recv begin this themselves")
	}
	conn, err := connection(socket)
	if err != nil {
		return err
	}
	hosts, files := args[0] == "true", args[1:]
	net.DefaultResolver.PreferGo = true // libc would load code to look names up
	if err := sandbox.EnterReader(readable(files, hosts), hosts); err != nil {
		return err
	}
	send(conn, answer{ID: begun})
	buf, places := make([]byte, maxQuestion), make(chan struct{}, maxAtOnce)
	for {
		n, _, flags, _, err := conn.ReadMsgUnix(buf, nil)
		if errors.Is(err, io.EOF) {
			return nil // the answers under way end with the process
		}
		if err == nil && flags&unix.MSG_TRUNC != 0 {
			err = errors.New("a question is too long")
		}
		var q question
		if err == nil {
			q, err = parse(buf[:n], len(files), hosts)
		}
		if err != nil {
			return err
		}
		places <- struct{}{}
		go func() { // ends by itself, or with the process
			defer func() { <-places }()
			a := reply(q, files)
			defer a.close()
			a.ID = q.ID
			send(conn, a)
		}()
	}
}

// parse reads a question, which may be for one of some files, or for a host if hosts is set.
func parse(text []byte, files int, hosts bool) (q question, err error) {
	err = json.Unmarshal(text, &q)
	switch {
	case err != nil:
		return question{}, err
	case q.Host == "" && (q.File < 0 || q.File >= files), q.Host != "" && !hosts, len(q.Host) > maxHost:
		return question{}, errors.New("a question for something else")
	}
	return q, nil
}

func reply(q question, files []string) answer {
	if q.Host != "" {
		return lookUp(q.Host)
	}
	// Neither a FIFO nor a terminal may hold this up.
	f, err := os.OpenFile(files[q.File], os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		errno, _ := errors.AsType[syscall.Errno](err)
		return answer{Errno: cmp.Or(errno, syscall.EIO)}
	}
	return answer{file: f}
}

func lookUp(host string) (a answer) {
	ctx, cancel := context.WithTimeout(context.Background(), lookupLimit)
	defer cancel()
	addrs, err := transport.LookupHost(ctx, host)
	if err != nil {
		a.NoAddress, a.Error = errors.Is(err, transport.ErrNoAddress), err.Error()
		a.Error = strings.TrimPrefix(a.Error, transport.ErrNoAddress.Error()+": ")
		a.Error = strings.ToValidUTF8(a.Error[:min(len(a.Error), maxText)], "")
		return a
	}
	a.Addrs = addrs[:min(len(addrs), maxAddrs)]
	return a
}

// send sends an answer. Who does not hear it has ended.
func send(conn *net.UnixConn, a answer) {
	text, err := json.Marshal(a)
	if err != nil || len(text) > maxAnswer {
		return // neither can be, with the bounds above
	}
	var oob []byte
	if a.file != nil {
		oob = unix.UnixRights(int(a.file.Fd()))
	}
	_, _, _ = conn.WriteMsgUnix(text, oob, nil)
}
