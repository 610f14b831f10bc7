// Package failpoint lets a test stop or kill a program at a named point.
//
// Only a program that is built with -tags failpoints has the points. In other programs
// the functions are empty, which a test checks for the shipped programs.
//
// The environment variable MIGPIPE_FAILPOINTS sets the actions, as in
//
//	source.did.append.commit=kill;destination.did.write=stop@3
//
// Its syntax is POINT=ACTION[@N]: the action happens when the program reaches the point
// for the N-th time (default: 1). The actions are:
//
//	kill        the process sends itself SIGKILL
//	stop        the process sends itself SIGSTOP
//	sleep:TIME  the goroutine sleeps
//	flip        one bit of the data is inverted, at points with data
//
// A point is SIDE.WHEN.WHAT in lower case. The hand-off of both sides has three kinds:
// "on" an event, "do" before an action and "did" after it, as in source.on.ready,
// source.do.send.commit and destination.did.append.accept. Further points are:
//
//	source.did.read        a chunk was read from a device
//	source.did.stop        every device is in STOP_COPY
//	destination.did.write  a chunk was written to a device
//	destination.did.sync   the written data is durable; before it, destination.do.sync
//	destination.decoded    a chunk's bytes were received but not yet checked (flip)
package failpoint
