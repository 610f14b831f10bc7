// Package vfio speaks the kernel's VFIO device-migration protocol, version 2:
// devices, their migration states, and the stream (the data_fd) that a device
// yields while it is saved and consumes while it is resumed.
//
// Two small interfaces carry everything: [Device] moves between [State]s, and
// [Stream] is the session's byte stream. [Open] and [FromFD] give kernel
// devices; package vfio/sim has simulated ones that behave like the in-tree
// drivers, package vfio/file turns files into devices, and package
// vfio/vfiotest is the suite that each of them passes.
//
// The pure rules of the state machine (which arcs a request walks, which
// requests open a session, which are refused) are in next.go; the uAPI's
// structures and numbers are in uapi.go; every raw system call is in
// sys_linux.go; nothing needs unsafe.
//
// The source of every rule is include/uapi/linux/vfio.h.
package vfio
