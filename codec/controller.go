package codec

// Controller chooses the codec of each chunk so that the lanes get the most bytes of
// the streams through. It is pure: Choices and Results in, Choices out. It has no
// lock: Auto has one.
//
// It knows what the contenders make of each device's chunks, by class, from what it
// has seen, and has one number to turn: the price of a byte on the wire. A chunk is
// sent as whatever is cheapest at the price, so that one number serves all devices
// and classes, and chunks of two kinds that alternate are told apart at once.
//
// Which price is best depends on what holds the lanes up: the link, the cores, or
// the destination. What is seen at one price does not tell: where a write waits, lanes
// may share a link that is full, or each may wait for its own share of busy cores. So
// a model of both cases only says which price is worth a trial, and what the lanes get
// through in the trial decides. Trials that fail become rare, by what they have cost.
type Controller struct {
	allowed [len(contenders)]bool
	devices []*account
	price   uint8 // index of the one in force

	informed bool    // price was not the first guess
	spent    float64 // seconds of the lanes so far

	period  tally // at this price
	before  tally // the period at the price that was in force last, or is now
	settled int   // Results since the last of another price
	trial   bool  // price is on trial
	tries   int   // periods of it that were of another kind
	from    uint8 // the price to return to
	rests   [len(prices)]rest
	failed  int     // trials, lately
	debt    float64 // seconds of the lanes until the next one is due
}

// rest is for how long a price is not tried again.
type rest struct {
	left  float64 // in seconds of the lanes
	pause float64 // how many times what it would cost that was at first
}

// account is one device's content, and how much of it was sent in this period.
type account struct {
	content content
	raw     [classes]float64
}

// tally is what the lanes did in a period.
type tally struct {
	chunks    int
	raw, wire float64
	classes   [classes]float64 // of raw
	encode    float64          // seconds, of all lanes together
	write     float64
	idle      float64
	lanes     float64
	modelled  plan    // what the model makes of the same chunks
	perByte   float64 // of the wire, in the model
}

// took is the time that the lanes needed.
func (t *tally) took() float64 { return t.encode + t.write + t.idle }

// plan is the time that encoding takes, and the bytes that are left.
type plan struct{ encode, wire float64 }

const (
	// enough chunks make a period: less is noise.
	enough = 16
	// enoughEach is how many of them each lane has to have had.
	enoughEach = 4
	// hopeless is how much worse a price may look to the model to be tried all the same.
	hopeless = 1.6
	// proven is the part of the time that a trial has to save.
	proven = 0.03
	// free is how many trials may fail before their cost counts: at first little is known.
	free = 1
	// poor is how much worse a trial may look before its period is over.
	poor = 1.5
	// leastPause keeps the cost of failed trials to a fiftieth; it doubles with each,
	// up to mostPause.
	leastPause, mostPause = 50, 800
	// likeness is the part that two periods need to have in common to be compared.
	likeness = 0.6
	// startled is how far a period may be off what the one before it has led to
	// expect, before all that was found out is in doubt.
	startled = 1.6
	// patience is how many periods a trial waits for chunks like those before it.
	patience = 3
	// nearly is how far above what was measured the first price may be.
	nearly = 1.1
	// longest is the most seconds that one chunk may count.
	longest = 60
)

// NewController chooses among the codecs given; with none given, among all. Raw it
// always may choose.
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

// Inform says what the lanes carried together when there was nothing to encode, in bytes
// a second: to begin with, a byte on the wire is worth the time that a lane took for it.
// What has been learned since the beginning stands.
func (c *Controller) Inform(perSecond float64, lanes int) {
	if c.before.chunks > 0 || c.period.chunks > 0 || !(perSecond > 0) || lanes < 1 {
		return
	}
	c.informed, c.price = true, 0
	for i := range prices {
		if prices[i] <= nearly*float64(lanes)/perSecond {
			c.price = uint8(i)
		}
	}
}

// Choose chooses for a chunk of the device of which a probe of so many bytes would
// shrink to so many.
func (c *Controller) Choose(device, sampled, shrunk int) Choice {
	return c.choose(device, classify(sampled, shrunk))
}

func (c *Controller) choose(device int, k class) Choice {
	i := c.account(device).content.best(c.allowed, k, prices[c.price])
	return Choice{Codec: contenders[i], Device: device, class: k, price: c.price}
}

// mostDevices bounds what a device's number may cost.
const mostDevices = 1 << 10

// account of a device; those with absurd numbers share one.
func (c *Controller) account(device int) *account {
	device = min(max(device, 0), mostDevices)
	for len(c.devices) <= device {
		c.devices = append(c.devices, new(account))
	}
	return c.devices[device]
}

// Observe takes in what became of a Choice.
func (c *Controller) Observe(r Result) {
	i := contender(r.Codec)
	if i < 0 || r.Raw <= 0 || r.Raw > MaxBlock || r.class >= classes {
		return
	}
	a, raw, wire := c.account(r.Device), float64(r.Raw), float64(min(max(r.Wire, 0), r.Raw))
	encode, write := seconds(r.Encode), seconds(r.Write)
	a.content[r.class][i].add(encode/raw, wire/raw)
	if r.price != c.price {
		c.settled = 0 // it was under way when the price changed
		return
	}
	if c.settled++; c.settled <= r.Lanes {
		return // it shared the link with those
	}
	a.raw[r.class] += raw
	c.period.add(r, encode, write)
	if c.over() {
		c.conclude()
	}
}

func (t *tally) add(r Result, encode, write float64) {
	t.chunks++
	t.raw, t.wire = t.raw+float64(r.Raw), t.wire+float64(min(max(r.Wire, 0), r.Raw))
	t.encode, t.write = t.encode+encode, t.write+write
	t.classes[r.class] += float64(r.Raw)
	t.idle += min(seconds(r.Idle), encode+write) // who waits longer waits for the device
	t.lanes = float64(max(r.Lanes, 1))
}

// over reports whether the period has seen enough, or of a trial enough to see that it has
// failed.
func (c *Controller) over() bool {
	t, before := &c.period, &c.before
	least := max(enough, enoughEach*int(t.lanes))
	if before.chunks == 0 && !c.informed {
		least /= 2 // anything is better than the first guess
	}
	return t.chunks >= least || c.trial && t.chunks >= least/4 && t.took()*before.raw > poor*before.took()*t.raw && t.alike(before)
}

func contender(codec Codec) int {
	for i, c := range contenders {
		if c == codec {
			return i
		}
	}
	return -1
}
