package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/report"
)

// TestCarrierEvent: people read which carrier was chosen and what was found of each;
// programs get the figures, where there are some.
func TestCarrierEvent(t *testing.T) {
	of := func(carrier string, rtt time.Duration, rate float64, err error) reader.Candidate {
		return reader.Candidate{Carrier: carrier, Found: report.Preflight{RTT: rtt, Rate: rate}, Err: err}
	}
	nobody := &transport.Fault{Code: transport.CodeNetwork, Err: transport.ErrUnreachable}
	for _, c := range []struct {
		all          []reader.Candidate
		text, events string
	}{
		{
			[]reader.Candidate{of("tls", 100*time.Microsecond, 1<<30, nil), of("quic", 2*time.Millisecond, 512<<20, nil)},
			"carrier: tls (tls: 1.0 GiB/s, 100 us; quic: 512.0 MiB/s, 2.0 ms)",
			`"chosen":"tls","measured":[{"name":"tls","rtt_ms":0.1,"rate_bytes_per_s":1073741824},{"name":"quic","rtt_ms":2,"rate_bytes_per_s":536870912}]`,
		},
		{
			[]reader.Candidate{of("quic", 50*time.Millisecond, 0, nil)},
			"carrier: quic (quic: 50.0 ms)",
			`"chosen":"quic","measured":[{"name":"quic","rtt_ms":50}]`,
		},
		{
			[]reader.Candidate{of("tls", 0, 0, errors.New("no room")), of("quic", 0, 0, nobody)},
			"carrier: tls (tls: no room; quic: nobody answers)",
			`"chosen":"tls","measured":[{"name":"tls","error":"no room"},{"name":"quic","error":"the peer cannot be reached"}]`,
		},
	} {
		show := &show{}
		show.carrying(c.all)
		var events, lines, bars bytes.Buffer
		newJSONView("mig-send", io.Discard, &events).event(show.queue[0])
		newLineView("mig-send", &lines, io.Discard).event(show.queue[0])
		newBarView("mig-send", &bars, io.Discard).event(show.queue[0])
		if got := events.String(); !json.Valid([]byte(got)) || !strings.HasPrefix(got, `{"event":"carrier",`) || !strings.HasSuffix(got, c.events+"}\n") {
			t.Errorf("%s, want %s", got, c.events)
		}
		for _, got := range []string{lines.String(), bars.String()} {
			if got != "mig-send: "+c.text+"\n" {
				t.Errorf("%q, want %q", got, c.text)
			}
		}
	}
}
