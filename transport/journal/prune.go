package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/transport/handoff"
)

// ended are the records after which a side has nothing more to do or to answer.
//
//   - OWNER says what a side without a journal is: the devices are its own.
//   - NONE says that nothing was ever opened; the peer has not heard of the journal.
//   - DONE says, at the source, that the destination runs, which has a record of that
//     itself; and at the destination that the source knows it.
//   - ABORTED says that an attempt never runs here. Without it that stays true: a
//     late COMMIT names this journal, and a new one has another id. But see answers.
//
// All others stay, however old. OPEN of either side is work for who starts again: a
// device is to be taken back, or reset. COMMIT is a source in doubt. READY is a whole
// copy, maybe the only one, that a COMMIT may still name. ACCEPT and RUNNING are
// the only proof that the devices run here, and what a source in doubt asks for. FORCED is what somebody
// has answered for.
var ended = map[Role][]handoff.Record{
	Source:      {handoff.Owner, handoff.Done},
	Destination: {handoff.None, handoff.Aborted, handoff.Done},
}

// over reports whether a journal with these records is of no use to anybody.
func over(all []Record) bool {
	last := all[len(all)-1]
	return slices.Contains(ended[last.Role], last.Record) && !answers(all)
}

// answers reports whether the newest record is one that a source in doubt may still
// need to hear: ABORTED of an attempt that was READY before. Any other answer than
// that of this journal leaves the source in doubt for ever.
func answers(all []Record) bool {
	last := all[len(all)-1]
	wasReady := func(r Record) bool {
		return r.Record == handoff.Ready && r.Attempt.Epoch == last.Attempt.Epoch
	}
	return last.Record == handoff.Aborted && slices.ContainsFunc(all, wasReady)
}

// Prune removes a role's journals in a folder whose migration has ended, and had
// longer than keep ago. A journal that another process has open stays, and so does
// one that cannot be read whole: nobody knows what it says. It gives the paths that
// are gone, and goes on after an error. A folder that is not there is empty.
//
// The age is by the wall clock. That it jumps can cost the record of an ended
// migration, which nothing depends on, and no other.
func Prune(dir string, role Role, keep time.Duration) (gone []string, err error) {
	paths, err := List(dir, role)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, path := range paths {
		removed, failed := prune(path, role, time.Now().Add(-keep))
		if removed {
			gone = append(gone, path)
		}
		err = errors.Join(err, failed)
	}
	if len(gone) > 0 {
		err = errors.Join(err, syncDir(dir))
	}
	return gone, err
}

// prune removes a journal that ended before a time. The name goes while the file is
// locked: whoever has opened it meanwhile finds, once the lock is his, a file
// without a name.
func prune(path string, role Role, before time.Time) (removed bool, _ error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return false, nil // gone, or not one that this program would write
	}
	defer f.Close()
	if err := lock(f); err != nil {
		return false, nil // somebody works on it
	}
	all, _, err := read(f)
	if err != nil || len(all) == 0 || filepath.Base(path) != Name(role, all[0].Attempt.Mig) || all[0].Role != role {
		return false, nil // nobody knows what it says
	}
	if !over(all) || !all[len(all)-1].Time.Before(before) {
		return false, nil
	}
	if err := os.Remove(path); err != nil {
		return false, fmt.Errorf("remove an old journal: %w", err)
	}
	return true, nil
}
