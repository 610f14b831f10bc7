// Package wire is what the two engines say to each other, and the memory in which they hold it.
//
// A migration has one control lane, on which [Control] exchanges [Message]s, and one or more
// data lanes, on which [Chunk]s travel in frames. Every lane begins with a [Preamble], which
// says which migration the lane belongs to. transport/PROTOCOL.md specifies all of it.
//
// Chunks live in an [Arena] of fixed size. A chunk has exactly one owner, who hands it on or
// releases it. A device is a number in a frame here.
package wire
