package writer

import (
	"sync"
	"time"

	"github.com/migpipe/migpipe/internal/wire"
)

// aLongTimeAgo is a deadline that has passed: it wakes everything that waits for a lane.
var aLongTimeAgo = time.Unix(1, 0)

// connection is the conversation with the source that is served: its control lane, and when it was
// last heard. The loop owns it.
type connection struct {
	post func(event) // hands an event to the loop

	control *wire.Control // nil before a source has come, and while it is lost
	local   bool          // the source is a process of this host
	lostAt  time.Time     // when the control lane was lost, zero while it is open
	heardAt time.Time     // when the last message of the source came

	reading sync.WaitGroup // the readers of control lanes, which end with their lanes
}

// use reads a control lane from now on. The reader ends with the lane.
func (c *connection) use(control *wire.Control) {
	c.control, c.lostAt, c.heardAt = control, time.Time{}, time.Now()
	c.reading.Go(func() { c.readControl(control) })
}

// readControl hands the source's messages to the loop.
func (c *connection) readControl(control *wire.Control) {
	for {
		m, err := control.Receive()
		if err != nil {
			c.post(controlLost{control, err})
			return
		}
		c.post(heard{control, m})
	}
}

// send sends a message, if there is a control lane. The reader of the lane notices a lane that
// fails.
func (c *connection) send(m wire.Message) {
	if c.control != nil {
		c.control.Send(m)
	}
}

// replace takes a new control lane in place of the earlier one. This side may not have noticed that
// the earlier one is lost.
func (c *connection) replace(control *wire.Control) {
	if c.control != nil {
		c.control.Lane().Close()
	}
	c.use(control)
}

// lose closes the control lane.
func (c *connection) lose() {
	c.control.Lane().Close()
	c.control, c.lostAt = nil, time.Now()
}

// close ends the conversation, and joins its readers.
func (c *connection) close() {
	if c.control != nil {
		wire.HangUp(c.control.Lane(), c.reading.Wait)
	}
	c.reading.Wait()
}
