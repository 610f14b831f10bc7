package codec

// contenders are what a chunk that is not zero may be sent as, by ever more work.
var contenders = [...]Codec{Raw, S2, Zstd}

// figures are what a contender makes of a byte: its time in seconds, and what is
// left of it.
type figures struct {
	time, ratio float64
	seen        int
}

const (
	// remembered is how many chunks figures are the mean of.
	remembered = 8
	// slowest bounds what one chunk may say: a second for a megabyte is no codec's
	// work but a machine's that had stopped.
	slowest = 1e-6
)

func (f *figures) add(time, ratio float64) {
	f.seen = min(f.seen+1, remembered)
	part := 1 / float64(f.seen)
	f.time += (min(max(time, 0), slowest) - f.time) * part
	f.ratio += (min(max(ratio, 0), 1) - f.ratio) * part
}

// content is what the contenders make of one device's chunks, by class.
type content [classes][len(contenders)]figures

// expect says what a contender makes of a class. What was not tried yet is guessed
// from the lesser one; machines differ, but less than codecs do.
func (c *content) expect(k class, contender int) figures {
	if f := c[k][contender]; f.seen > 0 {
		return f
	}
	switch contenders[contender] {
	case S2:
		if k == classes-1 {
			return figures{time: 0.1e-9, ratio: 1} // S2 gives up early
		}
		return figures{time: 1.5e-9, ratio: float64(k) / classes} // a probe's pages are too short for S2 to do its best
	case Zstd:
		f := c.expect(k, contender-1)
		return figures{time: 2.5 * f.time, ratio: 0.85 * f.ratio}
	}
	return figures{ratio: 1}
}

// prices are what a byte on the wire may be worth, in seconds of a lane: from
// nothing, where nothing is encoded, to where only the ratio counts.
var prices = [14]float64{0, 0.25e-9, 0.5e-9, 1e-9, 2e-9, 4e-9, 8e-9, 16e-9, 32e-9, 64e-9, 128e-9, 256e-9, 512e-9, 1024e-9}

// firstPrice has S2 chosen for what it shrinks: it is never far off.
const firstPrice = 7

// best is the contender that is the cheapest for a class at a price.
func (c *content) best(allowed [len(contenders)]bool, k class, price float64) int {
	best, least := 0, price
	for i := range contenders {
		if !allowed[i] {
			continue
		}
		f := c.expect(k, i)
		if cost := f.time + price*f.ratio; i == 0 || cost < least {
			best, least = i, cost
		}
	}
	return best
}
