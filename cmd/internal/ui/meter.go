package ui

import (
	"fmt"
	"math"
	"time"

	"github.com/migpipe/migpipe/transport/migration"
)

// meter turns a device's snapshots into a rate that follows the last few
// seconds.
type meter struct {
	at    time.Time
	bytes uint64
	rate  float64   // bytes per second, 0 until known
	moved time.Time // the last byte
	sized bool      // in STOP_COPY with an estimate
	ended bool
}

// settle is how long the rate takes to follow a change, by about two thirds.
const settle = 2 * time.Second

func (m *meter) update(at time.Time, bytes uint64) {
	if m.at.IsZero() || bytes != m.bytes {
		m.moved = at
	}
	took := at.Sub(m.at)
	switch {
	case m.at.IsZero():
	case took < 50*time.Millisecond:
		return
	default:
		now := float64(bytes-m.bytes) / took.Seconds()
		weight := 1 - math.Exp(-took.Seconds()/settle.Seconds())
		if m.rate == 0 {
			weight = 1
		}
		m.rate += weight * (now - m.rate)
	}
	m.at, m.bytes = at, bytes
}

// status is what progress shows of one device.
type status struct {
	migration.Snapshot
	rate  float64
	idle  time.Duration // since the last byte
	ended bool
	waits bool // pre-copy continues for the downtime target alone: no rate predicts its end
}

// follow notices the end of a device: it is stopped, and has no estimate any more.
func (m *meter) follow(d migration.Snapshot) {
	if !migration.Moves(d.Phase) && d.Phase != migration.Connect || m.sized && !d.Known {
		m.ended = true
	}
	m.sized = d.Known && d.Phase == migration.StopCopy
}

// total is the bytes moved and those estimated to remain.
func (s status) total() (n uint64, known bool) { return s.Bytes + s.Remaining, s.Known }

// left is the time for the estimated rest, if there is an estimate.
func (s status) left() (d time.Duration, known bool) {
	if !s.Known || s.Remaining == 0 || s.rate < 1 {
		return 0, false
	}
	seconds := float64(s.Remaining) / s.rate
	return time.Duration(min(seconds, 1e6) * float64(time.Second)), true
}

// meters are those of all devices, by name.
type meters map[string]*meter

// read gives the status of each device as of an event.
func (ms meters) read(at time.Time, devices []migration.Snapshot) []status {
	list := make([]status, len(devices))
	for i, d := range devices {
		m := ms[d.Name]
		if m == nil || d.Bytes < m.bytes { // which is another attempt's
			m = &meter{}
			ms[d.Name] = m
		}
		m.update(at, d.Bytes)
		m.follow(d)
		if !migration.Moves(d.Phase) {
			m.rate = 0
		}
		list[i] = status{Snapshot: d, rate: m.rate, idle: at.Sub(m.moved), ended: m.ended}
	}
	return list
}

// progress is read of a whole event.
func (ms meters) progress(ev stamped) []status {
	list := ms.read(ev.at, ev.Devices)
	for i := range list {
		list[i].waits = ev.Waiting != nil
	}
	return list
}

// The texts of a status; a "~" marks an estimate.

func (s status) amount() string {
	if total, known := s.total(); known && s.Remaining > 0 {
		return HumanBytes(s.Bytes) + " of ~" + HumanBytes(total)
	}
	return HumanBytes(s.Bytes)
}

func (s status) speed() string {
	if s.rate < 1 {
		return ""
	}
	return humanRate(s.rate)
}

func (s status) rest() string {
	if !s.Known || s.Remaining == 0 {
		return ""
	}
	text := "~" + HumanBytes(s.Remaining) + " left"
	if d, ok := s.left(); ok && !s.waits {
		text += ", ETA ~" + max(d.Round(time.Second), time.Second).String()
	}
	return text
}

// waitingText is the line about a wait for the downtime target.
func waitingText(w *migration.Waiting) string {
	if w == nil {
		return ""
	}
	return fmt.Sprintf("waiting for the downtime limit of %v: a stop now would take %s", w.Limit, spanText(w.Downtime))
}
