package share

import (
	"math"
	"slices"
)

// Ledger is what the destination has promised to whom: credit, in chunks. All
// of its memory is promised all the time, because what is not promised speeds
// nobody up; so when a chunk was applied, its memory is promised anew, to the
// device that is furthest below its share. No promise is taken back, except
// those beyond an END, which nobody will use.
type Ledger struct {
	pool     *Pool
	needs    []Need
	accounts []account
	due      bool
}

type account struct {
	promised uint64 // chunks numbered below
	end      uint64 // chunks of the stream, once that is known
	fresh    int    // promised since the source was last told
}

// NewLedger promises so many chunks, which must be Floor for each device at least.
func NewLedger(chunks int, needs []Need) *Ledger {
	l := &Ledger{pool: NewPool(chunks, needs), needs: slices.Clone(needs), accounts: make([]account, len(needs))}
	for i := range l.accounts {
		l.accounts[i].end = math.MaxUint64
		l.pool.Want(i, true)
	}
	l.promise()
	l.Told()
	return l
}

// Promised is how far a device may send: chunks numbered below.
func (l *Ledger) Promised(device int) uint64 { return l.accounts[device].promised }

// Divide makes the shares anew, by new estimates.
func (l *Ledger) Divide(needs []Need) {
	for i := range needs {
		done := l.needs[i].Done
		l.needs[i] = needs[i]
		l.needs[i].Done = done
	}
	l.pool.Divide(l.needs)
}

// Applied takes back the memory of a chunk that the device has.
func (l *Ledger) Applied(device int) {
	l.pool.Return(device, 1)
	l.promise()
}

// End takes back what was promised beyond the end of a stream of so many
// chunks. Chunks numbered below used have come, whatever END says of them.
func (l *Ledger) End(device int, chunks, used uint64) {
	a := &l.accounts[device]
	a.end = max(chunks, used)
	if a.promised < a.end {
		return
	}
	l.pool.Return(device, int(a.promised-a.end))
	a.promised = a.end
	l.finish(device)
	l.promise()
}

// Due reports whether some device was promised an eighth of what it may send
// since the source was last told: then it is worth telling.
func (l *Ledger) Due() bool { return l.due }

// Told says that the source is being told of all promises.
func (l *Ledger) Told() {
	l.due = false
	for i := range l.accounts {
		l.accounts[i].fresh = 0
	}
}

// promise promises what is free.
func (l *Ledger) promise() {
	for i, ok := l.pool.Next(); ok; i, ok = l.pool.Next() {
		a := &l.accounts[i]
		a.promised++
		a.fresh++
		l.due = l.due || a.fresh*8 >= l.pool.Held(i)
		if a.promised == a.end {
			l.finish(i)
		}
	}
}

// finish ends a device's part in the division: all that it will ever send is
// promised.
func (l *Ledger) finish(device int) {
	l.needs[device].Done = true
	l.pool.Want(device, false)
	l.pool.Divide(l.needs)
}
