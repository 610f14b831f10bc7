// Package writer is the destination side of a migration: it receives the
// streams and writes the devices.
//
// [Receive] serves one migration: it promises memory to the source (credit),
// checks and decodes what arrives into that memory, writes each device's bytes
// in order into its RESUMING stream, and runs the devices only when the source
// has handed all of them over. Package reader is the other side.
package writer
