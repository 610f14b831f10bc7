package record

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
)

// Host describes where and how figures were measured.
type Host struct {
	Command string `json:"command"`
	CPU     string `json:"cpu"`
	Cores   int    `json:"cores"`
	Kernel  string `json:"kernel"`
	Go      string `json:"go"`
	Date    string `json:"date"`
}

// ThisHost describes the host of this program, and its command line.
func ThisHost(command string) Host {
	return Host{
		Command: strings.TrimSpace(command), CPU: cpu(), Cores: runtime.NumCPU(), Kernel: kernel(),
		Go: runtime.Version(), Date: time.Now().UTC().Format(time.DateOnly),
	}
}

// Lines are the header of a table.
func (h Host) Lines() string {
	return fmt.Sprintf("command: %s\ncpu:     %s, %d cores\nsystem:  %s, %s\ndate:    %s\n",
		h.Command, h.CPU, h.Cores, h.Kernel, h.Go, h.Date)
}

func cpu() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func kernel() string {
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return runtime.GOOS
	}
	return "Linux " + strings.TrimSpace(string(release))
}
