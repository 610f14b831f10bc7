package cli

import (
	"fmt"
	"io"
	"sync"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/report"
)

// barView is for terminals: a bar for each device, redrawn in place.
type barView struct {
	program  string
	err, out io.Writer
	meters   meters
	screen   *mpb.Progress // nil before the first progress
	bars     map[string]*deviceBar
}

// deviceBar is a bar and what its decorators show beside it.
type deviceBar struct {
	*mpb.Bar
	mu  sync.Mutex
	now status
}

func newBarView(program string, err, out io.Writer) *barView {
	return &barView{program: program, err: err, out: out, meters: meters{}, bars: map[string]*deviceBar{}}
}

func (b *barView) event(ev stamped) {
	switch ev.Kind {
	case report.Phase: // the bars show it
	case report.Progress:
		for _, s := range b.meters.read(ev.at, ev.Devices) {
			b.bar(s).set(s)
		}
	default:
		fmt.Fprintf(b.above(), "%s: %s\n", b.program, notice(ev.Event))
	}
}

// above is where lines go so that they stay above the bars.
func (b *barView) above() io.Writer {
	if b.screen == nil {
		return b.err
	}
	return b.screen
}

func (b *barView) bar(s status) *deviceBar {
	if d := b.bars[s.Name]; d != nil {
		return d
	}
	if b.screen == nil {
		b.screen = mpb.New(mpb.WithOutput(b.err), mpb.WithWidth(80))
	}
	d := &deviceBar{now: s}
	d.Bar = b.screen.New(0, mpb.BarStyle(),
		mpb.BarWidth(24),
		mpb.PrependDecorators(
			decor.Name(s.Name, decor.WCSyncSpaceR),
			d.text(func(s status) string { return s.Phase }, decor.WCSyncSpaceR),
		),
		mpb.AppendDecorators(
			d.text(status.amount, decor.WCSyncSpace),
			d.text(status.speed, decor.WCSyncSpace),
			d.text(func(s status) string { return "  " + s.rest() }, decor.WCSyncSpaceR),
		),
	)
	b.bars[s.Name] = d
	return d
}

// text is a decorator that shows the newest status.
func (d *deviceBar) text(of func(status) string, wc decor.WC) decor.Decorator {
	return decor.Any(func(decor.Statistics) string {
		d.mu.Lock()
		defer d.mu.Unlock()
		return of(d.now)
	}, wc)
}

func (d *deviceBar) set(s status) {
	d.mu.Lock()
	d.now = s
	d.mu.Unlock()
	total, known := s.total()
	if !known {
		total = s.Bytes * 2 // half full: nobody knows
	}
	d.SetTotal(int64(max(total, 1)), false)
	d.SetCurrent(int64(s.Bytes))
}

// end leaves each bar with its last word on the screen, full only if the
// migration was committed.
func (b *barView) end(v verdict) {
	for _, d := range v.report.Devices {
		if bar := b.bars[d.Name]; bar != nil {
			bar.set(status{Snapshot: report.Snapshot{Name: d.Name, Phase: v.report.Outcome.String(), Bytes: d.Bytes}})
		}
	}
	for _, bar := range b.bars {
		if v.report.Outcome == handoff.Committed {
			bar.SetTotal(-1, true)
		}
		bar.Abort(false)
	}
	if b.screen != nil {
		b.screen.Wait()
	}
	printReport(b.out, v)
}
