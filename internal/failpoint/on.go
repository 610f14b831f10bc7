//go:build failpoints

package failpoint

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// point is the action at a point.
type point struct {
	action string
	left   int // how often the program passes the point before
}

var (
	mu     sync.Mutex // guards the counts
	points = parse(os.Getenv("MIGPIPE_FAILPOINTS"))
)

func parse(spec string) map[string]*point {
	all := map[string]*point{}
	for _, one := range strings.Split(spec, ";") {
		if one == "" {
			continue
		}
		name, action, ok := strings.Cut(one, "=")
		action, count, counted := strings.Cut(action, "@")
		n := 1
		var err error
		if counted {
			n, err = strconv.Atoi(count)
		}
		if !ok || err != nil || n < 1 || checkAction(action) != nil {
			panic(fmt.Sprintf("MIGPIPE_FAILPOINTS: %q is not POINT=kill|stop|sleep:TIME|flip[@N]", one))
		}
		all[name] = &point{action, n - 1}
	}
	return all
}

func checkAction(action string) error {
	switch action {
	case "kill", "stop", "flip":
		return nil
	}
	_, err := parseSleep(action)
	return err
}

func parseSleep(action string) (time.Duration, error) {
	text, _ := strings.CutPrefix(action, "sleep:")
	return time.ParseDuration(text)
}

// dueAction counts that a point is reached. It returns the action, "" if none is due.
func dueAction(name string) string {
	mu.Lock()
	defer mu.Unlock()
	p := points[name]
	if p == nil {
		return ""
	}
	p.left--
	if p.left != -1 {
		return ""
	}
	return p.action
}

// Reach marks a point, at which the program may be stopped or killed.
func Reach(side, when string, what any) {
	if len(points) == 0 {
		return
	}
	switch action := dueAction(side + "." + when + "." + nameOf(what)); action {
	case "":
	case "kill":
		unix.Kill(os.Getpid(), unix.SIGKILL)
		select {}
	case "stop":
		runtime.LockOSThread() // a signal to this thread arrives before the call returns
		unix.Tgkill(os.Getpid(), unix.Gettid(), unix.SIGSTOP)
		runtime.UnlockOSThread()
	default:
		t, _ := parseSleep(action)
		time.Sleep(t)
	}
}

// nameOf returns what as a word in lower case: the string, the result of String, or
// the name of the type.
func nameOf(what any) string {
	switch w := what.(type) {
	case string:
		return w
	case fmt.Stringer:
		return strings.ToLower(w.String())
	}
	t := fmt.Sprintf("%T", what)
	return strings.ToLower(t[strings.LastIndex(t, ".")+1:])
}

// Spoil marks a point at which one bit of the data may be inverted.
func Spoil(point string, data []byte) {
	if len(data) > 0 && dueAction(point) == "flip" {
		data[len(data)/2] ^= 1
	}
}
