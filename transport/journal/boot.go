package journal

import (
	"encoding/hex"
	"os"
	"strings"
	"sync"
)

// BootID names one run of a host's kernel: the first bytes of the UUID that the kernel draws
// when it starts (random(4), boot_id). Zero means that it is not known.
type BootID [8]byte

// thisBoot is read once: a sandbox may refuse it later.
var thisBoot = sync.OnceValue(func() (id BootID) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err == nil {
		all, _ := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(string(text)), "-", ""))
		copy(id[:], all)
	}
	return id
})

// Rebooted implements [handoff.Lasting].
func (j *Journal) Rebooted() bool {
	then, now := j.all[len(j.all)-1].Boot, thisBoot()
	return then != now && then != (BootID{}) && now != (BootID{})
}
