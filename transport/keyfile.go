package transport

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/migpipe/migpipe/internal/safefile"
)

// Identity is this side's key pair. Its certificates are made from it in
// memory, so nothing expires and there is one file to guard.
type Identity struct {
	key   ed25519.PrivateKey
	id    PeerID
	shown [2]func() (tls.Certificate, error) // by role, made on first use
}

// keyBlock is the PEM type of a PKCS #8 private key (RFC 7468, section 10).
const keyBlock = "PRIVATE KEY"

// NewIdentity makes an identity that lives as long as the process.
func NewIdentity() (*Identity, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("transport: make a key: %w", err)
	}
	return identityOf(key)
}

// LoadIdentity reads the private key in path, and makes it first where there is
// none: mode 0600. If the directory is missing it is made too, with mode 0700, but none
// above it. Processes that do so at the same time all get the same key.
//
// It refuses a file that another user may read or could exchange; root may own the file.
// No error holds any part of the key.
func LoadIdentity(path string) (*Identity, error) {
	id, err := readIdentity(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return id, err
	}
	if err := createIdentity(path); err != nil {
		return nil, fmt.Errorf("transport: make identity %s: %w", path, err)
	}
	return readIdentity(path)
}

// ID is the identity that the other side has to list.
func (i *Identity) ID() PeerID { return i.id }

// String hides the key from every print of an Identity.
func (i *Identity) String() string { return i.id.String() }

// GoString is String, for %#v.
func (i *Identity) GoString() string { return i.String() }

func identityOf(key ed25519.PrivateKey) (*Identity, error) {
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("transport: encode the public key: %w", err)
	}
	i := &Identity{key: key, id: sha256.Sum256(spki)}
	for _, role := range []Role{RoleSource, RoleDestination} {
		i.shown[role] = sync.OnceValues(func() (tls.Certificate, error) { return i.selfSign(role) })
	}
	return i, nil
}

func readIdentity(path string) (*Identity, error) {
	text, err := readPrivate(safefile.Open, path)
	if err != nil {
		return nil, fmt.Errorf("transport: identity %s: %w", path, err)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != keyBlock {
		return nil, fmt.Errorf("transport: identity %s: no PEM block %q", path, keyBlock)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("transport: identity %s: not a PKCS #8 private key", path)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("transport: identity %s: a %T, want an Ed25519 key", path, parsed)
	}
	return identityOf(key)
}

// readPrivate reads a key, which no other user may read.
func readPrivate(open open, path string) ([]byte, error) {
	return safefile.ReadBy(open, path, maxKeyFile, safefile.Secret)
}

// readPublic reads a file that is no secret, and that decides which peers are trusted: no other
// user may be able to write it.
func readPublic(open open, path string) ([]byte, error) {
	return safefile.ReadBy(open, path, maxPublicFile, safefile.Public)
}

// createIdentity writes a new key beside path and links it to its name: link,
// unlike rename, never replaces a key that another process has just made.
func createIdentity(path string) error {
	fresh, err := NewIdentity()
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(fresh.key)
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := safefile.MakeDir(dir); err != nil {
		return err
	}
	if err := safefile.CheckPath(dir); err != nil {
		return err
	}
	temp, err := os.CreateTemp(dir, ".key-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	err = pem.Encode(temp, &pem.Block{Type: keyBlock, Bytes: der})
	if err := errors.Join(err, temp.Sync(), temp.Close()); err != nil {
		return err
	}
	if err := os.Link(temp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return safefile.SyncDir(dir)
}
