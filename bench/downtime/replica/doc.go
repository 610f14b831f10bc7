// Package replica has QEMU's ways to migrate a set of VFIO devices, rebuilt over
// this module's devices and carriers so that they can be measured beside it:
// serial (hw/vfio/migration.c), with and without switchover-ack, and multifd
// device state with load threads (hw/vfio/migration-multifd.c). Each does what
// QEMU does in that order, without guest memory, and none checks a byte.
//
// They take devices with PRE_COPY and P2P only, and stop the guest as soon as
// the initial bytes have been sent (or acknowledged): what is dirty is meant to
// fit the downtime limit.
package replica
