package wire

import (
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

func TestMessagesRoundTrip(t *testing.T) {
	all := allMessages()
	if len(all) != int(TypeResume) {
		t.Fatalf("%d messages, want %d", len(all), TypeResume)
	}
	for i, m := range all {
		if m.Type() != MessageType(i+1) || !m.Type().isKnown() {
			t.Errorf("message %d has type %v", i+1, m.Type())
		}
		frame, err := AppendMessage(nil, m)
		if err != nil {
			t.Fatal(err)
		}
		if a, ok := m.(*Ack); ok {
			a.Pad = nil // the receiver discards it
		}
		got, err := decodeMessage(m.Type(), frame[controlHeadLen:])
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%v %+v decodes to %+v, %v", m.Type(), m, got, err)
		}
		if *got.About() != *m.About() || got.About().Epoch == 0 {
			t.Errorf("%v: About returned %+v", m.Type(), *got.About())
		}
	}
}

func TestMessageTypeNames(t *testing.T) {
	seen := map[string]bool{}
	for i := range 256 {
		name := MessageType(i).String()
		if seen[name] {
			t.Errorf("two types have the name %s", name)
		}
		seen[name] = true
	}
	if got := MessageType(200).String(); got != "MessageType(200)" {
		t.Errorf("type 200 is %q", got)
	}
}

// TestLargestHelloFits checks that the largest HELLO fits: the most devices with the longest
// names, the largest numbers, and longer texts than any driver has.
func TestLargestHelloFits(t *testing.T) {
	h := &Hello{Attempt: migration.Attempt{Mig: goldenMig(), Epoch: math.MaxUint64}, Versions: Versions{math.MaxUint16, math.MaxUint16},
		ChunkSize: math.MaxUint32, Lanes: math.MaxUint16, Software: strings.Repeat("s", 64)}
	for _, c := range codec.All() {
		h.Codecs = append(h.Codecs, c.ID())
	}
	for range MaxDevices {
		h.Devices = append(h.Devices, DeviceOffer{
			Name: strings.Repeat("n", MaxName), Driver: strings.Repeat("d", 32), Vendor: math.MaxUint32, Device: math.MaxUint32,
			Subsystem: strings.Repeat("u", 16), Kernel: strings.Repeat("k", 48), Format: strings.Repeat("f", 24),
			Flags: math.MaxUint32, Estimate: math.MaxUint64, Splice: true,
		})
	}
	frame, err := AppendMessage(nil, h)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := decodeMessage(TypeHello, frame[controlHeadLen:]); err != nil || !reflect.DeepEqual(got, h) {
		t.Fatalf("the largest HELLO: %v", err)
	}
	t.Logf("%d of %d bytes", len(frame)-controlHeadLen, MaxControl)
	h.Devices = append(h.Devices, DeviceOffer{})
	if err := decodesTo(TypeHello, h); err == nil {
		t.Errorf("%d devices were accepted", len(h.Devices))
	}
}

// decodesTo encodes a message without the limits of a sender, and decodes it.
func decodesTo(typ MessageType, m any) error {
	body, err := encMode.Marshal(m)
	if err != nil {
		panic(err)
	}
	_, err = decodeMessage(typ, body)
	return err
}

// TestAckRelease checks that an ACK has no values of the ACK that was decoded into the same memory
// before, even if its frame omits fields.
func TestAckRelease(t *testing.T) {
	frame := func(devices ...any) []byte {
		m := map[int]any{2: 7}
		if devices != nil {
			m[4] = devices
		}
		return item(t, m)
	}
	none, one := map[int]any{}, map[int]any{1: 5}
	a, n := new(Ack), 0
	setFields(reflect.ValueOf(a).Elem(), &n)
	for _, body := range [][]byte{frame(one, one, one), frame(one), frame(none, none, none), frame(none, one, none, one), frame(one, none), frame()} {
		want := new(Ack)
		if err := decMode.Unmarshal(body, want); err != nil {
			t.Fatal(err)
		}
		a.Release()
		a = acks.Get().(*Ack) // most likely the same one
		if err := decMode.Unmarshal(body, a); err != nil {
			t.Fatal(err)
		}
		if len(want.Devices) == 0 {
			want.Devices = a.Devices[:0]
		}
		want.Read = a.Read[:0]
		if !reflect.DeepEqual(a, want) {
			t.Errorf("%x decodes to %+v, want %+v", body, a, want)
		}
	}
}

// TestLargestAnswersFit checks that the largest WELCOME, ESTIMATE and ACK fit.
func TestLargestAnswersFit(t *testing.T) {
	w := Window{math.MaxUint64, math.MaxUint64}
	ack := &Ack{Attempt: migration.Attempt{Mig: goldenMig(), Epoch: math.MaxUint64}, Pad: make([]byte, 64), Echo: math.MaxInt64, HeldNS: math.MaxInt64}
	welcome := &Welcome{Attempt: ack.Attempt, Software: strings.Repeat("s", 64), Codecs: make([]codec.ID, 4)}
	estimate := &Estimate{Attempt: ack.Attempt}
	for range transport.MaxLanes {
		ack.Read = append(ack.Read, math.MaxUint64)
	}
	for range MaxDevices {
		ack.Devices = append(ack.Devices, DeviceAck{math.MaxUint64, math.MaxUint64, w, math.MaxInt64})
		welcome.Windows, welcome.Splice = append(welcome.Windows, w), append(welcome.Splice, true)
		estimate.Devices = append(estimate.Devices, DeviceEstimate{math.MaxUint64, math.MaxUint64, math.MaxUint64, true})
	}
	for _, m := range []Message{ack, welcome, estimate} {
		if frame, err := AppendMessage(nil, m); err != nil {
			t.Error(err)
		} else if err := decodesTo(m.Type(), m); err != nil {
			t.Error(err)
		} else {
			t.Logf("%v: %d of %d bytes", m.Type(), len(frame)-controlHeadLen, MaxControl)
		}
	}
}

// TestKeysAreNumbered checks that every field has a number that is unique within its message.
func TestKeysAreNumbered(t *testing.T) {
	for _, m := range allMessages() {
		checkKeys(t, reflect.TypeOf(m).Elem())
	}
}

func checkKeys(t *testing.T, typ reflect.Type) {
	seen := map[string]string{}
	for _, f := range fieldsOf(typ) {
		if other, taken := seen[f.key]; taken {
			t.Errorf("%v: %s and %s have the key %s", typ, other, f.name, f.key)
		}
		seen[f.key] = f.name
		if elem := f.typ; elem.Kind() == reflect.Slice || elem.Kind() == reflect.Struct {
			if elem.Kind() == reflect.Slice {
				elem = elem.Elem()
			}
			if elem.Kind() == reflect.Struct {
				checkKeys(t, elem)
			}
		}
	}
}

type wireField struct {
	key, name string
	typ       reflect.Type
}

// fieldsOf returns a message's fields with their keys, including the fields of an
// embedded Attempt.
func fieldsOf(typ reflect.Type) (fields []wireField) {
	for f := range typ.Fields() {
		if f.Anonymous {
			fields = append(fields, fieldsOf(f.Type)...)
			continue
		}
		key, options, _ := strings.Cut(f.Tag.Get("cbor"), ",")
		if key == "" || !strings.Contains(options, "keyasint") {
			panic(fmt.Sprintf("%v.%s has no number", typ, f.Name))
		}
		fields = append(fields, wireField{key, f.Name, f.Type})
	}
	return fields
}
