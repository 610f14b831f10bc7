package writer

import (
	"time"

	"github.com/migpipe/migpipe/internal/failpoint"
	"github.com/migpipe/migpipe/vfio"
)

// When what was written is made durable: when so much was, or nothing has come for so
// long. The source keeps what is not durable, in memory that may be less than this
// side's: then it waits, and this side has nothing to write.
const (
	syncMost = 8 << 20
	syncIdle = 10 * time.Millisecond
)

// keeper has what a loader has written outlive the process.
type keeper struct {
	stream vfio.Durable
	note   note   // whose digest is the loader's
	most   uint64 // bytes that may be written and not be durable
	synced func() // called when more is durable
	behind uint64 // bytes that are not
}

func newKeeper(s vfio.Durable, n note, memory int, synced func()) *keeper {
	return &keeper{stream: s, note: n, most: uint64(min(syncMost, memory/4)), synced: synced}
}

// idle is how long a loader may wait for the next chunk, 0 for ever.
func (k *keeper) idle() time.Duration {
	if k == nil || k.behind == 0 {
		return 0
	}
	return syncIdle
}

// wrote counts, and reports whether a sync is due.
func (k *keeper) wrote(n uint32) bool {
	if k == nil {
		return false
	}
	k.behind += uint64(n)
	return k.behind >= k.most
}

// sync makes durable what was written, and has the source told, which then forgets it.
func (l *loader) sync() error {
	k := l.keep
	if k == nil || k.behind == 0 {
		return nil
	}
	failpoint.Reach("destination", "do", "sync")
	b, err := k.note.encode()
	if err != nil {
		return err
	}
	began := time.Now()
	if err := k.stream.Sync(b); err != nil {
		return err
	}
	k.behind = 0
	l.merge.durable(time.Since(began))
	k.synced()
	failpoint.Reach("destination", "did", "sync")
	return nil
}
