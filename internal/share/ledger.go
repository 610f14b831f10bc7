package share

import (
	"math"
	"slices"
)

// Ledger has the credit of each device, in chunks. It promises all memory all the
// time, since memory that is not promised is of no use. When a chunk was applied,
// the Ledger promises its memory to the device that is furthest below its share. It
// revokes no promise, except those beyond an END, which the source cannot use.
type Ledger struct {
	pool     *Pool
	needs    []Need
	accounts []account
	due      bool
}

type account struct {
	promised   uint64 // credit for all chunks with numbers below this
	end        uint64 // chunks of the stream, when known
	unreported int    // chunks promised since the last report to the source
}

// NewLedger returns a Ledger that promises a number of chunks, at least Floor for each device.
func NewLedger(chunks int, needs []Need) *Ledger {
	l := &Ledger{pool: NewPool(chunks, needs), needs: slices.Clone(needs), accounts: make([]account, len(needs))}
	for i := range l.accounts {
		l.accounts[i].end = math.MaxUint64
		l.pool.Want(i, true)
	}
	l.promiseFree()
	l.MarkReported()
	return l
}

// Promised returns the credit of a device: it may send chunks with numbers below the result.
func (l *Ledger) Promised(device int) uint64 { return l.accounts[device].promised }

// Divide computes the shares again from new estimates.
func (l *Ledger) Divide(needs []Need) {
	for i := range needs {
		done := l.needs[i].Done
		l.needs[i] = needs[i]
		l.needs[i].Done = done
	}
	l.pool.Divide(l.needs)
}

// Applied frees the memory of a chunk that was written to the device, and promises it.
func (l *Ledger) Applied(device int) {
	l.pool.Return(device, 1)
	l.promiseFree()
}

// End revokes the credit beyond the end of a stream of chunks chunks. Chunks with
// numbers below used have been received, even if END contradicts that.
func (l *Ledger) End(device int, chunks, used uint64) {
	a := &l.accounts[device]
	a.end = max(chunks, used)
	if a.promised < a.end {
		return
	}
	l.pool.Return(device, int(a.promised-a.end))
	a.promised = a.end
	l.closeAccount(device)
	l.promiseFree()
}

// Due reports whether a report to the source is due: since the last one, a device
// was promised an eighth of the chunks that it may send.
func (l *Ledger) Due() bool { return l.due }

// MarkReported records that all promises are reported to the source.
func (l *Ledger) MarkReported() {
	l.due = false
	for i := range l.accounts {
		l.accounts[i].unreported = 0
	}
}

// promiseFree promises all free memory.
func (l *Ledger) promiseFree() {
	for i, ok := l.pool.Next(); ok; i, ok = l.pool.Next() {
		a := &l.accounts[i]
		a.promised++
		a.unreported++
		l.due = l.due || a.unreported*8 >= l.pool.Held(i)
		if a.promised == a.end {
			l.closeAccount(i)
		}
	}
}

// closeAccount ends a device's part in the division, since its whole stream is
// promised.
func (l *Ledger) closeAccount(device int) {
	l.needs[device].Done = true
	l.pool.Want(device, false)
	l.pool.Divide(l.needs)
}
