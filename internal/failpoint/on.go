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

// point is what is to happen at one place.
type point struct {
	deed string
	left int // how often it is passed before
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
		name, deed, ok := strings.Cut(one, "=")
		deed, count, counted := strings.Cut(deed, "@")
		n := 1
		var err error
		if counted {
			n, err = strconv.Atoi(count)
		}
		if !ok || err != nil || n < 1 || check(deed) != nil {
			panic(fmt.Sprintf("MIGPIPE_FAILPOINTS: %q is not POINT=kill|stop|sleep:TIME|flip[@N]", one))
		}
		all[name] = &point{deed, n - 1}
	}
	return all
}

func check(deed string) error {
	switch deed {
	case "kill", "stop", "flip":
		return nil
	}
	_, err := nap(deed)
	return err
}

func nap(deed string) (time.Duration, error) {
	text, _ := strings.CutPrefix(deed, "sleep:")
	return time.ParseDuration(text)
}

// due is the deed of a point that is reached, "" if there is none now.
func due(name string) string {
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
	return p.deed
}

// Reach is where something may happen before what follows.
func Reach(side, when string, what any) {
	if len(points) == 0 {
		return
	}
	switch deed := due(side + "." + when + "." + name(what)); deed {
	case "":
	case "kill":
		unix.Kill(os.Getpid(), unix.SIGKILL)
		select {}
	case "stop":
		runtime.LockOSThread() // a signal to this very thread comes before the call returns
		unix.Tgkill(os.Getpid(), unix.Gettid(), unix.SIGSTOP)
		runtime.UnlockOSThread()
	default:
		t, _ := nap(deed)
		time.Sleep(t)
	}
}

// name is a word, or that of a type, in lower case; actions with a subject say it.
func name(what any) string {
	switch w := what.(type) {
	case string:
		return w
	case fmt.Stringer:
		return strings.ToLower(w.String())
	}
	t := fmt.Sprintf("%T", what)
	return strings.ToLower(t[strings.LastIndex(t, ".")+1:])
}

// Spoil is where one bit of the data may be turned over.
func Spoil(point string, data []byte) {
	if len(data) > 0 && due(point) == "flip" {
		data[len(data)/2] ^= 1
	}
}
