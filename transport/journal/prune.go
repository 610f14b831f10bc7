package journal

import (
	"errors"
	"io/fs"
	"slices"
	"time"

	"github.com/migpipe/migpipe/internal/safefile"
	"github.com/migpipe/migpipe/transport/handoff"
)

// ended are the records after which a side has nothing more to do or to answer.
//
//   - OWNER says what a side without a journal is: the devices are its own. But see
//     Entry.Sole.
//   - NONE says that nothing was ever opened; the peer has not heard of the journal.
//   - DONE says, at the source, that the destination runs, which has a record of that
//     itself; and at the destination that the source knows it.
//   - ABORTED says that an attempt never runs here. Without it that stays true: a
//     late COMMIT names this journal, and a new one has another id. But see answers.
//
// All others stay, however old. OPEN of either side is work for who starts again: a
// device is to be taken back, or reset. COMMIT is a source in doubt. READY is a whole
// copy, maybe the only one, that a COMMIT may still name; RESUME_FAILED, and OWNER that
// is Sole, are the source's word for that. ACCEPT and RUNNING are
// the only proof that the devices run here, and what a source in doubt asks for. FORCED is what somebody
// has answered for.
var ended = map[Role][]handoff.Record{
	Source:      {handoff.Owner, handoff.Done},
	Destination: {handoff.None, handoff.Aborted, handoff.Done},
}

// over reports whether neither side needs these records any more, and the last was written
// before a time.
func over(all []Record, before time.Time) bool {
	if len(all) == 0 {
		return true
	}
	last := all[len(all)-1]
	return slices.Contains(ended[last.Role], last.Record) && !last.Sole && !answers(all) && last.Time.Before(before)
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
// longer than keep ago, and files that are no journal yet. A journal that another process
// has open stays, and so does one that cannot be read. It gives the paths that
// are gone, and goes on after an error. A folder that is not there is empty.
func Prune(dir string, role Role, keep time.Duration) (gone []string, err error) {
	for f, damaged := range Scan(dir, role) {
		switch {
		case f == nil && errors.Is(damaged, fs.ErrNotExist):
			return nil, nil
		case f == nil:
			return gone, errors.Join(err, damaged)
		case damaged != nil:
			continue
		}
		removed, failed := f.Prune(time.Now().Add(-keep))
		if removed {
			gone = append(gone, f.Path())
		}
		err = errors.Join(err, failed)
	}
	if len(gone) > 0 {
		err = errors.Join(err, safefile.SyncDir(dir))
	}
	return gone, err
}
