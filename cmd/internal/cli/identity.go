package cli

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/migpipe/migpipe/internal/safefile"
	"github.com/migpipe/migpipe/transport"
)

// identityHelp is the part of the help texts about keys.
const identityHelp = `Each side has a key, made on first use, and names the other by its identity:
run ` + "`mig-send id`" + ` on the source, ` + "`mig-recv id`" + ` on the destination, and give each
what the other printed with --peer. The key is in send.key or recv.key below
$XDG_CONFIG_HOME/migpipe if that variable is set, else in /etc/migpipe for root
and in ~/.config/migpipe for everybody else; --identity FILE names another one. A
directory that is missing is made, but none above it. No other user may read the key;
a group that the program is in may, if root owns the file.
` + peersHelp + `

` + tlsHelp

// defaultIdentity is where a program's key is unless --identity says otherwise.
// The two programs have keys of their own: sending and receiving are separate
// permissions.
func defaultIdentity(key string) (string, error) {
	if os.Getenv("XDG_CONFIG_HOME") == "" && os.Geteuid() == 0 {
		return filepath.Join("/etc/migpipe", key), nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "migpipe", key), nil
}

// loadIdentity gives the key in path, or in the default place.
func loadIdentity(path, key string) (*transport.Identity, error) {
	if path == "" {
		var err error
		if path, err = defaultIdentity(key); err == nil && os.Getenv("XDG_CONFIG_HOME") == "" && os.Geteuid() != 0 {
			err = safefile.MakeDir(filepath.Dir(filepath.Dir(path))) // ~/.config, which a new user may not have yet
		}
		if err != nil {
			return nil, mistakef("name a key file with --identity", "no place for a key: %v", err)
		}
	}
	id, err := transport.LoadIdentity(path)
	if err != nil {
		return nil, &transport.Fault{Code: transport.CodeAuth, Err: &keyError{err, path}}
	}
	return id, nil
}

// keyError is why a key file cannot be used.
type keyError struct {
	error
	path string
}

func (e *keyError) Unwrap() error { return e.error }

func (e *keyError) hint() string {
	remedy := safefile.Remedy(e.error)
	switch {
	case errors.Is(e.error, fs.ErrPermission):
		return "run as the owner of the file, or name another one with --identity"
	case remedy != "":
		return remedy
	case errors.Is(e.error, safefile.ErrUntrusted):
		return "run as the user that owns what is named, or name a file of this user's with --identity"
	case errors.Is(e.error, fs.ErrNotExist):
		return "make that directory first, or name a file elsewhere with --identity"
	}
	return "name another file with --identity, or remove it to have a new key made"
}

// parsePeers reads the --peer flags.
func parsePeers(flags []string) ([]transport.ID, error) {
	ids := make([]transport.ID, len(flags))
	for i, flag := range flags {
		id, err := transport.ParseID(flag)
		if err != nil {
			return nil, mistakef("copy what the `id` command of the other side prints", "--peer: %s", plainText(err))
		}
		ids[i] = id
	}
	return ids, nil
}
