package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/transport/handoff"
)

// TimesFile is the name of the file with the times of the last run's steps.
const TimesFile = "step-times.json"

// maxTimes bounds that file, in bytes.
const maxTimes = 4 << 10

// longestStep is the longest time that the file is believed to mean.
const longestStep = time.Hour

// Times is a handoff.StepTimes in a file beside the journals: an object with the time
// of each step, as "512ms". Both sides may have the same one. Nothing but a
// prediction depends on it: a file that says nothing of use counts as none.
type Times struct{ path string }

var _ handoff.StepTimes = (*Times)(nil)

// NewTimes is the file in a directory with journals. It need not be there.
func NewTimes(dir string) *Times { return &Times{filepath.Join(dir, TimesFile)} }

// Last is the time of a step as the file has it.
func (t *Times) Last(step string) (took time.Duration, ok bool) {
	all, err := t.read()
	if err != nil {
		return 0, false
	}
	took, err = time.ParseDuration(all[step])
	return took, err == nil && took > 0 && took <= longestStep
}

// Keep replaces the times of steps that have run; the others stay.
func (t *Times) Keep(took map[string]time.Duration) error {
	all, err := t.read()
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errNoTimes) {
		return err
	}
	if all == nil {
		all = map[string]string{}
	}
	for step, d := range took {
		all[step] = d.String()
	}
	return t.write(all)
}

// errNoTimes says that a file is no object of times.
var errNoTimes = errors.New("no times of steps")

func (t *Times) read() (map[string]string, error) {
	f, err := os.OpenFile(t.path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("%s: it is no regular file", t.path), err)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxTimes+1))
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	if len(b) > maxTimes || json.Unmarshal(b, &all) != nil {
		return nil, fmt.Errorf("%s: %w", t.path, errNoTimes)
	}
	return all, nil
}

// write replaces the file as a whole. The file that a crash leaves has a fixed name: at most
// one is ever left, and the next write replaces it. Of two processes that write at once one
// may fail, or what both wrote counts as no times.
func (t *Times) write(all map[string]string) error {
	b, err := json.Marshal(all)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(filepath.Dir(t.path), "."+TimesFile+".new"), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), t.path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}
