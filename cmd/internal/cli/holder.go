package cli

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/transport"
)

// workedOn is why nobody can decide a migration yet: a program may still do so.
type workedOn struct {
	program string
	mig     transport.MigID
	pid     int // 0 where that is not known
}

func (w *workedOn) Error() string {
	return fmt.Sprintf("%s works on migration %v%s: it may yet hear from the other side", w.program, w.mig, w.process())
}

func (w *workedOn) process() string {
	if w.pid == 0 {
		return ""
	}
	return fmt.Sprintf(" (process %d)", w.pid)
}

func (w *workedOn) hint() string {
	if w.pid == 0 {
		return "end that process first, and keep its supervisor from starting another"
	}
	return fmt.Sprintf("end it first: kill %d, or systemctl stop its unit, which would start another", w.pid)
}

// holder is the process that has a journal, 0 if that cannot be found out (proc_locks(5)).
func holder(path string) int {
	var file unix.Stat_t
	locks, err := os.Open("/proc/locks")
	if err != nil || unix.Stat(path, &file) != nil {
		return 0
	}
	defer locks.Close()
	id := fmt.Sprintf("%02x:%02x:%d", unix.Major(uint64(file.Dev)), unix.Minor(uint64(file.Dev)), file.Ino)
	for lines := bufio.NewScanner(locks); lines.Scan(); {
		if f := strings.Fields(lines.Text()); len(f) > 5 && f[1] == "FLOCK" && f[5] == id {
			pid, _ := strconv.Atoi(f[4])
			return max(pid, 0)
		}
	}
	return 0
}
