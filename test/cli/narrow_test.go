package cli

import (
	"bufio"
	"encoding/json"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/migpipe/migpipe/test/netns"
)

// TestPathNarrows: the MTU of a router falls during the switchover, and the router sends
// no ICMP message. Small packets pass, so every connection lives; packets of data are
// lost. The source dials the lanes again, and the new lanes work.
func TestPathNarrows(t *testing.T) {
	needPacketFilter(t)
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	source, destination := identity(t, "mig-send"), identity(t, "mig-recv")
	for _, carrier := range []string{"", "tls://"} {
		t.Run(carrier, func(t *testing.T) {
			t.Parallel()
			n := netns.New(t)
			n.Router.Run(t, "nft", "add table inet quiet; add chain inet quiet out { type filter hook output priority 0; }; add rule inet quiet out meta l4proto { icmp, ipv6-icmp } drop")
			// This counts connections that begin with small segments: the usual ones are 1460 bytes long.
			n.Router.Run(t, "nft", "add counter inet quiet small; add chain inet quiet through { type filter hook forward priority 0; }; add rule inet quiet through tcp flags & (syn|ack) == syn tcp option maxseg size < 1300 counter name small")
			small := func() bool {
				return !strings.Contains(n.Router.Run(t, "nft", "list counter inet quiet small"), "packets 0 ")
			}
			at := carrier + net.JoinHostPort(n.Destination.IPv4, "7000")
			recv := n.Destination.Enter(command(t, "mig-recv", "--json", "--listen", at, "--peer", source, "--device", "d=sim:xe"))
			listen(t, recv)
			// Without PRE_COPY all of the state travels during the switchover: 2 s at this rate.
			send := n.Source.Enter(command(t, "mig-send", "--json", "--to", at, "--peer", destination, "--device", "d=sim:xe?size=32MiB",
				"--max-bandwidth", "16MiB/s", "--downtime-target", "20s", "--resume-after", "20s"))
			out := start(t, send)
			var done struct {
				Outcome  string
				Downtime float64 `json:"downtime_ms"`
			}
			warned := false
			for events := bufio.NewScanner(out); events.Scan(); {
				var ev struct{ Event, Phase, Text string }
				if err := json.Unmarshal(events.Bytes(), &ev); err != nil {
					t.Fatal(err)
				}
				switch ev.Event {
				case "phase":
					if ev.Phase == "stop-copy" {
						time.Sleep(500 * time.Millisecond) // some of it arrives before the change
						if small() {
							t.Error("a connection is begun with small segments before one was lost")
						}
						n.Router.Run(t, "ip", "link", "set", netns.ToDestination, "mtu", "1400")
					}
				case "warning":
					warned = warned || strings.Contains(ev.Text, "has read nothing of what data lane")
				case "done":
					json.Unmarshal(events.Bytes(), &done)
				}
			}
			// TCP's own limit for unacknowledged data is as long, and may end the connection first.
			told := warned || carrier != ""
			if err := send.Wait(); err != nil || done.Outcome != "committed" || !told {
				t.Errorf("mig-send: %v, %+v; it has warned: %v", err, done, warned)
			}
			if carrier == "tls://" && !small() {
				t.Error("no connection that was dialled again has asked for small segments")
			}
			if done.Downtime < 3500 || done.Downtime > 8000 {
				t.Errorf("the downtime is %v ms, and the lanes need 2 s of it", done.Downtime)
			}
			if err := recv.Wait(); err != nil {
				t.Errorf("mig-recv: %v", err)
			}
		})
	}
}
