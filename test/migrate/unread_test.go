package migrate

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/report"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/file"
	"github.com/migpipe/migpipe/writer"
)

// A cancel ends a destination whose device takes nothing more: here a pipe that
// nobody reads.
func TestCancelUnreadPipe(t *testing.T) {
	eachCarrier(t, func(t *testing.T, c carrier) {
		p := newPair(t, c)
		src := open(t, "xe?size=8MiB")
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		defer w.Close()
		fd, err := dup(w)
		if err != nil {
			t.Fatal(err)
		}
		sink, err := file.ToFD(fd, "fd:pipe")
		if err != nil {
			t.Fatal(err)
		}
		defer sink.Close()
		p.sources = []reader.Source{{Name: "gpu0", Device: src}}
		p.sinks = []writer.Sink{{Name: "gpu0", Device: sink}}
		var began time.Time
		p.send.Observe = when(report.StopCopy, 300*time.Millisecond, func() { began = time.Now(); p.cancelSend() })
		s, d := p.run(t)
		if took := time.Since(began); began.IsZero() || took > 2500*time.Millisecond {
			t.Errorf("cancelled at %v, ended %v after", began, took)
		}
		if s.report.Outcome != handoff.Rolledback || d.report.Outcome != handoff.Rolledback {
			t.Errorf("outcomes %v (%v) and %v (%v)", s.report.Outcome, s.err, d.report.Outcome, d.err)
		}
		wantState(t, src, vfio.Running)
	})
}

func dup(f *os.File) (int, error) {
	return unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
}
