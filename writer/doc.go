// Package writer is the destination side of a migration: it receives the streams and writes the
// devices.
//
// [Receive] serves one migration. It promises memory to the source (credit), verifies and decodes
// the chunks into that memory, and writes each device's bytes in order into its RESUMING stream. It
// runs the devices only when the source has handed all of them over. Package reader is the source
// side.
package writer
