package reader

// tail is the end of a device's stream, which is cut into smaller chunks: with whole
// ones, the last few would leave lanes idle beside them, and the device there could
// load nothing of what the guest waits for until one is complete.
type tail struct {
	end   uint64 // of the stream, by the estimate; 0 where there is none
	lanes uint64
}

// tailLeast is the smallest chunk that it is cut into, in bytes: below, what each
// chunk costs by itself is more than what it gains.
const tailLeast = 64 << 10

// tailChunks is how many chunks of memory each lane needs for that. A promise is of
// chunks, however short: were there few, the lanes would wait for the next one.
const tailChunks = 6

// most is how many bytes a chunk at offset may have that could have limit.
func (t tail) most(limit int, offset uint64) int {
	if offset >= t.end { // or nobody knows
		return limit
	}
	left := t.end - offset
	if left >= t.lanes*uint64(limit) {
		return limit
	}
	const page = 4096 // what drivers count in
	half := left / (2 * t.lanes)
	return min(limit, max(tailLeast, int(half+page-1)/page*page))
}

// tail is a device's, now that its final state is being read.
func (e *engine) tail(device int) tail {
	lanes := len(e.lanes)
	left, known := e.remaining(device)
	if !known || lanes == 0 || e.arena.Count() < tailChunks*lanes {
		return tail{}
	}
	return tail{e.drainedBytes(device) + left, uint64(lanes)}
}
