package cli

import "github.com/migpipe/migpipe/transport"

// peersHelp is the part of the help texts about --peers-file.
const peersHelp = `--peers-file names a file with such identities, one a line; what follows a # is a
comment. The word send or recv behind an identity permits only that, so that both
programs may share a file. It has to belong to this user or to root, and no other user
may be able to write it or a directory on the way to it.`

// loadPeers reads --peers-file, and gives nil where there is none.
func (c *common) loadPeers() (*transport.PeersFile, error) {
	if c.peersFile == "" {
		return nil, nil
	}
	file, err := transport.LoadPeers(c.peersFile, c.role.lanes(), c.fileOptions())
	if err != nil {
		return nil, mistakef("name a file that only this user or root can write, with one identity a line as the `id` command of the other side prints it, behind it send or recv or nothing, and comments behind #", "--peers-file %s", plainText(err))
	}
	return file, nil
}

// fileOptions are how credentials read their files again.
func (c *common) fileOptions() *transport.FileOptions {
	return &transport.FileOptions{Open: c.open, Kept: func(err error) { c.warn(plainText(err)) }}
}
