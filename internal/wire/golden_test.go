package wire

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/test/golden"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// The golden files fix the wire format. A change of them is a change of the protocol, and needs a
// new version.

func TestPreambleGolden(t *testing.T) {
	var text strings.Builder
	for _, p := range goldenPreambles() {
		var b bytes.Buffer
		if err := WritePreamble(&b, p); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&text, "kind %d, lane %d, epoch %#x\n%s\n", p.Kind, p.Index, p.Epoch, hex.Dump(b.Bytes()))
	}
	golden.Compare(t, "preamble.txt", text.String())
}

func goldenPreambles() []Preamble {
	return []Preamble{
		{Kind: LaneControl, Mig: goldenMig(), Epoch: 1},
		{Kind: LaneData, Index: transport.MaxLanes - 1, Mig: goldenMig(), Epoch: math.MaxUint64},
		{Kind: LanePreflight, Mig: goldenMig(), Epoch: 2},
		{Kind: LaneProbe, Index: 3, Mig: goldenMig(), Epoch: 2},
	}
}

func goldenMig() (id migration.ID) {
	for i := range id {
		id[i] = byte(0x10 + i)
	}
	return id
}

func TestChunkHeadGolden(t *testing.T) {
	var text strings.Builder
	for _, h := range goldenHeads() {
		var b [chunkHeadLen]byte
		h.encode(b[:])
		fmt.Fprintf(&text, "%+v\n%s\n", h, hex.Dump(b[:]))
	}
	golden.Compare(t, "chunk.txt", text.String())
}

// goldenHeads returns a header for each codec and each flag, and one with the largest values.
func goldenHeads() []ChunkHead {
	heads := []ChunkHead{
		{Padding: true, WireLen: 0x40000},
		{Device: 2, RawLen: 96, WireLen: 96, Seq: 3, Offset: 0x1000, Unchecked: true},
		{Device: math.MaxUint16, RawLen: MaxChunk, WireLen: MaxChunk, Seq: math.MaxUint64,
			Offset: MaxStream - MaxChunk, Digest: math.MaxUint64},
	}
	for _, c := range codec.All() {
		h := ChunkHead{Device: 1, Codec: c.ID(), RawLen: 0x20000, WireLen: 0x1ffff, Seq: 0x0102030405060708,
			Offset: 0x00aabbccddeeff00, Digest: 0x1122334455667788}
		switch c.ID() {
		case codec.IDRaw:
			h.WireLen = h.RawLen
		case codec.IDZero:
			h.WireLen = 0
		}
		heads = append(heads, h)
	}
	return heads
}

func TestControlGolden(t *testing.T) {
	var text strings.Builder
	for _, m := range allMessages() {
		frame, err := AppendMessage(nil, m)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&text, "%v, every field set\n%s\n", m.Type(), hex.Dump(frame))
	}
	golden.Compare(t, "control.txt", text.String())
}

// allMessages returns one message of every type, with all fields set.
func allMessages() []Message {
	var all []Message
	for t := range messageTypes {
		if MessageType(t).isKnown() {
			m := messageTypes[t].make()
			n := 0
			setFields(reflect.ValueOf(m).Elem(), &n)
			all = append(all, m)
		}
	}
	return all
}

// setFields sets every field to a different non-zero value.
func setFields(v reflect.Value, n *int) {
	switch *n++; v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.String:
		v.SetString(fmt.Sprintf("text %d", *n))
	case reflect.Int64:
		v.SetInt(int64(*n) << 32)
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(*n))
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fallthrough
	case reflect.Array:
		for i := range v.Len() {
			setFields(v.Index(i), n)
		}
	case reflect.Struct:
		for _, field := range v.Fields() {
			setFields(field, n)
		}
	default:
		panic("no value for " + v.Kind().String())
	}
}
