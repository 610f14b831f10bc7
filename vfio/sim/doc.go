// Package sim has simulated devices: each profile behaves towards its owner as
// its in-tree driver does, from the 60 bytes of mtty to the 100 GB of a virtual
// GPU, with a guest that dirties the state, rates, and faults on demand.
//
// A device's state is made of blocks, of which only the generation number is
// stored; their content is computed from seed, block and generation. So a
// device of any size is cheap, and its stream tells a destination what every
// byte of it has to be: the destination checks each byte that is written, and
// [Device.Verify] says in the end whether it has the state that the source had.
//
// A device ends with its process, unless [Options.Keep] names a file that keeps it
// for the next one.
//
// The bytes depend on nothing but the options, the calls and the times at which
// they are made. The clock is that of package time, nothing runs beside the
// caller, and waits are on channels and timers, so that devices work in
// testing/synctest bubbles.
package sim
