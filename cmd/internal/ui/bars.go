package ui

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"github.com/vbauerster/cupwriter"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/migpipe/migpipe/transport/migration"
)

// barView is for terminals: a bar for each device, redrawn in place.
type barView struct {
	program  string
	err, out io.Writer
	meters   meters
	screen   *mpb.Progress // nil before the first progress
	bars     map[string]*deviceBar
	stages   *stageBar // below them, nil before anything has moved
}

func newBarView(program string, err, out io.Writer) *barView {
	return &barView{program: program, err: err, out: out, meters: meters{}, bars: map[string]*deviceBar{}}
}

func (b *barView) event(ev stamped) {
	switch ev.Kind {
	case migration.Phase: // the bars show it
	case confined, migration.Alarm: // for --json; Observer writes the alarm to stderr for every view
	case held: // it may be long: the screen is left as it is
		for _, bar := range b.bars {
			bar.leave(migration.InDoubt)
		}
		b.freeze()
	case migration.Progress:
		b.progress(b.meters.progress(ev))
		b.showOccupancy(cmp.Or(waitingText(ev.Waiting), occupancyText(ev.Occupancy)))
	default:
		fmt.Fprintf(b.above(), "%s: %s\n", b.program, notice(ev.Event))
	}
}

// above writes lines above the bars.
func (b *barView) above() io.Writer {
	if b.screen == nil {
		return b.err
	}
	return b.screen
}

func (b *barView) progress(list []status) {
	names := 0
	for _, s := range list {
		names = max(names, utf8.RuneCountInString(s.Name))
	}
	for _, s := range list {
		b.bar(s.Name, names).set(s)
	}
}

// console draws by way of an outlet on the terminal behind it.
func console(w io.Writer) mpb.ConsoleWriter {
	console := cupwriter.New(w, false)
	if o, ok := w.(*outlet); ok {
		if f, ok := o.to.(*os.File); ok {
			console.SetTermFd(int(f.Fd()))
		}
	}
	return console
}

func (b *barView) bar(name string, names int) *deviceBar {
	if d := b.bars[name]; d != nil {
		return d
	}
	if b.screen == nil {
		b.screen = mpb.New(mpb.WithConsoleWriter(console(b.err)), mpb.WithWidth(80))
	}
	d := &deviceBar{row: row{names: names, part: 0.5}}
	d.Bar = b.screen.New(0, mpb.NopStyle(), mpb.BarFillerTrim(), mpb.PrependDecorators(decor.Any(d.text)))
	b.bars[name] = d
	return d
}

// showOccupancy shows how full the stages are, or what else is waited for.
func (b *barView) showOccupancy(text string) {
	if b.screen == nil || b.stages == nil && text == "" {
		return
	}
	if b.stages == nil {
		b.stages = new(stageBar)
		b.stages.Bar = b.screen.New(0, mpb.NopStyle(), mpb.PrependDecorators(decor.Any(b.stages.row)))
	}
	b.stages.text.Store(&text)
}

// end leaves each bar with its last word on the screen: where it was, and full
// only if the migration was committed.
func (b *barView) end(v Result) {
	for _, d := range v.Report.Devices {
		if bar := b.bars[d.Name]; bar != nil {
			last := migration.Snapshot{Name: d.Name, Phase: v.Report.Outcome.String(), Bytes: d.Bytes}
			bar.set(status{Snapshot: last, ended: v.Report.Outcome == migration.Committed})
		}
	}
	b.freeze()
	printReport(b.out, v)
}

// freeze ends the drawing: later lines come below the bars.
func (b *barView) freeze() {
	for _, bar := range b.bars {
		bar.Abort(false)
	}
	if b.stages != nil {
		b.stages.Abort(true) // the stages are over
	}
	if b.screen != nil {
		b.screen.Wait()
	}
	clear(b.bars)
	b.screen, b.stages = nil, nil
}

// deviceBar is a row of the screen.
type deviceBar struct {
	*mpb.Bar
	mu  sync.Mutex
	row row
}

func (d *deviceBar) set(s status) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.row.set(s)
}

// leave shows how the device ended, unless a newer state is known.
func (d *deviceBar) leave(o migration.Outcome) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.row.now.Phase, d.row.now.Known = o.String(), false
}

func (d *deviceBar) text(now decor.Statistics) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.row.text(now.AvailableWidth)
}

// stageBar is the row below those of the devices.
type stageBar struct {
	*mpb.Bar
	text atomic.Pointer[string]
}

func (s *stageBar) row(now decor.Statistics) string {
	text := s.text.Load()
	if text == nil {
		return ""
	}
	return (*text)[:min(len(*text), max(0, now.AvailableWidth))]
}

// row is the line of a device.
type row struct {
	names int // width of the column of names
	now   status
	part  float64 // of the bar that is full; half where it is not known
}

func (r *row) set(s status) {
	r.now = s
	switch total, known := s.total(); {
	case s.ended:
		r.part = 1
	case known && total > 0:
		r.part = float64(s.Bytes) / float64(total)
	}
}

// Widths of columns: the bar gives way first, then whole columns do.
const (
	widestBar    = 24
	narrowestBar = 8
)

// text fits a row into a width. What remains, and how long it takes, is what
// people wait for, so that goes last.
func (r *row) text(width int) string {
	s := r.now
	head := fmt.Sprintf("%-*s %-9s ", r.names, s.Name, s.Phase)
	amount, speed := fmt.Sprintf(" %-22s", s.amount()), fmt.Sprintf(" %-12s", s.speed())
	rest := fmt.Sprintf(" %-28s", s.rest())
	for _, tail := range []string{amount + speed + rest, amount + rest, rest} {
		bar := width - utf8.RuneCountInString(head) - len(tail)
		if bar >= narrowestBar {
			return strings.TrimRight(head+r.bar(min(bar, widestBar))+tail, " ")
		}
	}
	return strings.TrimRight(head+rest, " ")
}

// bar is full only when the device has ended.
func (r *row) bar(width int) string {
	inner := width - 2
	full := int(r.part * float64(inner))
	if !r.now.ended {
		full = min(full, inner-1)
	}
	return "[" + strings.Repeat("=", full) + strings.Repeat("-", inner-full) + "]"
}
