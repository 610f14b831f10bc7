// Package file turns files into devices.
//
// A [Source] is a file whose content is a stream of STOP_COPY, a [Sink] turns
// the stream of RESUMING into a file. The file of a Sink that was opened by its
// path has no name before the commit: RESUMING -> STOP makes the data durable,
// STOP -> RUNNING gives it its name, and whatever ends the session in any other
// way leaves nothing behind.
//
// The complete state of a Sink outlives process and host if [Sink.Persist] has begun its
// session. Its file then has the hidden name .NAME.ID.resumable beside the NAME to be, where
// ID is the migration's, and the process that works on it has it locked (flock). Its extended
// attribute user.migpipe.resume says that the state is complete. The commit renames the file,
// and [Sink.Remove] takes the attribute off then. Reset, Remove and a new session of the same
// ID remove the file; nothing else does. It is as secret as NAME would be, and may be removed
// by hand when the migration will not continue.
//
// That takes a file system with user attributes, as ext4, XFS, Btrfs, NFS 4.2 and,
// since Linux 6.6, tmpfs are: on others Persist fails with errors.ErrUnsupported. So it does
// for every fd, which no later process could find by its name.
//
// Holes stay holes. A Source finds those of a regular file (lseek(2), SEEK_HOLE) and gives
// them as zeros that need no read ([vfio.HoleReader]). A Sink leaves one where nothing is
// stored from the beginning of its session on, and writes zeros elsewhere.
//
// Pipes, sockets and character devices work too (see [FromFD] and [ToFD]), with
// what they cannot do: they neither begin again nor hide what they were given.
package file
