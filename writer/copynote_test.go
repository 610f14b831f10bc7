package writer

import (
	"bytes"
	"strings"
	"testing"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
)

// twoNotes are the notes of two devices. The second has the longest name.
func twoNotes() []copyNote {
	h := &wire.Hello{Attempt: migration.Attempt{Mig: migration.ID{1}, Epoch: 3},
		Devices: []wire.DeviceOffer{{Name: "a"}, {Name: strings.Repeat("b", wire.MaxName)}}}
	all := make([]copyNote, len(h.Devices))
	for i := range all {
		all[i] = *newCopyNote(h, i, migration.JournalID{4})
		all[i].Digest = migration.StreamDigest{byte(i)}
	}
	return all
}

// TestCopyNote checks that a note is read as it was written, and fits the place that a device has
// for it.
func TestCopyNote(t *testing.T) {
	for _, want := range twoNotes() {
		b, err := want.encode()
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > vfio.MaxNote {
			t.Errorf("a note has %d bytes, at most %d", len(b), vfio.MaxNote)
		}
		if got, err := parseCopyNote(b); err != nil || got != want {
			t.Errorf("%+v, %v\nwant %+v", got, err, want)
		}
		for n := range b {
			if _, err := parseCopyNote(b[:n]); err == nil {
				t.Errorf("a note that is cut to %d bytes is accepted", n)
			}
		}
	}
}

// TestVerify checks that a copy is resumed only with notes of one attempt, journal and set, each
// with its device, and with the recorded digest.
func TestVerify(t *testing.T) {
	last := handoff.Entry{Record: handoff.Ready, Attempt: migration.Attempt{Mig: migration.ID{1}, Epoch: 3}, Journal: migration.JournalID{4},
		Digest: wire.SetDigest([]migration.StreamDigest{{0}, {1}})}
	targets := []Target{{Name: strings.Repeat("b", wire.MaxName)}, {Name: "a"}}
	for name, c := range map[string]struct {
		change func(found []copyNote)
		want   string
	}{
		"as they were":            {func([]copyNote) {}, ""},
		"an older attempt":        {func(f []copyNote) { f[1].Epoch-- }, "attempt 2"},
		"another migration":       {func(f []copyNote) { f[1].Mig[0]++ }, "attempt 3"},
		"another journal":         {func(f []copyNote) { f[0].Destination[0]++ }, "attempt 3"},
		"a set of three":          {func(f []copyNote) { f[0].Devices, f[1].Devices = 3, 3 }, "another set"},
		"the same device twice":   {func(f []copyNote) { f[0].Device = f[1].Device }, "another set"},
		"a device beyond all":     {func(f []copyNote) { f[0].Device = 2 }, "another set"},
		"names that have changed": {func(f []copyNote) { f[1].Name[0]++ }, "a device \"b\""},
		"another digest":          {func(f []copyNote) { f[1].Digest[1]++ }, "is recorded"},
	} {
		all := twoNotes()
		found := []copyNote{all[1], all[0]}
		c.change(found)
		err := verify(found, targets, last)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// FuzzCopyNote checks that any bytes can be parsed, and that a note is written as it was read.
func FuzzCopyNote(f *testing.F) {
	for _, n := range twoNotes() {
		b, err := n.encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)-1])
		f.Add(append([]byte{2}, b[1:]...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := parseCopyNote(b)
		if err != nil {
			return
		}
		if again, err := n.encode(); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x\nis written as %x (%v)", b, again, err)
		}
		_ = verify([]copyNote{n}, []Target{{Name: "a"}}, handoff.Entry{Attempt: migration.Attempt{Mig: n.Mig, Epoch: n.Epoch}, Journal: n.Destination})
	})
}
