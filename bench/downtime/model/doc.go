// Package model computes the downtime of a migration of VFIO devices: a
// discrete-event simulation of devices that save, a link, devices that load,
// and the strategies that bring them together. It has no clock, no goroutine
// and no randomness: the same input gives the same result.
package model
