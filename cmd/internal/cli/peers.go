package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/migpipe/migpipe/transport"
)

// peersHelp is the part of the help texts about --peers-file.
const peersHelp = `--peers-file names a file with such identities, one a line; what follows a # is a
comment. The word send or recv behind an identity permits only that, so that both
programs may share a file. Nobody but its owner may be able to write it.`

// Bounds of a file with peers.
const (
	maxPeersFile = 64 << 10 // bytes
	maxPeers     = 512
)

// peerIDs are those that the flags name, each by itself and in the file.
func (c *common) peerIDs() ([]transport.ID, error) {
	ids, err := parsePeers(c.peers)
	if err != nil || c.peersFile == "" {
		return ids, err
	}
	text, err := readPeers(c.peersFile)
	if err != nil {
		return nil, mistakef("name a file that only its owner can write, with an identity on each line", "--peers-file: %s", plainText(err))
	}
	listed, err := parsePeersFile(text, c.role)
	if err != nil {
		return nil, mistakef("write one identity a line, as the `id` command of the other side prints it, behind it send or recv or nothing, and comments behind #", "--peers-file %s: %s", c.peersFile, plainText(err))
	}
	return append(ids, listed...), nil
}

// readPeers reads a file that nobody else can have changed.
func readPeers(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	switch {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no regular file", path)
	case info.Mode().Perm()&0o022 != 0:
		return nil, fmt.Errorf("%s can be written by others: mode %v", path, info.Mode().Perm())
	}
	text, err := io.ReadAll(io.LimitReader(f, maxPeersFile+1))
	if err == nil && len(text) > maxPeersFile {
		err = fmt.Errorf("%s has more than %d bytes", path, maxPeersFile)
	}
	return text, err
}

// peerWords are what may stand behind an identity in the file: what it permits.
var peerWords = map[string]func(r role) bool{
	"":     func(role) bool { return true },
	"send": func(r role) bool { return r == sink },
	"recv": func(r role) bool { return r == source },
}

// parsePeersFile reads the identities of those that may be the peer of a role,
// each once.
func parsePeersFile(text []byte, r role) (ids []transport.ID, err error) {
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
		return nil, fmt.Errorf("it names no peer that may %s", map[role]string{source: "receive", sink: "send"}[r])
	}
	return ids, nil
}

// parsePeer reads a line of the file.
func parsePeer(line string, r role) (id transport.ID, permitted bool, err error) {
	name, word, _ := strings.Cut(strings.Join(strings.Fields(line), " "), " ")
	id, err = transport.ParseID(name)
	if err != nil {
		return id, false, err
	}
	permits, ok := peerWords[word]
	if !ok {
		return id, false, fmt.Errorf("behind the identity is %.20q, and not send or recv", word)
	}
	return id, permits(r), nil
}
