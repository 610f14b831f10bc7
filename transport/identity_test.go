package transport

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/internal/safefile"
)

func TestIDText(t *testing.T) {
	id := PeerID(sha256.Sum256([]byte("a peer")))
	text := id.String()
	if len(text) != 60 || !strings.HasPrefix(text, "mig1") {
		t.Fatalf("String() = %q, want mig1 and 56 characters", text)
	}
	if got, err := ParsePeerID(text); err != nil || got != id {
		t.Fatalf("ParseID(%q) = %v, %v", text, got, err)
	}
	if !strings.HasPrefix(text, id.Short()) || len(id.Short()) != 12 {
		t.Fatalf("Short() = %q of %q", id.Short(), text)
	}
	blob, err := json.Marshal(struct{ Peer PeerID }{id})
	if err != nil {
		t.Fatal(err)
	}
	var back struct{ Peer PeerID }
	if err := json.Unmarshal(blob, &back); err != nil || back.Peer != id {
		t.Fatalf("JSON %s came back as %v, %v", blob, back.Peer, err)
	}
}

func TestParseIDRefuses(t *testing.T) {
	good := PeerID(sha256.Sum256(nil)).String()
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "does not begin"},
		{"other prefix", "age1" + good[4:], "does not begin"},
		{"upper-case prefix", "MIG1" + good[4:], "does not begin"},
		{"short", good[:59], "59 characters"},
		{"long", good + "a", "61 characters"},
		{"short form", PeerID{}.Short(), "12 characters"},
		{"upper case", strings.Replace(good, good[10:11], "A", 1), "outside a-z and 2-7 at"},
		{"digit one", good[:59] + "1", "outside a-z and 2-7 at 59"},
		{"newline", good[:59] + "\n", "outside a-z and 2-7 at 59"},
		{"swapped", good[:20] + flip(good[20]) + good[21:], "mistyped"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ParsePeerID(c.text)
			if !errors.Is(err, ErrBadPeerID) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("ParseID(%q): %v, want %q", c.text, err, c.want)
			}
		})
	}
}

// flip is another character of the alphabet.
func flip(c byte) string {
	if c == 'a' {
		return "b"
	}
	return "a"
}

// Every single wrong character is noticed.
func TestIDChecksumFindsTypos(t *testing.T) {
	good := PeerID(sha256.Sum256([]byte("x"))).String()
	for i := len(idPrefix); i < len(good); i++ {
		for _, c := range idAlphabet {
			text := good[:i] + string(c) + good[i+1:]
			if _, err := ParsePeerID(text); (err == nil) != (text == good) {
				t.Fatalf("ParseID with %q at %d: %v", c, i, err)
			}
		}
	}
}

func FuzzParseID(f *testing.F) {
	f.Add(PeerID{}.String())
	f.Add("mig1")
	f.Add("mig1" + strings.Repeat("a", 56))
	f.Fuzz(func(t *testing.T, text string) {
		id, err := ParsePeerID(text)
		if err == nil && id.String() != text {
			t.Fatalf("%q and %q are the same ID", text, id)
		}
		if err != nil && (id != PeerID{}) {
			t.Fatalf("an ID came with %v", err)
		}
	})
}

func TestLoadIdentity(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "key.pem")
	first, err := LoadIdentity(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Fatalf("mode %v, %v, want 0600", info.Mode(), err)
	}
	second, err := LoadIdentity(path)
	if err != nil || second.ID() != first.ID() {
		t.Fatalf("read back %v, %v, want %v", second, err, first)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".*")); left != nil {
		t.Fatalf("left behind: %v", left)
	}
}

// Processes that start together on a new host agree on one key.
func TestLoadIdentityTogether(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key.pem")
	ids := make([]PeerID, 16)
	var wg sync.WaitGroup
	for n := range ids {
		wg.Go(func() {
			id, err := LoadIdentity(path)
			if err != nil {
				t.Error(err)
				return
			}
			ids[n] = id.ID()
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Fatalf("%v and %v from one file", id, ids[0])
		}
	}
}

func TestLoadIdentityRefuses(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good")
	if _, err := LoadIdentity(good); err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	const rsaLike = "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n"
	const garbage = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
	for _, c := range []struct {
		name, text string
		mode       os.FileMode
		want       string
	}{
		{"others", string(key), 0o644, "mode 0644 lets others read the key: run chmod 600 "},
		{"world", string(key), 0o604, "mode 0604"},
		{"empty", "", 0o600, "no PEM block"},
		{"other block", rsaLike, 0o600, "no PEM block"},
		{"garbage", garbage, 0o600, "not a PKCS #8 private key"},
		{"huge", strings.Repeat("a", maxKeyFile+1), 0o600, "want at most"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(dir, c.name)
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, c.mode); err != nil {
				t.Fatal(err)
			}
			_, err := LoadIdentity(path)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
				t.Fatalf("%v, want %q and the path", err, c.want)
			}
		})
	}
	if _, err := LoadIdentity(dir); err == nil {
		t.Fatal("a directory was taken for a key")
	}
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadIdentity(fifo); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Fatalf("a FIFO: %v", err)
	}
}

// No directory is made but that of the key, and no key where another user could replace it.
func TestLoadIdentityMakesOneDirectory(t *testing.T) {
	dir := t.TempDir()
	if _, err := LoadIdentity(filepath.Join(dir, "etc", "migpipe", "send.key")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("two directories are missing: %v", err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadIdentity(filepath.Join(dir, "send.key")); !errors.Is(err, safefile.ErrUntrusted) {
		t.Errorf("in a directory that others write: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("made: %v, %v", left, err)
	}
}

func TestIdentityPrintsNoKey(t *testing.T) {
	id, err := NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if got := fmt.Sprintf(verb, id); got != id.ID().String() {
			t.Fatalf("%s prints %q", verb, got)
		}
	}
}
