package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/migpipe/migpipe/internal/crc32c"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
)

var mig = migration.ID{0xaa, 1, 2, 3}

func open(t testing.TB, dir string, o Options) *Journal {
	t.Helper()
	o.Mig = mig
	if o.Role == 0 {
		o.Role = Source
	}
	j, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

func entry(r handoff.Record, epoch uint64) handoff.Entry {
	return handoff.Entry{Record: r, Attempt: migration.Attempt{Mig: mig, Epoch: epoch}}
}

func appendAll(t testing.TB, j *Journal, entries ...handoff.Entry) {
	t.Helper()
	for _, e := range entries {
		if err := j.Append(e); err != nil {
			t.Fatal(err)
		}
	}
}

// TestReopened: the next process that opens the file finds the entries, with
// its notes, and the id stays.
func TestReopened(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	j := open(t, dir, Options{})
	if last := j.Last(); last.Record != handoff.Owner || last.Attempt.Epoch != 0 {
		t.Errorf("a new journal says %+v", last)
	}
	e := entry(handoff.Open, 3)
	e.Digest, e.PeerJournal = migration.StreamDigest{1, 2}, migration.JournalID{9}
	e.PeerID, e.Witness, e.Sole = transport.PeerID{7}, 0x8001, true
	e.Why = handoff.Why{Bytes: 1 << 40, Code: transport.CodeCorrupt, Text: "why"}
	appendAll(t, j, e)
	id := j.ID()
	j.Close()

	j = open(t, dir, Options{})
	got := j.all[len(j.all)-1]
	want := Record{Entry: e, Seq: 2, Role: Source, Time: got.Time, Boot: thisBoot()}
	want.Journal = id
	if got != want || j.ID() != id || j.Last() != want.Entry {
		t.Errorf("%+v of %v, want %+v of %v", got, j.ID(), want, id)
	}
	if age := time.Since(got.Time); age < 0 || age > time.Minute {
		t.Errorf("the record is %v old", age)
	}
	info, err := os.Stat(j.file.Name())
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestNewIsIdle(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir, Options{Role: Destination})
	if r := d.Last().Record; r != handoff.None {
		t.Errorf("the destination's says %v", r)
	}
	if open(t, dir, Options{}).ID() == d.ID() {
		t.Error("both sides of one host share a journal")
	}
}

// TestBusy: one process at a time, since each believes what it has read.
func TestBusy(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, Options{})
	if _, err := Open(dir, Options{Role: Source, Mig: mig}); !errors.Is(err, ErrBusy) {
		t.Errorf("opened twice: %v", err)
	}
	if _, err := Read(j.file.Name()); err != nil {
		t.Errorf("a reader is kept out: %v", err)
	}
	j.Close()
	open(t, dir, Options{})
}

func TestVolatile(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "journal")
	if err != nil {
		t.Skipf("SKIP: no tmpfs at /dev/shm: %v", err)
	}
	defer os.RemoveAll(dir)
	if _, err := Open(dir, Options{Role: Source, Mig: mig}); !errors.Is(err, ErrVolatile) {
		t.Errorf("on tmpfs: %v", err)
	}
	open(t, dir, Options{Volatile: true})
}

// TestReserved: an attempt's records lie in blocks that the file has already.
func TestReserved(t *testing.T) {
	j := open(t, t.TempDir(), Options{})
	for epoch := range uint64(20) {
		appendAll(t, j, entry(handoff.Open, epoch+1))
		size := fileSize(t, j)
		appendAll(t, j, entry(handoff.Commit, epoch+1), entry(handoff.Owner, epoch+1))
		if got := fileSize(t, j); got != size {
			t.Fatalf("the file grew from %d to %d bytes within attempt %d", size, got, epoch+1)
		}
	}
}

func fileSize(t testing.TB, j *Journal) int64 {
	info, err := j.file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// written is the bytes of a journal with OPEN, COMMIT and DONE of one attempt.
func written(t testing.TB) []byte {
	dir := t.TempDir()
	j := open(t, dir, Options{})
	appendAll(t, j, entry(handoff.Open, 1), entry(handoff.Commit, 1), entry(handoff.Done, 1))
	j.Close()
	b, err := os.ReadFile(filepath.Join(dir, Name(Source, mig)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestRefusedAtOnce: the attempt that a destination refuses has no record before
// ABORTED, which needs its room all the same.
func TestRefusedAtOnce(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, Options{Role: Destination})
	appendAll(t, j, entry(handoff.Aborted, 1), entry(handoff.Aborted, 2), entry(handoff.Open, 3))
	j.Close()
	if last := open(t, dir, Options{Role: Destination}).Last(); last.Record != handoff.Open || last.Attempt.Epoch != 3 {
		t.Errorf("the journal ends with %+v", last)
	}
}

// TestWriteTook: one write that is slow, or unlike the others, does not stand for the next.
func TestWriteTook(t *testing.T) {
	j := open(t, t.TempDir(), Options{})
	for _, c := range []struct {
		before  time.Duration
		shorter bool
	}{{time.Hour, true}, {1, false}} {
		j.took = c.before
		appendAll(t, j, entry(handoff.Open, 1))
		if got := j.WriteTook(); (got < c.before) != c.shorter {
			t.Errorf("after a write of %v: %v", c.before, got)
		}
	}
}

// TestTorn: with every byte the last that was written, and with every byte of the
// last record wrong, the last whole record counts, and the journal goes on behind it.
func TestTorn(t *testing.T) {
	whole := written(t)
	end := 4 * recordLen
	check := func(what string, b []byte, records int) {
		t.Helper()
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, Name(Source, mig)), b, 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := Open(dir, Options{Role: Source, Mig: mig})
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		defer j.Close()
		if len(j.all) != max(1, records) {
			t.Fatalf("%s: %d records, want %d", what, len(j.all), records)
		}
		if records == 0 {
			return
		}
		appendAll(t, j, entry(handoff.Open, 2))
		if again, err := Read(j.file.Name()); err != nil || len(again) != records+1 || again[records].Attempt.Epoch != 2 {
			t.Fatalf("%s: %d records after one more, %v", what, len(again), err)
		}
	}
	for n := recordLen; n < end; n++ { // what was not written is zeros, as it was reserved
		b := make([]byte, len(whole))
		copy(b, whole[:n])
		records := n / recordLen
		if next := (records + 1) * recordLen; bytes.Equal(b[:next], whole[:next]) {
			records++ // it ends in zeros, as one checksum in 256 does
		}
		check(fmt.Sprintf("torn at %d", n), b, records)
	}
	for n := range recordLen + 1 { // or is not there at all, before the first attempt
		check(fmt.Sprintf("cut at %d", n), whole[:n], n/recordLen)
	}
	for n := end - recordLen; n < end; n++ {
		b := bytes.Clone(whole)
		b[n] ^= 0x10
		check(fmt.Sprintf("byte %d wrong", n), b, 3)
	}
}

// TestDamaged: what no crash leaves behind is not read as if one had.
func TestDamaged(t *testing.T) {
	whole := written(t)
	flip := func(n int) []byte {
		b := bytes.Clone(whole)
		b[n] ^= 1
		return b
	}
	other := Record{Seq: 2, Role: Source, Entry: entry(handoff.Commit, 1)} // of another file: its id is missing
	for name, b := range map[string][]byte{
		"first record":    flip(3),
		"second record":   flip(recordLen + 40),
		"another program": bytes.Repeat([]byte("text\n"), 100),
		"too long":        make([]byte, maxSlots*recordLen+1),
		"a foreign slot":  slices.Concat(whole[:recordLen], other.encode()),
		"cut behind OPEN": whole[:2*recordLen],
		"two bad records": func() []byte { b := flip(2*recordLen + 9); b[3*recordLen+9] ^= 1; return b }(),
		"slots swapped":   slices.Concat(whole[:recordLen], whole[2*recordLen:3*recordLen], whole[recordLen:2*recordLen]),
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, Name(Source, mig)), b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, Options{Role: Source, Mig: mig}); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, Name(Destination, mig)), whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{Role: Destination, Mig: mig}); !errors.Is(err, ErrDamaged) {
		t.Errorf("the other side's journal: %v", err)
	}
}

// TestFailedWrite: after a failed write nothing is written, even if the
// disk would take now.
func TestFailedWrite(t *testing.T) {
	j := open(t, t.TempDir(), Options{})
	good := j.file
	bad, err := os.Open(good.Name()) // cannot be written
	if err != nil {
		t.Fatal(err)
	}
	defer bad.Close()
	j.file = bad
	if err := j.Append(entry(handoff.Open, 1)); err == nil {
		t.Fatal("appended to a file that takes nothing")
	}
	j.file = good
	if err := j.Append(entry(handoff.Commit, 1)); !errors.Is(err, ErrClosed) {
		t.Errorf("appended after a failure: %v", err)
	}
}

// TestTakenBackOften: each start that takes the devices of one attempt back may record
// that, however often.
func TestTakenBackOften(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, Options{})
	appendAll(t, j, entry(handoff.Open, 1))
	for range 3 * ahead {
		appendAll(t, j, entry(handoff.Owner, 1), entry(handoff.ResumeFailed, 1))
	}
	j.Close()
	if last := open(t, dir, Options{}).Last(); last.Record != handoff.ResumeFailed {
		t.Errorf("the newest is %v", last.Record)
	}
}

func TestTooManyAttempts(t *testing.T) {
	j := open(t, t.TempDir(), Options{})
	j.slots, j.used = maxSlots, maxSlots-ahead+1
	if err := j.Append(entry(handoff.Open, 1)); err == nil {
		t.Error("the file grows for ever")
	}
}

// TestOtherMigration: a record of another migration would make the file useless.
func TestOtherMigration(t *testing.T) {
	j := open(t, t.TempDir(), Options{})
	e := entry(handoff.Open, 1)
	e.Attempt.Mig[0]++
	if err := j.Append(e); err == nil {
		t.Error("appended")
	}
	appendAll(t, j, entry(handoff.Open, 1))
}

// TestExisting: who names a migration does not want a new one, wherever it looks.
func TestExisting(t *testing.T) {
	dir := t.TempDir()
	if _, err := Open(dir, Options{Role: Source, Mig: mig, Existing: true}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("none there: %v", err)
	}
	path := filepath.Join(dir, Name(Source, mig))
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{Role: Source, Mig: mig, Existing: true}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an empty one: %v", err)
	}
	open(t, dir, Options{}).Close()
	open(t, dir, Options{Existing: true})
}

func TestList(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "s[1]")
	if _, err := List(dir, Source); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	j := open(t, dir, Options{})
	open(t, dir, Options{Role: Destination})
	if list, err := List(dir, Source); err != nil || len(list) != 1 || list[0] != j.file.Name() {
		t.Errorf("%v, %v", list, err)
	}
}

// TestOddFiles: what is no regular file is not waited for.
func TestOddFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, Name(Source, mig))
	for name, make := range map[string]func() error{
		"a pipe":      func() error { return unix.Mkfifo(path, 0o600) },
		"a link":      func() error { return os.Symlink("/etc/passwd", path) },
		"a directory": func() error { return os.Mkdir(path, 0o700) },
	} {
		if err := make(); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, Options{Role: Source, Mig: mig}); err == nil {
			t.Errorf("%s was opened", name)
		}
		if _, err := Read(path); err == nil {
			t.Errorf("%s was read", name)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRecordRoundTrip: every record is read as it was written.
func TestRecordRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := Record{
			Seq: rapid.Uint64().Draw(t, "seq"), Role: Role(rapid.IntRange(1, 2).Draw(t, "role")),
			Time: time.Unix(0, rapid.Int64().Draw(t, "time")),
		}
		r.Why.Bytes, r.Why.Code = rapid.Uint64().Draw(t, "bytes"), transport.Code(rapid.Uint16().Draw(t, "code"))
		r.Why.Text = rapid.StringMatching(`[a-z ]{0,96}`).Draw(t, "text")
		r.Record = handoff.Record(rapid.IntRange(0, int(handoff.Running)).Draw(t, "record"))
		for _, p := range [][]byte{r.Attempt.Mig[:], r.Journal[:], r.PeerJournal[:], r.PeerID[:], r.Digest[:]} {
			copy(p, rapid.SliceOfN(rapid.Byte(), len(p), len(p)).Draw(t, "id"))
		}
		r.Attempt.Epoch = rapid.Uint64().Draw(t, "epoch")
		got, err := decode(r.encode())
		if err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("%+v came back as %+v, %v", r, got, err)
		}
	})
}

// FuzzParse: of any bytes of a disk, those that are taken for records are whole, and
// in order.
func FuzzParse(f *testing.F) {
	whole := written(f)
	f.Add(whole)
	f.Add(whole[:recordLen+17])
	f.Add(slices.Concat(whole[:recordLen], make([]byte, recordLen), whole[recordLen:2*recordLen]))
	f.Add(writtenWithDevices(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := reader{text: b}
		err := r.parse()
		if r.used > len(b)/recordLen || len(r.all) > r.used {
			t.Fatalf("%d records in %d slots of %d bytes", len(r.all), r.used, len(b))
		}
		last := uint64(0)
		for _, one := range r.records() {
			if one.Seq <= last || !follows(r.all[0], one) {
				t.Errorf("record %d follows %d: %+v", one.Seq, last, one)
			}
			last = one.Seq
			if slot := b[(one.Seq-1)*recordLen:][:recordLen]; err == nil && !bytes.Equal(one.encode(), slot) { // what was read is what was written
				t.Errorf("record %d is written otherwise: %+v", one.Seq, one)
			}
		}
		encoded := r.deviceBytes()
		if list := decodeDevices(encoded); list != nil {
			if again, err := encodeDevices(list); err != nil || !bytes.Equal(again, encoded) {
				t.Errorf("the list %v is written otherwise: %v", list, err)
			}
		}
	})
}

// FuzzRecord: a record from any writer is of a kind that is known, and
// stays the same when it is written once more.
func FuzzRecord(f *testing.F) {
	for whole := written(f); len(whole) >= recordLen && whole[0] != 0; whole = whole[recordLen:] {
		f.Add(whole[:recordLen])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		b = append(bytes.Clone(b), make([]byte, recordLen)...)[:recordLen]
		binary.BigEndian.PutUint32(b[atSum:], crc32c.Sum(b[:atSum])) // or nearly all would be refused
		r, err := decode(b)
		if err != nil {
			if r != (Record{}) {
				t.Fatalf("%+v came with %v", r, err)
			}
			return
		}
		if r.Role != Source && r.Role != Destination || len(r.Why.Text) > MaxText {
			t.Fatalf("accepted %+v", r)
		}
		_ = r.Record.String() // which knows each
		if again, err := decode(r.encode()); err != nil || !reflect.DeepEqual(again, r) {
			t.Fatalf("%+v came back as %+v, %v", r, again, err)
		}
	})
}

// BenchmarkAppend is what a record costs on the way to READY, COMMIT and ACCEPT: in
// a slot that is there already.
func BenchmarkAppend(b *testing.B) {
	j := open(b, b.TempDir(), Options{})
	appendAll(b, j, entry(handoff.Open, 1))
	for b.Loop() {
		if j.used == j.slots {
			j.used, j.all = 2, j.all[:2] // the same slots once more
		}
		appendAll(b, j, entry(handoff.Commit, 1))
	}
}
