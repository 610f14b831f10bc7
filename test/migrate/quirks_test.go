package migrate

import (
	"testing"
	"time"

	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
)

// TestQuirks checks the engines against their rows of vfio/QUIRKS.md.
func TestQuirks(t *testing.T) {
	for name, test := range map[string]func(*testing.T, carrier){
		"quirk22_refused_in_pre_copy":  quirk22,
		"quirk33_work_inside_SET":      quirk33,
		"quirk34_reads_ahead":          quirk34,
		"quirk38_full_image_once_more": quirk38,
	} {
		t.Run(name, func(t *testing.T) { timed(t, false, test) })
	}
}

// A driver judges the state when its bytes arrive: the guest must still run then.
func quirk22(t *testing.T, c carrier) {
	p := newPair(t, c)
	src, _ := p.add(t, "nic0", "mlx5?size=8MiB&version=2", "mlx5?size=8MiB")
	s, r := p.run(t)
	if f := r.fault(t); f.Device != "nic0" || f.Remote {
		t.Errorf("receive: %v", f)
	}
	if s.report.Downtime != 0 {
		t.Errorf("the guest was stopped for %v", s.report.Downtime)
	}
	for _, e := range src.Log() {
		if e.To == vfio.StopCopy || e.To == vfio.Stop {
			t.Errorf("the source went to %v", e.To)
		}
	}
}

// pds saves inside SET STOP_COPY, xe during the reads: the report shows which.
func quirk33(t *testing.T, c carrier) {
	for profile, stage := range map[string]string{"pds?size=40KiB&save=40KiB/s": "stop", "xe?size=2MiB&save=2MiB/s": "fill"} {
		p := newPair(t, c)
		p.add(t, "d0", profile, profile)
		s, _ := p.succeed(t)
		for _, st := range s.report.Stages {
			if (st.Name == stage) != (st.Took > 500*time.Millisecond) {
				t.Errorf("%s: stage %s took %v; the second is spent in %s", profile, st.Name, st.Took, stage)
			}
		}
	}
}

// A device that is idle while unread is read as far as memory allows, even if the rest is
// slow.
func quirk34(t *testing.T, c carrier) {
	p := newPair(t, c)
	p.add(t, "gpu0", "xe?size=24MiB", "xe?size=24MiB&load=2MiB/s")
	p.send.ResumeAfter = time.Minute
	var ahead uint64
	p.send.Observe = func(ev migration.Event) {
		for _, d := range ev.Devices {
			ahead = max(ahead, d.Bytes-min(d.Bytes, d.Applied))
		}
	}
	p.succeed(t)
	if ahead < 16<<20 {
		t.Errorf("at most %d bytes were read ahead of the destination", ahead)
	}
}

// STOP_COPY may yield the whole image again after PRE_COPY has yielded it already.
func quirk38(t *testing.T, c carrier) {
	p := newPair(t, c)
	p.add(t, "net0", "virtio?size=4MiB", "virtio?size=4MiB")
	s, _ := p.succeed(t)
	if d := s.report.Devices[0]; d.Bytes-d.PrecopyBytes < 4<<20 || d.PrecopyBytes < 4<<20 {
		t.Errorf("%d bytes before the stop and %d after it: no full image twice", d.PrecopyBytes, d.Bytes-d.PrecopyBytes)
	}
}
