package writer

import (
	"sync"
	"time"

	"github.com/migpipe/migpipe/internal/wire"
)

// connection is the conversation with the source that is served: its control lane, and when
// it was heard. The loop owns it.
type connection struct {
	post func(event) // hands an event to the loop

	control *wire.Control // nil before a source has come, and while it is lost
	local   bool          // the source is a process of this host
	lostAt  time.Time     // when it was lost, zero while it stands
	heardAt time.Time     // when the source last said something

	reading sync.WaitGroup // the readers of control lanes, which end with those
}

// use reads a control lane from now on. Its reader ends with it.
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

// send sends a message, if there is a control lane. One that fails is seen by its reader.
func (c *connection) send(m wire.Message) {
	if c.control != nil {
		c.control.Send(m)
	}
}

// replace takes a new control lane in place of the one before. This side may not have noticed
// that it is lost.
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
