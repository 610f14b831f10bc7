package writer

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/vfio"
)

// someNotes are those of two devices, of which the second has the longest name.
func someNotes(t testing.TB) []note {
	t.Helper()
	h := &transport.Hello{Attempt: transport.Attempt{Mig: transport.MigID{1}, Epoch: 3}, Journal: transport.JournalID{2},
		Codecs: []codec.ID{codec.IDRaw, codec.IDZero, 3, 255}, ChunkSize: 1 << 20, Lanes: 16,
		Devices: []transport.DeviceOffer{{Name: "a", Priority: 2}, {Name: strings.Repeat("b", transport.MaxName)}}}
	all := notes(h, terms{chunkSize: 4096, lanes: 3}, transport.JournalID{4})
	for i, n := range all {
		for seq := range uint64(i + 1) {
			n.digest.Add(transport.ChunkHead{Seq: seq, Offset: 10 * seq, RawLen: 10, Digest: seq})
		}
	}
	return all
}

// TestNote: what is read is what was written, and it fits where it is kept.
func TestNote(t *testing.T) {
	all := someNotes(t)
	for _, want := range all {
		b, err := want.encode()
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > vfio.MaxNote {
			t.Errorf("a note has %d bytes, at most %d", len(b), vfio.MaxNote)
		}
		got, err := parseNote(b)
		if err != nil || got.noteHead != want.noteHead || got.digest.Sum() != want.digest.Sum() || got.digest.Chunks() != want.digest.Chunks() {
			t.Errorf("%+v, %v\nwant %+v", got, err, want)
		}
		for n := range b {
			if _, err := parseNote(b[:n]); err == nil {
				t.Errorf("cut to %d bytes, it is a note", n)
			}
		}
	}
	h := offer(all)
	want := &transport.Hello{Attempt: transport.Attempt{Mig: transport.MigID{1}, Epoch: 3}, Journal: transport.JournalID{2},
		Codecs: []codec.ID{codec.IDRaw, codec.IDZero, 3, 255}, ChunkSize: 4096, Lanes: 3, Versions: transport.Versions{Min: 1, Max: 1},
		Devices: []transport.DeviceOffer{{Name: "a", Priority: 2}, {Name: strings.Repeat("b", transport.MaxName)}}}
	if !reflect.DeepEqual(h, want) {
		t.Errorf("%+v\nwant %+v", h, want)
	}
}

// TestSorted: sinks go on only with notes of one attempt, journal and set, each with
// its own.
func TestSorted(t *testing.T) {
	last := handoff.Entry{Record: handoff.Open, Attempt: transport.Attempt{Mig: transport.MigID{1}, Epoch: 3}, Journal: transport.JournalID{4}}
	sinks := []Sink{{Name: strings.Repeat("b", transport.MaxName)}, {Name: "a"}}
	for name, c := range map[string]struct {
		change func(found []note)
		want   string
	}{
		"as they were":            {func([]note) {}, ""},
		"an older attempt":        {func(f []note) { f[1].Epoch-- }, "attempt 2"},
		"another migration":       {func(f []note) { f[1].Mig[0]++ }, "attempt 3"},
		"another journal":         {func(f []note) { f[0].Destination[0]++ }, "attempt 3"},
		"another source":          {func(f []note) { f[1].Source[0]++ }, "another set"},
		"other terms":             {func(f []note) { f[1].ChunkSize++ }, "another set"},
		"a set of three":          {func(f []note) { f[0].Devices, f[1].Devices = 3, 3 }, "another set"},
		"the same device twice":   {func(f []note) { f[0].Device = f[1].Device }, "another set"},
		"a device beyond all":     {func(f []note) { f[0].Device = 2 }, "another set"},
		"names that have changed": {func(f []note) { f[1].Name[0]++ }, "a device \"b\""},
	} {
		all := someNotes(t)
		found := []note{all[1], all[0]}
		c.change(found)
		got, order, err := sorted(found, sinks, last)
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v, want %q", name, err, c.want)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(order, []int{1, 0}) || got[0].name() != "a" || got[1].Device != 1 {
			t.Errorf("%s: order %v, %v", name, order, err)
		}
	}
}

// FuzzNote: what a file says of itself may be anything; what is a note is written as
// it was read.
func FuzzNote(f *testing.F) {
	for _, n := range someNotes(f) {
		b, err := n.encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)-1])
		f.Add(append([]byte{2}, b[1:]...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := parseNote(b)
		if err != nil {
			return
		}
		again, err := n.encode()
		if err != nil || !bytes.Equal(again[:noteHeadLen], b[:noteHeadLen]) {
			t.Fatalf("%x\nis written as %x (%v)", b, again, err)
		}
		_, _, _ = sorted([]note{n}, []Sink{{Name: "a"}}, handoff.Entry{Attempt: transport.Attempt{Mig: n.Mig, Epoch: n.Epoch}, Journal: n.Destination})
		_ = offer([]note{n})
	})
}
