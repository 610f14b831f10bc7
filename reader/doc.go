// Package reader is the source side of a migration: it reads the devices and sends their streams.
//
// [Send] reads every device at once: in PRE_COPY while the guest runs, and in STOP_COPY after the
// guest is paused. It hands the devices over to the destination, or returns them to RUNNING if the
// attempt fails. Package writer is the destination side.
package reader
