package migrate

import (
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/journal"
)

// BenchmarkJournal is what durable journals on both sides cost of a downtime: a
// migration of 96 bytes over QUIC on loopback, from the pause of the guest to RUNNING
// at the destination. READY, COMMIT and ACCEPT are on that way. The two ways take turns,
// so that both meet the same machine.
func BenchmarkJournal(b *testing.B) {
	dir := b.TempDir()
	var took [2][]time.Duration // without, with
	for i := range 2 * b.N {
		p := barePair(b, overQUIC)
		p.add(b, "d0", "mtty", "mtty")
		p.send.OnLimit = reader.Force
		if i%2 == 1 {
			p.journals(b, filepath.Join(dir, strconv.Itoa(i)))
		}
		s, r := p.run(b)
		if s.err != nil || r.err != nil {
			b.Fatalf("send: %v\nreceive: %v", s.err, r.err)
		}
		took[i%2] = append(took[i%2], s.report.Downtime)
	}
	for i, name := range []string{"ms-without", "ms-with"} {
		slices.Sort(took[i])
		b.ReportMetric(took[i][len(took[i])/2].Seconds()*1e3, name)
	}
	b.ReportMetric(0, "ns/op") // of both, and of much else
}

// journals gives both sides journals in files, in a folder that is not there yet.
func (p *pair) journals(t testing.TB, dir string) {
	t.Helper()
	a := transport.Attempt{Mig: transport.NewMigID(), Epoch: 1}
	j, err := journal.Open(dir, journal.Options{Role: journal.Source, Mig: a.Mig})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	p.send.Attempt, p.send.Journal = a, j
	p.receive.Journals = func(mig transport.MigID, existing bool) (handoff.Journal, error) {
		return journal.Open(dir, journal.Options{Role: journal.Destination, Mig: mig, Existing: existing})
	}
}
