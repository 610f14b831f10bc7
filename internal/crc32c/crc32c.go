// Package crc32c computes the checksum of frames and records: CRC-32 with Castagnoli's polynomial.
package crc32c

import "hash/crc32"

var table = crc32.MakeTable(crc32.Castagnoli)

// Sum returns the checksum of the concatenated parts.
func Sum(parts ...[]byte) (sum uint32) {
	for _, b := range parts {
		sum = crc32.Update(sum, table, b)
	}
	return sum
}
