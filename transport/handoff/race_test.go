//go:build race

package handoff

// The explorer is one goroutine: the race detector has nothing to find in it
// and makes it ten times slower.
const raceEnabled = true
