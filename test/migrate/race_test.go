//go:build race

package migrate

// raceEnabled says that the race detector runs: everything takes several times
// as long.
const raceEnabled = true
