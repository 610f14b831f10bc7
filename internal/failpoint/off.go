//go:build !failpoints

package failpoint

// Reach marks a point, at which the program may be stopped or killed. The point's
// name consists of the side, of when ("on", "do", "did"), and of an event, an action
// or a word.
func Reach(side, when string, what any) {}

// Spoil marks a point at which one bit of the data may be inverted.
func Spoil(point string, data []byte) {}
