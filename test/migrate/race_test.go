//go:build race

package migrate

// raceEnabled is true if the race detector runs: everything lasts several times as long.
const raceEnabled = true
