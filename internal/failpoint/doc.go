// Package failpoint lets a test stop or kill a program at a named point.
//
// Only a program that is built with -tags failpoints has the points. In any other
// one the functions are empty, and a test holds the shipped programs against that.
//
// The environment variable MIGPIPE_FAILPOINTS says what happens where, as in
//
//	source.did.append.commit=kill;destination.did.write=stop@3
//
// that is POINT=DEED[@N]: the N-th time that the point is reached, the first if
// there is no N. The deeds are kill (SIGKILL) and stop (SIGSTOP), of the process by
// itself; sleep:TIME of the goroutine; and flip, which is for points with data.
// Points are SIDE.WHEN.WHAT in lower case. The hand-off of both sides has three
// kinds: "on" an event, "do" before an action and "did" after it, as in
// source.on.ready, source.do.send.commit and destination.did.append.accept. Beside
// those there are
//
//	source.did.read        a chunk was read from a device
//	source.did.stop        every device is in STOP_COPY
//	destination.did.write  a chunk was written to a device
//	destination.did.sync   what was written is durable; before it, destination.do.sync
//	destination.decoded    a chunk's bytes are there and not checked yet (flip)
package failpoint
