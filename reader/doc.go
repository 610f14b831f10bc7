// Package reader is the source side of a migration: it reads the devices and
// sends their streams.
//
// [Send] drains every device at once, in PRE_COPY while the guest runs and in
// STOP_COPY after it stopped, and hands the devices over to the destination,
// or takes them back if it cannot. Package writer is the other side.
package reader
