package codec

import "sync"

// Auto chooses by what it has seen: see Controller. It is for one migration, and
// chooses among the codecs that both sides have; with none given, among all.
func Auto(both ...ID) Policy { return &auto{controller: NewController(both...)} }

// auto shares a Controller among the lanes. Its lock is held for nanoseconds.
type auto struct {
	mu         sync.Mutex
	controller *Controller
}

func (a *auto) Choose(device int, src []byte) Choice {
	seen := classify(probe(src)) // not under the lock: it reads pages
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.controller.choose(device, seen)
}

func (a *auto) Observe(r Result) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.controller.Observe(r)
}

// Inform implements [Informed].
func (a *auto) Inform(perSecond float64, lanes int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.controller.Inform(perSecond, lanes)
}

// class is how well a chunk compresses, by its probe: class n shrinks to n eighths
// and something. What S2 can do nothing for is in the last.
type class uint8

const classes = 8

func classify(sampled, shrunk int) class {
	if sampled <= 0 || !worthwhile(shrunk, sampled) {
		return classes - 1
	}
	return class(float64(max(0, shrunk)) / float64(sampled) * classes) // as integers, the product may overflow
}
