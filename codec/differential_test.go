package codec_test

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"testing"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/codec/codectest"
)

// streamed decodes an encoding with the library's streaming reader, which shares
// little code with its block decoder. raw is the result of the block decoder.
func streamed(id codec.ID, enc, raw []byte) ([]byte, error) {
	if id == codec.IDS2 {
		return io.ReadAll(s2.NewReader(bytes.NewReader(s2Stream(enc, raw))))
	}
	r, err := zstd.NewReader(bytes.NewReader(enc), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// s2Stream wraps a block of up to 4 MiB into a stream: the identifier, then one
// chunk with its type, length, and the masked CRC-32C of the raw bytes.
func s2Stream(block, raw []byte) []byte {
	crc := crc32.Checksum(raw, crc32.MakeTable(crc32.Castagnoli))
	stream := []byte("\xff\x06\x00\x00S2sTwO")
	stream = binary.LittleEndian.AppendUint32(stream, uint32(len(block)+4)<<8)
	stream = binary.LittleEndian.AppendUint32(stream, (crc>>15|crc<<17)+0xa282ead8)
	return append(stream, block...)
}

func TestStreamingReaderAgrees(t *testing.T) {
	each(t, func(t *testing.T, c codec.Codec, corpus codectest.Corpus) {
		if c == codec.Raw || c == codec.Zero {
			t.Skip("no library has this codec")
		}
		for _, n := range below[1:] {
			raw := corpus.Bytes(n, 5)
			got, err := streamed(c.ID(), c.Encode(nil, raw), raw)
			if err != nil || !bytes.Equal(got, raw) {
				t.Errorf("%d bytes: the streaming reader's result differs: %v", n, err)
			}
		}
	})
}

// TestForeignEncoders decodes the encodings of the libraries' other levels.
func TestForeignEncoders(t *testing.T) {
	for _, corpus := range codectest.Corpora() {
		raw := corpus.Bytes(200000, 6)
		foreign(t, corpus.Name, codec.S2, raw, s2.EncodeBest(nil, raw))
		foreign(t, corpus.Name, codec.S2, raw, s2.EncodeSnappy(nil, raw))
		for level := zstd.SpeedFastest; level <= zstd.SpeedBestCompression; level++ {
			w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithWindowSize(codec.MaxBlock))
			if err != nil {
				t.Fatal(err)
			}
			foreign(t, corpus.Name, codec.Zstd, raw, w.EncodeAll(raw, nil))
		}
	}
}

func foreign(t *testing.T, name string, c codec.Codec, raw, enc []byte) {
	t.Helper()
	got, err := decode(t, c, len(raw), enc)
	if err != nil || !bytes.Equal(got, raw) {
		t.Errorf("%v of %s: %v", c.ID(), name, err)
	}
}
