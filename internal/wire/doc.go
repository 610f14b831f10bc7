// Package wire has the messages and frames that the two engines exchange, and the memory for
// chunks.
//
// A migration has one control lane, on which [Control] exchanges [Message]s, and one or more
// data lanes, which carry [Chunk]s in frames. Every lane begins with a [Preamble], which names
// the migration of the lane. transport/PROTOCOL.md specifies the formats.
//
// Chunks are in an [Arena] of fixed size. A chunk has exactly one owner, which passes it on or
// releases it. In this package a device is only a number.
package wire
