package migration

// Outcome is how a migration ended, for those who must act on it.
type Outcome uint8

// The outcomes.
const (
	Pending    Outcome = iota // not ended
	Committed                 // the destination runs, the source never will
	Aborted                   // the source may run, the destination never will
	InDoubt                   // neither side may be started before the other was asked
	NeedsReset                // a device could not be brought back; see the fault
)

// String is the outcome as the done event spells it.
func (o Outcome) String() string {
	return [...]string{"pending", "committed", "aborted", "in-doubt", "needs-reset"}[o]
}
