// Package replica has QEMU's ways to migrate a set of VFIO devices, rebuilt over this
// module's devices and carriers for comparison: serial (hw/vfio/migration.c), with and
// without switchover-ack, and multifd device state with load threads
// (hw/vfio/migration-multifd.c). Each follows QEMU's order of steps, without guest memory.
// None checks a byte.
//
// They accept only devices with PRE_COPY and P2P. They stop the guest as soon as the initial
// bytes have been sent (or acknowledged): the dirty rest is meant to fit the downtime limit.
package replica
