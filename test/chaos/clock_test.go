package chaos

import (
	"cmp"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// jump is the step by which the wall clock jumps forward and back, five times a second.
const jump = time.Hour

// jumping builds the programs with a wall clock that jumps. The kernel has no name space
// for CLOCK_REALTIME, and static programs load no library. So the build replaces time.Now,
// from which all packages of a Go program get the time. Its monotonic reading stays.
func jumping(t *testing.T) string {
	t.Helper()
	bin, err := buildJumping()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

var buildJumping = sync.OnceValues(func() (string, error) {
	const now = "\tmono -= startNano\n"
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", err
	}
	dir, path := filepath.Join(shared.keys, "jumping"), filepath.Join(strings.TrimSpace(string(root)), "src", "time", "time.go")
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	spoilt := strings.Replace(string(text), now, now+"\tsec += [...]int64{0, 3600, 0, -3600}[mono/200_000_000%4]\n", 1)
	overlay, _ := json.Marshal(map[string]map[string]string{"Replace": {path: filepath.Join(dir, "time.go")}}) // strings
	err = cmp.Or(os.Mkdir(dir, 0o700),
		os.WriteFile(filepath.Join(dir, "time.go"), []byte(spoilt), 0o600),
		os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o600))
	if err == nil {
		err = build(dir, "-overlay", filepath.Join(dir, "overlay.json"))
	}
	return dir, err
})

// clockJumped: the programs have seen the wall clock jump.
func clockJumped(w *cluster, _ evidence) {
	w.t.Helper()
	for s, p := range w.both() {
		least, most := p.told()[0].Time, p.told()[0].Time
		for _, e := range p.told() {
			if e.Time.Before(least) {
				least = e.Time
			}
			if e.Time.After(most) {
				most = e.Time
			}
		}
		if most.Sub(least) < jump/2 {
			w.t.Errorf("the wall clock of %v has not jumped: %v to %v", side(s), least, most)
		}
	}
}
