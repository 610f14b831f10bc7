package codec

// Controller chooses the codec of each chunk to maximise the throughput of the lanes,
// in raw bytes. It is pure: Results in, Choices out. It has no lock: Auto has one.
//
// The Controller measures the figures of each contender for each device and class of
// chunks. It varies one number: the price of a byte on the wire. For each chunk it
// chooses the contender that is cheapest at the price. So one number serves all devices
// and classes, and chunks of two kinds may alternate.
//
// The best price depends on the bottleneck of the lanes: the link, the cores, or the
// destination. Measurements at one price do not show the bottleneck. If writes wait, the
// lanes may share a full link, or each lane may wait for its share of busy cores. So a
// model of both cases only selects the price for a trial, and the lanes' throughput in the
// trial decides. Failed trials become rarer, depending on their cost.
type Controller struct {
	allowed [len(contenders)]bool
	devices []*account
	price   uint8 // index of the current price

	informed bool    // Inform has set the first price
	spent    float64 // seconds of the lanes so far

	period   tally // the current period
	before   tally // the last period that was no trial
	settled  int   // Results since the last Result of another price
	trial    bool  // price is on trial
	unlike   int   // periods of the trial whose classes differed from before
	previous uint8 // the price before the trial
	backoffs [len(prices)]backoff
	failed   int     // trials that failed since the last reset
	debt     float64 // seconds of the lanes until the next trial may start
}

// backoff is the time for which a price is not tried again.
type backoff struct {
	left  float64 // seconds of the lanes
	pause float64 // the whole time, as a multiple of the trial's cost
}

// account has one device's figures, and its raw bytes of this period by class.
type account struct {
	figures classFigures
	raw     [classes]float64
}

// tally is the sum of the Results of a period.
type tally struct {
	chunks    int
	raw, wire float64
	classes   [classes]float64 // raw bytes by class
	encode    float64          // seconds of all lanes
	write     float64
	idle      float64
	lanes     float64
	modelled  plan    // the prediction for the same chunks
	perByte   float64 // seconds per byte on the wire
}

// laneTime returns the time of all lanes in the period.
func (t *tally) laneTime() float64 { return t.encode + t.write + t.idle }

// plan is the predicted time to encode, in seconds, and the predicted bytes on the wire.
type plan struct{ encode, wire float64 }

const (
	// minChunks is the least number of chunks in a period. Fewer are noise.
	minChunks = 16
	// minLaneChunks is the least number of chunks in a period for each lane.
	minLaneChunks = 4
	// maxTrialPart is the largest predicted time of a trial, as a multiple of the current time.
	maxTrialPart = 1.6
	// minSaving is the part of the time that a trial must save to succeed.
	minSaving = 0.03
	// freeFailures is the number of failed trials whose cost does not count.
	freeFailures = 1
	// abortPart is the time, as a multiple of the time before, at which a trial ends early.
	abortPart = 1.5
	// minBackoff limits the cost of failed trials to a fiftieth of the time. Each failure
	// doubles it, up to maxBackoff.
	minBackoff, maxBackoff = 50, 800
	// minLikeness is the part of the classes that two comparable periods share.
	minLikeness = 0.6
	// surprise is the factor by which a period may differ from its prediction. Beyond it,
	// the failures of earlier trials do not count any more.
	surprise = 1.6
	// maxUnlike is the number of periods that a trial waits for comparable chunks.
	maxUnlike = 3
	// priceTolerance is the factor by which the first price may exceed the measurement.
	priceTolerance = 1.1
	// maxSeconds is the longest time of one chunk that counts.
	maxSeconds = 60
)

// NewController returns a Controller that chooses among the given codecs and Raw. Without
// arguments it chooses among all codecs.
func NewController(both ...ID) *Controller {
	c := &Controller{price: firstPrice}
	for i, contender := range contenders {
		c.allowed[i] = len(both) == 0 || i == 0
		for _, id := range both {
			c.allowed[i] = c.allowed[i] || id == contender.ID()
		}
	}
	return c
}

// Inform sets the first price: the time that a lane took for a byte on the wire when nothing
// was encoded. perSecond is the throughput of all lanes together, in bytes per second. Inform
// has no effect after the first chunk.
func (c *Controller) Inform(perSecond float64, lanes int) {
	if c.before.chunks > 0 || c.period.chunks > 0 || !(perSecond > 0) || lanes < 1 {
		return
	}
	c.informed, c.price = true, 0
	for i := range prices {
		if prices[i] <= priceTolerance*float64(lanes)/perSecond {
			c.price = uint8(i)
		}
	}
}

// Choose chooses the codec for a chunk of a device. A probe of sampled bytes of the chunk
// would shrink to shrunk bytes.
func (c *Controller) Choose(device, sampled, shrunk int) Choice {
	return c.choose(device, classify(sampled, shrunk))
}

func (c *Controller) choose(device int, k class) Choice {
	i := c.account(device).figures.cheapest(c.allowed, k, prices[c.price])
	return Choice{Codec: contenders[i], Device: device, class: k, price: c.price}
}

// maxDevices bounds the memory for accounts.
const maxDevices = 1 << 10

// account returns the account of a device. Devices with numbers beyond maxDevices share one.
func (c *Controller) account(device int) *account {
	device = min(max(device, 0), maxDevices)
	for len(c.devices) <= device {
		c.devices = append(c.devices, new(account))
	}
	return c.devices[device]
}

// Observe adds the Result of a Choice.
func (c *Controller) Observe(r Result) {
	i := contender(r.Codec)
	if i < 0 || r.Raw <= 0 || r.Raw > MaxBlock || r.class >= classes {
		return
	}
	a, raw, wire := c.account(r.Device), float64(r.Raw), float64(min(max(r.Wire, 0), r.Raw))
	encode, write := seconds(r.Encode), seconds(r.Write)
	a.figures[r.class][i].add(encode/raw, wire/raw)
	if r.price != c.price {
		c.settled = 0 // the price changed while the chunk was in transfer
		return
	}
	if c.settled++; c.settled <= r.Lanes {
		return // the chunk shared the link with chunks of another price
	}
	a.raw[r.class] += raw
	c.period.add(r, encode, write)
	if c.isPeriodComplete() {
		c.endPeriod()
	}
}

func (t *tally) add(r Result, encode, write float64) {
	t.chunks++
	t.raw, t.wire = t.raw+float64(r.Raw), t.wire+float64(min(max(r.Wire, 0), r.Raw))
	t.encode, t.write = t.encode+encode, t.write+write
	t.classes[r.class] += float64(r.Raw)
	t.idle += min(seconds(r.Idle), encode+write) // a lane that waits longer waits for the device
	t.lanes = float64(max(r.Lanes, 1))
}

// isPeriodComplete reports whether the period has enough chunks, or enough of a trial that
// has failed.
func (c *Controller) isPeriodComplete() bool {
	t, before := &c.period, &c.before
	least := max(minChunks, minLaneChunks*int(t.lanes))
	if before.chunks == 0 && !c.informed {
		least /= 2 // replaces the default price soon
	}
	return t.chunks >= least || c.trial && t.chunks >= least/4 && t.laneTime()*before.raw > abortPart*before.laneTime()*t.raw && t.isLike(before)
}

func contender(codec Codec) int {
	for i, c := range contenders {
		if c == codec {
			return i
		}
	}
	return -1
}
