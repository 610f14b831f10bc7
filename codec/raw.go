package codec

// Raw leaves a block as it is. Its methods copy, so that it behaves as every
// other codec does; EncodeChunk sends a raw chunk from where it lies.
var Raw Codec = rawCodec{}

type rawCodec struct{}

func (rawCodec) ID() ID { return IDRaw }

func (rawCodec) Encode(dst, src []byte) []byte { return append(dst[:0], src...) }

func (rawCodec) Decode(dst, src []byte) error {
	if len(src) != len(dst) {
		return corrupt(IDRaw, dst, src, nil)
	}
	copy(dst, src)
	return nil
}

func rawLimit(n int) int { return n }
