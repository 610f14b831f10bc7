package report

// Fill is how full the stages of one side were over some time: parts of the memory for
// its chunks, from 0 to 1. What is missing from the sum was free. All of it is zero where
// nothing is known.
type Fill struct {
	// At the source: read, and waiting for a lane. At the destination: in order, and
	// waiting for its device, or being written.
	Queue float64
	// Read, and waiting for memory of the destination (source only).
	Credit float64
	// Taken by a lane, and not acknowledged (source only).
	Flight float64
	// Come before one that is to be written first (destination only).
	Ahead float64
	// Bottleneck is what everything else has waited for, for more than half of the time
	// in which anything did: one of the names below, "" where next to nothing was to be
	// moved. Of a whole downtime it may be a stage in which no state moves (StageWitness).
	Bottleneck string
}

// What a migration waits for.
const (
	BoundSave    = "save"     // the source's devices give no more (source only)
	BoundCodec   = "codec"    // the lanes are busy, more with encoding than with writing (source only)
	BoundNetwork = "network"  // or the other way round, or what is on its way takes long to arrive (source only)
	BoundArrival = "arrival"  // no chunk is there: the network or the source has none (destination only)
	BoundLoad    = "load"     // the destination's devices take no more
	Balanced     = "balanced" // none of these alone
)
