package transport

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/migpipe/migpipe/internal/safefile"
)

// PeersFile is a file with the IDs of peers, one a line; a # begins a comment. The word send or
// recv after an ID permits only that. The file has to belong to this user or to root, and no other
// user may be able to write it. It is read again when it has changed: each connection uses its
// present content.
type PeersFile struct {
	file *reread[[]PeerID]
}

// LoadPeers reads a file with peers, for the side that has a role: the peers that it
// gives may have the other role.
func LoadPeers(path string, role Role, o *FileOptions) (*PeersFile, error) {
	file, err := newReread(o, func(open open) ([]PeerID, error) { return readPeers(open, path, role) }, path)
	if err != nil {
		return nil, err
	}
	return &PeersFile{file}, nil
}

// IDs are the IDs of the file now, each once.
func (p *PeersFile) IDs() []PeerID { return slices.Clone(p.file.now()) }

// Files are the paths that are read again.
func (p *PeersFile) Files() []string { return slices.Clone(p.file.paths) }

// readPeers names the file in its errors.
func readPeers(open open, path string, role Role) ([]PeerID, error) {
	text, err := safefile.ReadBy(open, path, maxPeersFile, safefile.Public)
	var ids []PeerID
	if err == nil {
		ids, err = parsePeers(text, role)
	}
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		err = e.Err
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return ids, nil
}

// peerWords are what may stand behind an ID: the role of the side that has it for a peer.
var peerWords = map[string]func(r Role) bool{
	"":     func(Role) bool { return true },
	"send": func(r Role) bool { return r == RoleDestination },
	"recv": func(r Role) bool { return r == RoleSource },
}

// parsePeers reads the IDs that are permitted for a role, each once.
func parsePeers(text []byte, r Role) (ids []PeerID, err error) {
	number := 0
	for line := range bytes.Lines(text) {
		number++
		line, _, _ = bytes.Cut(line, []byte("#"))
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		id, permitted, err := parsePeer(string(line), r)
		switch {
		case err != nil:
			return nil, fmt.Errorf("line %d: %w", number, err)
		case !permitted, slices.Contains(ids, id):
			continue
		case len(ids) == maxPeers:
			return nil, fmt.Errorf("line %d: more than %d identities", number, maxPeers)
		}
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		return nil, fmt.Errorf("it names no peer that may %s", map[Role]string{RoleSource: "receive", RoleDestination: "send"}[r])
	}
	return ids, nil
}

// parsePeer reads a line of the file.
func parsePeer(line string, r Role) (id PeerID, permitted bool, err error) {
	name, word, _ := strings.Cut(strings.Join(strings.Fields(line), " "), " ")
	id, err = ParsePeerID(name)
	if err != nil {
		return id, false, err
	}
	permits, ok := peerWords[word]
	if !ok {
		return id, false, fmt.Errorf("behind the identity is %.20q, and not send or recv", word)
	}
	return id, permits(r), nil
}
