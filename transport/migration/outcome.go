package migration

// Outcome is how a migration ended. It says which side may run.
type Outcome uint8

// The outcomes.
const (
	Pending    Outcome = iota // not ended
	Committed                 // the destination runs, the source never will
	Aborted                   // the source may run, the destination never will
	InDoubt                   // neither side may run before the other was asked
	NeedsReset                // a device could not be resumed or reset; see the fault
)

// String is the outcome as in the event done.
func (o Outcome) String() string {
	return [...]string{"pending", "committed", "aborted", "in-doubt", "needs-reset"}[o]
}
