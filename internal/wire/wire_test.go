package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/migpipe/migpipe/internal/crc32c"
	"github.com/migpipe/migpipe/transport"
)

func preambleBytes(t testing.TB, p Preamble) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := WritePreamble(&b, p); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestPreambleRoundTrip(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p := Preamble{Kind: LaneData, Index: rapid.Uint16Max(transport.MaxLanes-1).Draw(rt, "index"), Epoch: rapid.Uint64().Draw(rt, "epoch")}
		copy(p.Mig[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(rt, "mig"))
		lane := bytes.NewBuffer(append(preambleBytes(t, p), "what follows"...))
		if got, err := ReadPreamble(lane); err != nil || got != p || lane.String() != "what follows" {
			rt.Fatalf("%+v decodes to %+v, %v, rest %q", p, got, err, lane)
		}
	})
}

func TestPreambleChecks(t *testing.T) {
	for _, c := range []struct {
		name   string
		kind   LaneKind
		index  uint16
		change func(b []byte)
		want   string
	}{
		{"control", LaneControl, 0, nil, ""},
		{"a second control lane", LaneControl, 1, nil, "lane 1 of kind 0, limit 1"},
		{"first data lane", LaneData, 0, nil, ""},
		{"below the last lane", LaneData, transport.MaxLanes - 2, nil, ""},
		{"the last lane", LaneData, transport.MaxLanes - 1, nil, ""},
		{"above the last lane", LaneData, transport.MaxLanes, nil, "lane 16 of kind 1, limit 16"},
		{"a second lane of a preflight", LanePreflight, 1, nil, "lane 1 of kind 2, limit 1"},
		{"above the last probe lane", LaneProbe, transport.MaxLanes, nil, "lane 16 of kind 3, limit 16"},
		{"an unknown kind", LaneProbe + 1, 0, nil, "lane of kind 4"},
		{"other framing", LaneData, 0, func(b []byte) { b[4] = 2 }, "framing 2, this side supports 1"},
		{"something else", LaneData, 0, func(b []byte) { copy(b, "GET ") }, `"GET ", not "MIGP"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := preambleBytes(t, Preamble{Kind: c.kind, Index: c.index})
			if c.change != nil {
				c.change(b)
				binary.BigEndian.PutUint32(b[32:], crc32c.Sum(b[:32]))
			}
			_, err := ReadPreamble(bytes.NewReader(b))
			if c.want == "" && err != nil {
				t.Fatal(err)
			}
			if c.want != "" && (!errors.Is(err, transport.ErrProtocol) || !strings.Contains(err.Error(), c.want)) {
				t.Fatalf("%v, want a protocol violation with %q", err, c.want)
			}
		})
	}
}

func TestPreambleBitFlips(t *testing.T) {
	for _, p := range goldenPreambles() {
		b := preambleBytes(t, p)
		for bit := range 8 * len(b) {
			b[bit/8] ^= 1 << (bit % 8)
			if _, err := ReadPreamble(bytes.NewReader(b)); !errors.Is(err, transport.ErrCorrupt) && !errors.Is(err, transport.ErrProtocol) {
				t.Errorf("%+v with bit %d flipped: %v", p, bit, err)
			}
			b[bit/8] ^= 1 << (bit % 8)
		}
		for n := range b {
			if _, err := ReadPreamble(bytes.NewReader(b[:n])); err != io.ErrUnexpectedEOF && err != io.EOF {
				t.Errorf("%d bytes: %v", n, err)
			}
		}
	}
}

func FuzzPreamble(f *testing.F) {
	for _, p := range goldenPreambles() {
		f.Add(preambleBytes(f, p))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= preambleLen { // otherwise the checksum would refuse nearly all inputs
			b = bytes.Clone(b)
			binary.BigEndian.PutUint32(b[32:], crc32c.Sum(b[:32]))
		}
		p, err := ReadPreamble(bytes.NewReader(b))
		if err != nil {
			if p != (Preamble{}) || !isAny(err, transport.ErrProtocol, transport.ErrCorrupt, io.EOF, io.ErrUnexpectedEOF) {
				t.Fatalf("returned %+v with the error %v", p, err)
			}
			return
		}
		if again := preambleBytes(t, p); !bytes.Equal(again, b[:preambleLen]) {
			t.Fatalf("%x encodes to %x", b[:preambleLen], again)
		}
	})
}

// controlFrame frames a body with any type and flags.
func controlFrame(typ, flags byte, body []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	b = append(b, typ, flags, 0, 0)
	b = binary.BigEndian.AppendUint32(b, crc32c.Sum(b, body))
	return append(b, body...)
}

func TestControlFrameChecks(t *testing.T) {
	full, over := make([]byte, MaxControl), make([]byte, MaxControl+1)
	for _, c := range []struct {
		name  string
		frame []byte
		want  error
	}{
		{"an empty body", controlFrame(1, 0, nil), nil},
		{"below the largest", controlFrame(1, 0, full[1:]), nil},
		{"the largest", controlFrame(1, 0, full), nil},
		{"above the largest", controlFrame(1, 0, over), transport.ErrProtocol},
		{"an unknown type", controlFrame(99, 0, nil), transport.ErrProtocol},
		{"type 0", controlFrame(0, 0, nil), transport.ErrProtocol},
		{"an unknown type that may be skipped", controlFrame(99, controlIgnorable, nil), errSkip},
		{"a known type that might be skipped", controlFrame(1, controlIgnorable, nil), nil},
		{"a reserved flag", controlFrame(1, 2, nil), transport.ErrProtocol},
		{"a reserved flag, skippable", controlFrame(99, 0x80|controlIgnorable, nil), transport.ErrProtocol},
		{"another checksum", append(controlFrame(1, 0, []byte{1})[:12], 2), transport.ErrCorrupt},
		{"no frame", nil, io.EOF},
		{"half a header", controlFrame(1, 0, nil)[:11], io.ErrUnexpectedEOF},
		{"no body", controlFrame(1, 0, []byte{1})[:12], io.ErrUnexpectedEOF},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, body, err := readControl(bytes.NewReader(c.frame), make([]byte, maxControlFrame))
			if !errors.Is(err, c.want) || err == nil && len(body) != len(c.frame)-controlHeadLen {
				t.Fatalf("%d bytes, %v, want %v", len(body), err, c.want)
			}
		})
	}
	if err := sealControl(append(make([]byte, controlHeadLen), over...), TypeHello); err == nil {
		t.Error("sealControl accepts a message that exceeds MaxControl")
	}
}

// TestControlOversizeIsNotRead checks that an oversize message is refused before its body is read.
func TestControlOversizeIsNotRead(t *testing.T) {
	lane := bytes.NewReader(controlFrame(1, 0, make([]byte, MaxControl+1)))
	if _, _, err := readControl(lane, make([]byte, maxControlFrame)); !errors.Is(err, transport.ErrProtocol) {
		t.Fatal(err)
	}
	if lane.Len() != MaxControl+1 {
		t.Fatalf("%d bytes left of the body", lane.Len())
	}
}

func TestControlBitFlips(t *testing.T) {
	room := make([]byte, maxControlFrame)
	for _, m := range allMessages() {
		frame, err := AppendMessage(nil, m)
		if err != nil {
			t.Fatal(err)
		}
		for bit := range 8 * len(frame) {
			frame[bit/8] ^= 1 << (bit % 8)
			if _, _, err := readControl(bytes.NewReader(frame), room); err == nil || err == errSkip {
				t.Errorf("%v with bit %d flipped: %v", m.Type(), bit, err)
			}
			frame[bit/8] ^= 1 << (bit % 8)
		}
	}
}
