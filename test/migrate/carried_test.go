package migrate

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
)

// TestNothingCarried: a destination acknowledges control messages and accepts data lanes, but
// reads no data. The source leaves it at the reconnect limit, with any number of lanes.
func TestNothingCarried(t *testing.T) {
	const limit = 10 * time.Second
	for _, lanes := range []int{1, 2} {
		t.Run(fmt.Sprint(lanes), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, listener := pipe(t)
				l := &liar{T: t, listener: listener, journal: migration.NewJournalID()}
				src := open(t, "mlx5?size=4MiB&dirty=64KiB/s")
				ctx, end := context.WithCancel(t.Context())
				defer end()
				go l.readsNothing(ctx, lanes)
				began := time.Now()
				report, err := reader.Send(t.Context(), d, []reader.Source{{Name: "d0", Device: src}}, &reader.Options{ChunkSize: 4096, Lanes: lanes,
					ReconnectFor: limit, MaxPrecopy: 5 * time.Minute, OnLimit: reader.Continue})
				if report.Outcome != migration.Aborted || err == nil || !strings.Contains(err.Error(), "has read nothing of any data lane") {
					t.Errorf("outcome %v (%v)", report.Outcome, err)
				}
				if took := time.Since(began); took < limit || took > limit+5*time.Second {
					t.Errorf("the source resumed after %v, want some %v", took, limit)
				}
				wantState(t, src, vfio.Running)
			})
		})
	}
}

// readsNothing welcomes a source and acknowledges its control messages, but reads no data
// lane, until ctx ends.
func (l *liar) readsNothing(ctx context.Context, lanes int) {
	l.open()
	m := l.welcome()
	m.Lanes = uint16(lanes)
	l.send(m)
	go func() {
		for {
			lane, err := l.listener.Accept(ctx)
			if err != nil {
				return
			}
			if _, err := wire.ReadPreamble(lane); err != nil {
				l.Error(err)
			}
			context.AfterFunc(ctx, func() { lane.Close() })
		}
	}()
	for {
		m, err := l.control.Receive()
		if err != nil {
			break
		}
		if m, ok := m.(*wire.Estimate); ok {
			l.send(&wire.Ack{Attempt: l.hello.Attempt, Journal: l.journal, Echo: m.Stamp, Read: make([]uint64, lanes),
				Devices: []wire.DeviceAck{{Window: wire.Window{Seq: 1 << 30, Offset: 1 << 40}}}})
		}
	}
	l.control.Lane().Close()
}
