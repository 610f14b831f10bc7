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
//   - OWNER: the devices are the side's own, as without a journal. But see Entry.Sole.
//   - NONE: no attempt was ever opened; the peer does not know of the journal.
//   - DONE at the source: the destination runs, and has a record of that itself.
//   - DONE at the destination: the source knows that the destination runs.
//   - ABORTED: the attempt never runs here. That stays true without the record: a late COMMIT
//     names this journal, and a new one has another id. But see answers.
//
// All other records stay at any age:
//
//   - OPEN is work for the next process: it resumes a device, or resets it.
//   - COMMIT is a source in doubt.
//   - READY is a complete copy, maybe the only one, that a COMMIT may still name. At the
//     source, RESUME_FAILED and an OWNER that is Sole stand for such a copy.
//   - ACCEPT and RUNNING are the only proof that the devices run here. A source in doubt asks
//     for it.
//   - FORCED is the decision of a person.
var ended = map[Role][]handoff.Record{
	Source:      {handoff.Owner, handoff.Done},
	Destination: {handoff.None, handoff.Aborted, handoff.Done},
}

// over reports whether neither side needs the records any more, and the last was written
// before a time.
func over(all []Record, before time.Time) bool {
	if len(all) == 0 {
		return true
	}
	last := all[len(all)-1]
	return slices.Contains(ended[last.Role], last.Record) && !last.Sole && !answers(all) && last.Time.Before(before)
}

// answers reports whether a source in doubt may still need the newest record as an answer:
// ABORTED of an attempt that was READY before. The answer of any other journal leaves the
// source in doubt for ever.
func answers(all []Record) bool {
	last := all[len(all)-1]
	wasReady := func(r Record) bool {
		return r.Record == handoff.Ready && r.Attempt.Epoch == last.Attempt.Epoch
	}
	return last.Record == handoff.Aborted && slices.ContainsFunc(all, wasReady)
}

// Prune removes the journals of a role in a directory whose migrations ended longer than keep
// ago, and files that are no journals yet. A journal that another process has open stays, and
// so does one that cannot be read. Prune returns the paths that it removed, and continues
// after an error. A directory that does not exist counts as empty.
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
