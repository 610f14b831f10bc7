// Package transport carries the chunks of device streams, and the conversation
// about them, between the two hosts of a migration. It knows nothing of
// devices: a device here is a number in a frame.
//
// A migration has one control lane, on which [Control] exchanges [Message]s,
// and one or more data lanes, on which [Chunk]s travel in frames. Every lane
// begins with a [Preamble] that says which migration it belongs to. Lanes come
// from a carrier: [QUICDialer] and [ListenQUIC], [TLSDialer] and [ListenTLS]
// ([EitherDialer] and [ListenEither] for both), [UnixDialer] and [ListenUnix], or the
// in-memory [Pipe]. PROTOCOL.md beside this code specifies the wire.
//
// Chunks live in an [Arena] of fixed size. A chunk has exactly one owner, who
// hands it on or releases it.
package transport
