// Package file turns files into devices.
//
// A [Source] is a file whose content is a stream of STOP_COPY, a [Sink] turns
// the stream of RESUMING into a file. The file of a Sink that was opened by its
// path has no name before the commit: RESUMING -> STOP makes the data durable,
// STOP -> RUNNING gives it its name, and whatever ends the session in any other
// way leaves nothing behind.
//
// Pipes, sockets and character devices work too (see [FromFD] and [ToFD]), with
// what they cannot do: they neither begin again nor hide what they were given.
package file
