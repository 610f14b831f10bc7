package codec

// contenders are the codecs that Auto may choose, in the order of their cost.
var contenders = [...]Codec{Raw, S2, Zstd}

// figures are the mean cost and result of a contender.
type figures struct {
	time, ratio float64 // per raw byte: seconds to encode, and encoded bytes
	seen        int     // chunks in the mean
}

const (
	// meanChunks is the number of chunks over which figures average.
	meanChunks = 8
	// maxTimePerByte bounds the weight of one chunk. No codec needs a second for a
	// megabyte: the process was not running.
	maxTimePerByte = 1e-6
)

func (f *figures) add(time, ratio float64) {
	f.seen = min(f.seen+1, meanChunks)
	part := 1 / float64(f.seen)
	f.time += (min(max(time, 0), maxTimePerByte) - f.time) * part
	f.ratio += (min(max(ratio, 0), 1) - f.ratio) * part
}

// classFigures are the figures of one device's chunks, by class and contender.
type classFigures [classes][len(contenders)]figures

// predict returns the figures of a contender for a class. If none were measured, it
// derives them from the next cheaper contender: machines differ less than codecs do.
func (c *classFigures) predict(k class, contender int) figures {
	if f := c[k][contender]; f.seen > 0 {
		return f
	}
	switch contenders[contender] {
	case S2:
		if k == classes-1 {
			return figures{time: 0.1e-9, ratio: 1} // S2 stops early on such bytes
		}
		return figures{time: 1.5e-9, ratio: float64(k) / classes} // S2 shrinks a chunk more than the short pages of a probe
	case Zstd:
		f := c.predict(k, contender-1)
		return figures{time: 2.5 * f.time, ratio: 0.85 * f.ratio}
	}
	return figures{ratio: 1}
}

// prices are the prices of a byte on the wire, in seconds of a lane. At 0 Auto
// encodes nothing; at the highest price only the ratio counts.
var prices = [14]float64{0, 0.25e-9, 0.5e-9, 1e-9, 2e-9, 4e-9, 8e-9, 16e-9, 32e-9, 64e-9, 128e-9, 256e-9, 512e-9, 1024e-9}

// firstPrice is the index of the first price. At that price Auto chooses S2 for
// chunks that it shrinks, which is never far from the best.
const firstPrice = 7

// cheapest returns the contender with the lowest cost for a class at a price.
func (c *classFigures) cheapest(allowed [len(contenders)]bool, k class, price float64) int {
	best, least := 0, price
	for i := range contenders {
		if !allowed[i] {
			continue
		}
		f := c.predict(k, i)
		if cost := f.time + price*f.ratio; i == 0 || cost < least {
			best, least = i, cost
		}
	}
	return best
}
