package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/migpipe/migpipe/transport"
)

// peersHelp is the part of the help texts about --peers-file.
const peersHelp = `--peers-file names a file with such identities, one a line; what follows a # is a
comment. Nobody but its owner may be able to write it.`

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
	listed, err := parsePeersFile(text)
	if err != nil {
		return nil, mistakef("write one identity a line, as the `id` command of the other side prints it, and comments behind #", "--peers-file %s: %s", c.peersFile, plainText(err))
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

// parsePeersFile reads the identities, each once.
func parsePeersFile(text []byte) (ids []transport.ID, err error) {
	number := 0
	for line := range bytes.Lines(text) {
		number++
		line, _, _ = bytes.Cut(line, []byte("#"))
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		id, err := transport.ParseID(string(line))
		switch {
		case err != nil:
			return nil, fmt.Errorf("line %d: %w", number, err)
		case slices.Contains(ids, id):
			continue
		case len(ids) == maxPeers:
			return nil, fmt.Errorf("line %d: more than %d identities", number, maxPeers)
		}
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		return nil, errors.New("it names no peer")
	}
	return ids, nil
}
