package ui

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	"golang.org/x/net/netutil"

	"github.com/migpipe/migpipe/internal/unixsocket"
	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/transport/migration"
)

// MetricsHelp is the part of the help texts about metrics.
const MetricsHelp = `With --metrics ADDR:PORT the program serves metrics for Prometheus while it runs, at
http://ADDR:PORT/metrics: what progress shows, and what the process takes. Port 0 means
any that is free; a line, or with --json the event "metrics", says which it is. Nobody
is asked who he is; what is served names the devices, and who keeps asking can keep
others from it: use an address that only those reach who may do that, or unix:PATH, a
socket that only this user may connect to. A scraper asks for an IP address, for
localhost, or for ADDR if that is a name: requests for others are refused, since a web
page's may have been made to mean this host.`

// serving is the event with the address of the metrics.
const serving migration.Kind = "metrics"

// What scrapers may take of the program.
const (
	maxScrapers = 8
	scrapeTime  = 10 * time.Second // also between two scrapes: a silent scraper loses its place
	scrapeEnd   = 200 * time.Millisecond
)

// Metrics is where metrics are served, and what serves them.
type Metrics struct {
	Address string
	server  *metricsServer // nil as long as nothing does
}

// Add registers the flag.
func (m *Metrics) Add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&m.Address, "metrics", "", "`ADDR:PORT` to serve Prometheus metrics on, or unix:PATH (default none)")
	_ = cmd.RegisterFlagCompletionFunc("metrics", cobra.NoFileCompletions)
}

// Open begins to serve, if that was asked for, what show has heard last.
func (m *Metrics) Open(r journal.Role, show *Observer) error {
	if m.Address == "" {
		return nil
	}
	l, err := m.listen()
	if err != nil {
		return Mistakef("write --metrics ADDR:PORT, as in 127.0.0.1:9100, or --metrics unix:PATH, that nobody else uses", "--metrics %.120s: %s", m.Address, PlainText(err))
	}
	address := m.Address
	if !m.unix() {
		address = l.Addr().String()
	}
	show.add(stamped{at: time.Now(), Event: migration.Event{Kind: serving, Text: address}})
	m.server = serveMetrics(l, m.knownByName(metricsHandler(newRegistry(r, &show.latest))), show.Warn)
	return nil
}

// Close ends it, and is the end of a socket's file.
func (m *Metrics) Close() {
	if m.server != nil {
		m.server.close()
	}
}

func (m *Metrics) unix() bool { return strings.HasPrefix(m.Address, UnixPrefix) }

func (m *Metrics) listen() (net.Listener, error) {
	if !m.unix() {
		var sockets net.ListenConfig
		sockets.SetMultipathTCP(false) // whose address has no zone
		l, err := sockets.Listen(context.Background(), "tcp", m.Address)
		if op, ok := errors.AsType[*net.OpError](err); ok {
			err = op.Err // without the address, which the text has already
		}
		return l, err
	}
	path := strings.TrimPrefix(m.Address, UnixPrefix)
	if path == "" || path[0] == '@' { // which have no file, and so no mode
		return nil, errors.New("the socket has no path")
	}
	return unixsocket.Listen(path)
}

// knownByName refuses requests to other host names. The owner of a web page can make its name
// resolve to this host, and a browser here would then read the metrics for the page (DNS
// rebinding).
func (m *Metrics) knownByName(next http.Handler) http.Handler {
	if m.unix() { // which no browser connects to
		return next
	}
	own, _, _ := net.SplitHostPort(m.Address) // which could be listened on
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		name := (&url.URL{Host: q.Host}).Hostname()
		_, err := netip.ParseAddr(name)
		if err != nil && !strings.EqualFold(name, "localhost") && !strings.EqualFold(name, own) {
			http.Error(w, "ask for an IP address, for localhost, or for the name in --metrics", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, q)
	})
}

// metricsHandler is what can be asked for.
func metricsHandler(reg *prometheus.Registry) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{
		ErrorHandling:      promhttp.ContinueOnError, // the other metrics are still of use
		DisableCompression: true,                     // a few KiB are not worth CPU time while a guest is paused
	}))
	return mux
}

// metricsServer answers scrapers.
type metricsServer struct {
	http http.Server
	done chan struct{}
}

// serveMetrics serves at the listener, which it owns. It warns if it has to end.
func serveMetrics(l net.Listener, handler http.Handler, warn func(string)) *metricsServer {
	s := &metricsServer{done: make(chan struct{}), http: http.Server{
		Handler: handler, ReadHeaderTimeout: scrapeTime, ReadTimeout: scrapeTime, WriteTimeout: scrapeTime, IdleTimeout: scrapeTime,
		MaxHeaderBytes: 16 << 10, ErrorLog: log.New(io.Discard, "", 0), // stderr has its own readers
	}}
	go func() { // close ends it
		defer close(s.done)
		if err := s.http.Serve(netutil.LimitListener(l, maxScrapers)); !errors.Is(err, http.ErrServerClosed) {
			warn("metrics are no longer served: " + err.Error())
		}
	}()
	return s
}

// close waits a moment for scrapes that are in progress.
func (s *metricsServer) close() {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeEnd)
	defer cancel()
	if s.http.Shutdown(ctx) != nil {
		s.http.Close()
	}
	<-s.done
}
