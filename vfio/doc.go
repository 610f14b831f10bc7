// Package vfio speaks the kernel's VFIO device-migration protocol, version 2:
// devices, their migration states, and the stream (the data_fd) that a device
// yields while it is saved and consumes while it is resumed.
//
// Two interfaces carry everything: [Device] moves between [State]s, and
// [Stream] is the session's byte stream. [Open] and [FromFD] return kernel
// devices. Package vfio/sim has simulated devices that behave like the in-tree
// drivers. Package vfio/file turns files into devices. Package vfio/vfiotest is
// the suite that each of them passes.
//
// The files divide the work:
//   - next.go holds the pure rules of the state machine: which arcs a request
//     walks, which requests open a session, which are refused;
//   - uapi.go holds the uAPI's structures and numbers;
//   - sys_linux.go holds every raw system call. Nothing needs unsafe.
//
// The source of every rule is include/uapi/linux/vfio.h.
package vfio
