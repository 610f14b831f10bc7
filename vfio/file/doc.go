// Package file turns files into devices.
//
// A [Source] is a file whose content is a stream of STOP_COPY. A [Destination] turns
// the stream of RESUMING into a file. The file of a Destination that was opened by its
// path has no name before the commit: RESUMING -> STOP makes the data durable,
// STOP -> RUNNING gives the file its name. Any other end of the session removes
// the data.
//
// The complete state of a Destination outlives process and host if [Destination.Persist] has begun its
// session. Until the commit its file has the hidden name .NAME.ID.resumable in NAME's directory,
// where ID is the migration's id. The process that uses the file locks it (flock). The extended
// attribute user.migpipe.resume records that the state is complete. The commit renames the file,
// and [Destination.Remove] then removes the attribute. Only Reset, Remove and a new session of the same
// ID remove the file. It is as secret as NAME. A user may remove it when the migration will not
// continue.
//
// Persist needs a file system with user attributes: ext4, XFS, Btrfs, NFS 4.2 and, since
// Linux 6.6, tmpfs. On others it fails with errors.ErrUnsupported. It also does for a Destination of
// an fd, since a later process could not find the file by its name.
//
// Holes stay holes. A Source finds the holes of a regular file (lseek(2), SEEK_HOLE) and
// returns them as zeros that need no read ([vfio.HoleReader]). A Destination leaves a hole if the file
// is empty from the start of its session on, and otherwise writes zeros.
//
// Pipes, sockets and character devices work too (see [FromFD] and [ToFD]), with two limits: they
// cannot start over, and bytes that were written are visible at once.
package file
