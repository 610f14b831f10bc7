// Package sim has simulated devices. Each profile behaves towards its owner as
// its in-tree driver does, from the 60 bytes of mtty to the 100 GB of a virtual
// GPU. A simulated guest dirties the state. Options set rates and faults.
//
// A device's state consists of blocks. The device stores only the generation
// number of each block, and computes the content from seed, block and
// generation. So a device of any size is cheap, and its stream determines every
// byte that follows: the destination checks each byte that is written, and
// [Device.Verify] reports whether the destination has the source's state.
//
// A device ends with its process, unless [Options.Keep] names a file that
// persists it.
//
// The bytes depend only on the options, the calls and their times. The clock is
// that of package time. The package has no goroutines, and waits on channels and
// timers, so devices work in testing/synctest bubbles.
package sim
