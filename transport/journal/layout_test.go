package journal

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestLayout: PROTOCOL.md says where the fields are.
func TestLayout(t *testing.T) {
	text, err := os.ReadFile("../PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "### Journals")
	section, _, _ = strings.Cut(section, "### Outcomes")
	for _, row := range []struct {
		at, length int
		what       string
	}{
		{0, len(recordMagic), "`" + recordMagic + "`"}, {atVersion, 1, fmt.Sprintf("%d: the layout", recordVersion)}, {atRole, 1, "1 source"},
		{atKind, 1, "record: 0 NONE"}, {atTextLen, 1, "length of the text"}, {atSeq, 8, "number of the record"}, {atMig, 16, "migration id"},
		{atEpoch, 8, "epoch"}, {atJournal, 16, "this journal's id"}, {atPeer, 16, "the other side's"}, {atPeerID, 32, "the peer's identity"},
		{atTime, 8, "wall clock"}, {atBytes, 8, "bytes of all streams"}, {atDigest, 32, "set digest"}, {atCode, 2, "code of the fault"}, {atWitness, 2, "the witness"},
		{atText, MaxText, "text of the fault"}, {atFlags, 1, fmt.Sprintf("flags: %d", flagSole)}, {atBoot, 8, "boot of the host that wrote it, 0 not known"}, {atSum, 4, fmt.Sprintf("CRC-32C of bytes 0 to %d", atSum-1)},
	} {
		if want := fmt.Sprintf("| %d | %d | %s", row.at, row.length, row.what); !strings.Contains(section, want) {
			t.Errorf("PROTOCOL.md does not say %q", want)
		}
	}
}
