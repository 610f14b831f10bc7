package sim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/vfio"
)

// Event is an arc that a device took or failed to take, or a reset.
type Event struct {
	Seq      uint64 // grows over all devices of the process, so that it orders their events
	At       time.Time
	From, To vfio.State
	Reset    bool
	Err      error // why the device is still in From
}

// Stats counts the calls of a device.
type Stats struct {
	Sets, Resets, Pendings      int
	Reads, Writes               int
	BytesRead, BytesWritten     int64
	ReadsDrained, StreamsOpened int
}

// maxEvents bounds the log. A full log drops its oldest half.
const maxEvents = 1024

var eventSeq atomic.Uint64

type eventLog []Event

func (l *eventLog) add(e Event) {
	if len(*l) == maxEvents {
		*l = slices.Delete(*l, 0, maxEvents/2)
	}
	e.Seq, e.At = eventSeq.Add(1), time.Now()
	*l = append(*l, e)
}

// Log returns the device's latest events, oldest first.
func (d *Device) Log() []Event {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.log)
}

// Stats returns the device's counters.
func (d *Device) Stats() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stats
}

// Line is a line of the file of [Options.Log], for one event. Several devices may
// write to one file, also from several processes.
type Line struct {
	NS     int64  `json:"ns"` // by CLOCK_MONOTONIC, which all processes of a host share
	PID    int    `json:"pid"`
	Device string `json:"device"`
	Event  string `json:"event"` // open, set, reset, fault or close
	From   string `json:"from"`
	To     string `json:"to"`
	Err    string `json:"err,omitempty"` // why the device is still in From
	// Whole is true if the device has a loaded state which is the same as its
	// source's.
	Whole bool `json:"whole,omitempty"`
	// Kept is true if the device outlives the process (see [Options.Keep]), and
	// Found if an earlier process has left it. Without Found, an open creates a
	// new device.
	Kept  bool `json:"kept,omitempty"`
	Found bool `json:"found,omitempty"`
}

// ReadLog reads the file of [Options.Log]. It drops an incomplete last line, which
// a crash may leave.
func ReadLog(path string) (lines []Line, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	for {
		line, rest, whole := bytes.Cut(text, []byte("\n"))
		if !whole {
			return lines, nil
		}
		var l Line
		if err := json.Unmarshal(line, &l); err != nil {
			return lines, fmt.Errorf("%s: line %d: %w", path, len(lines)+1, err)
		}
		lines, text = append(lines, l), rest
	}
}

// logFile is an open file of Options.Log.
type logFile struct {
	f   *os.File
	err error // the first error of a write
}

func openLog(path string) (*logFile, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	return &logFile{f: f}, err
}

// write appends a line by a single write, so that lines of several writers do not
// interleave.
func (l *logFile) write(line Line) {
	var now unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	line.NS, line.PID = now.Nano(), os.Getpid()
	b, _ := json.Marshal(line) // strings and numbers
	if err == nil {
		_, err = l.f.Write(append(b, '\n'))
	}
	if l.err == nil {
		l.err = err
	}
}

func (l *logFile) close() error {
	err := l.f.Close()
	if l.err != nil {
		return l.err
	}
	return err
}

// logEvent adds an event to the log and to the log file.
func (d *Device) logEvent(kind string, e Event) {
	d.log.add(e)
	d.writeLog(kind, e)
}

// writeLog adds an event to the log file only. Open and close are not events of
// Device.Log.
func (d *Device) writeLog(kind string, e Event) {
	if d.file == nil {
		return
	}
	line := Line{Device: d.name, Event: kind, From: e.From.String(), To: e.To.String(),
		Whole: d.loaded == nil, Kept: d.opts.Keep != "", Found: d.found}
	if e.Err != nil {
		line.Err = e.Err.Error()
	}
	d.file.write(line)
}
