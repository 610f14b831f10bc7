package ui

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/transport/migration"
)

// scraped is a program that serves metrics at an address, and where it says that it does.
func scraped(t *testing.T, address string) (*Metrics, string) {
	t.Helper()
	s := &Observer{wake: make(chan struct{}, 1)}
	for _, ev := range underWay(journal.Source) {
		s.Observe(ev)
	}
	m := &Metrics{Address: address}
	if err := m.Open(journal.Source, s); err != nil {
		t.Fatal(err)
	}
	last := s.queue[len(s.queue)-1]
	if last.Kind != serving {
		t.Fatalf("told %+v", last)
	}
	return m, last.Text
}

// scrape asks what listens there, for a path of a host that is called like that.
func scrape(t *testing.T, network, address, method, hostPath string) (int, string) {
	t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}}
	defer transport.CloseIdleConnections()
	q, err := http.NewRequestWithContext(t.Context(), method, "http://"+hostPath, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := (&http.Client{Transport: transport}).Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

func TestScrape(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	for network, address := range map[string]string{"tcp": "127.0.0.1:0", "unix": "unix:" + path} {
		t.Run(network, func(t *testing.T) {
			defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
			m, at := scraped(t, address)
			if network == "unix" {
				if info, err := os.Lstat(path); err != nil || info.Mode() != fs.ModeSocket|0o600 {
					t.Errorf("the socket is %v, %v", info, err)
				}
				at = strings.TrimPrefix(at, UnixPrefix)
			}
			code, text := scrape(t, network, at, "GET", "localhost/metrics")
			for _, line := range []string{`migpipe_bottleneck{stage="network"} 1`, `migpipe_stage_occupancy_ratio{stage="queue"} 0.8277`, "go_goroutines ", "process_cpu_seconds_total "} {
				if code != http.StatusOK || !strings.Contains(text, "\n"+line) {
					t.Errorf("%d, and no %s in\n%s", code, line, text)
				}
			}
			for _, other := range [][2]string{{"GET", "localhost/"}, {"GET", "localhost/debug/pprof/"}, {"POST", "localhost/metrics"}} {
				if code, _ := scrape(t, network, at, other[0], other[1]); code < 400 {
					t.Errorf("%s %s: %d", other[0], other[1], code)
				}
			}
			if code, _ := scrape(t, network, at, "GET", "rebound.example/metrics"); (code == http.StatusOK) != (network == "unix") {
				t.Errorf("by a name that may be anybody's: %d", code)
			}
			m.Close()
			if _, err := net.Dial(network, at); err == nil {
				t.Error("somebody still listens")
			}
		})
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket's file is left: %v", err)
	}
}

// TestScrapeByName: no web page can have a browser scrape under the page's name.
func TestScrapeByName(t *testing.T) {
	for _, c := range []struct {
		address, host string
		want          int
	}{
		{"127.0.0.1:9100", "127.0.0.1:9100", 200},
		{"127.0.0.1:9100", "192.0.2.1", 200}, // translated on the way
		{"127.0.0.1:9100", "[::1]:9100", 200},
		{"[fe80::1%eth0]:9100", "[fe80::1]:9100", 200},
		{"[fe80::1%eth0]:9100", "[fe80::1%25eth0]:9100", 200},
		{"127.0.0.1:9100", "LocalHost:1", 200},
		{"127.0.0.1:9100", "rebound.example:9100", 403},
		{"127.0.0.1:9100", "127.0.0.1.example", 403},
		{"127.0.0.1:9100", "localhost.example:9100", 403},
		{":9100", "dest.example:9100", 403},
		{"dest.example:9100", "dest.example:9100", 200},
		{"unix:s", "dest.example", 200},
	} {
		all := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
		q, answer := httptest.NewRequest("GET", "http://"+c.host+"/metrics", nil), httptest.NewRecorder()
		(&Metrics{Address: c.address}).knownByName(all).ServeHTTP(answer, q)
		if answer.Code != c.want {
			t.Errorf("%s is asked as %s: %d, want %d", c.address, c.host, answer.Code, c.want)
		}
	}
}

// TestScrapersAreBounded: those who stay connected take no more than their part of the
// program's descriptors, and do not keep it from its end.
func TestScrapersAreBounded(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	m, at := scraped(t, "127.0.0.1:0")
	for i := range maxScrapers + 3 {
		conn, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		wait, want := 10*time.Second, 1
		if i >= maxScrapers {
			wait, want = 100*time.Millisecond, 0
		}
		conn.SetReadDeadline(time.Now().Add(wait))
		if n, err := conn.Read(make([]byte, 1)); n != want {
			t.Errorf("number %d is told %d bytes, %v", i, n, err)
		}
	}
	start := time.Now()
	m.Close()
	if took := time.Since(start); took > 20*scrapeEnd {
		t.Errorf("the end took %v", took)
	}
}

// TestMetricsAddress: an address that cannot be listened on is an error with a hint, and no event.
func TestMetricsAddress(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "precious")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for address, want := range map[string]string{
		"9100":                              "missing port",
		"127.0.0.1:70000":                   "invalid port",
		"192.0.2.1:9100":                    "cannot assign requested address",
		taken.Addr().String():               "address already in use",
		"unix:":                             "no path",
		"unix:@abstract":                    "no path",
		"unix:" + file:                      "not a socket",
		"unix:" + dir + "/no/no":            "no such file or directory",
		"unix:/" + strings.Repeat("x", 200): "at most 107 fit",
	} {
		s := &Observer{wake: make(chan struct{}, 1)}
		m := &Metrics{Address: address}
		err := m.Open(journal.Source, s)
		wrong, ok := errors.AsType[*Mistake](err)
		if !ok || !strings.HasPrefix(wrong.Text, "--metrics ") || !strings.Contains(wrong.Text, want) || wrong.Hint == "" || len(s.queue) > 0 {
			t.Errorf("%s: %v, want %q; told %v", address, err, want, s.queue)
		}
		m.Close() // of what was never opened
	}
	if m := (&Metrics{}); m.Open(journal.Source, nil) != nil || m.server != nil {
		t.Error("metrics are served although nobody has asked for them")
	}
}

// TestServingEvent: the event is like that of the address of a mig-recv.
func TestServingEvent(t *testing.T) {
	var events, lines, bars bytes.Buffer
	j := newJSONView("mig-send", io.Discard, &events)
	ev := stamped{at: time.Now(), Event: migration.Event{Kind: serving, Text: "127.0.0.1:9100"}}
	j.event(ev)
	newLineView("mig-send", &lines, io.Discard).event(ev)
	newBarView("mig-send", &bars, io.Discard).event(ev)
	if got := clocks.ReplaceAllString(events.String(), "T"); got != `{"event":"metrics",T,"side":"source","address":"127.0.0.1:9100"}`+"\n" {
		t.Errorf("the event is %s", got)
	}
	const want = "mig-send: metrics on 127.0.0.1:9100\n"
	if lines.String() != want || bars.String() != want {
		t.Errorf("people are told %q and %q", lines.String(), bars.String())
	}
}
