// Package resident samples how much of a process is in RAM, over time, and draws it.
package resident

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"
)

// Sample is a process's memory at a time.
type Sample struct {
	Seconds float64 `json:"s"`
	Bytes   int64   `json:"rss_bytes"`
}

// Watch samples a process now, again and again, and when it is stopped. stop returns the
// samples. Unreadable samples, as of a process that has ended, are left out.
func Watch(pid int, every time.Duration) (stop func() []Sample) {
	began, done, seen := time.Now(), make(chan struct{}), make(chan []Sample)
	var list []Sample
	look := func() {
		if n, err := of(pid); err == nil && n > 0 {
			list = append(list, Sample{time.Since(began).Seconds(), n})
		}
	}
	look()
	go func() { // stop ends it
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				look()
			case <-done:
				look()
				seen <- list
				return
			}
		}
	}()
	return func() []Sample {
		close(done)
		return <-seen
	}
}

// of is the second number of /proc/PID/statm, in pages.
func of(pid int) (int64, error) {
	path := fmt.Sprintf("/proc/%d/statm", pid)
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(text)
	if len(fields) < 2 {
		return 0, fmt.Errorf("%s is %q", path, text)
	}
	pages, err := strconv.ParseInt(string(fields[1]), 10, 64)
	return pages * int64(os.Getpagesize()), err
}
