//go:build !failpoints

package failpoint

// Reach is where something may happen before what follows. The point's name is
// made of the side, of when ("on", "do", "did"), and of an event, an action or a
// word.
func Reach(side, when string, what any) {}

// Spoil is where one bit of the data may be turned over.
func Spoil(point string, data []byte) {}
