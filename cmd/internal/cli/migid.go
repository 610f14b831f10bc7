package cli

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/transport/migration"
)

// leastPrefix is how many digits the beginning of a migration's id has at least.
const leastPrefix = 4

var idPrefix = regexp.MustCompile(`^[0-9a-f]{4,32}$`)

// findMigration reads the id of a migration, or the beginning of one that a journal of this
// side has, if no other one begins so. name is what the id was given with.
func (s *stateFlags) findMigration(role journal.Role, name, text string) (migration.ID, error) {
	text = strings.ToLower(text)
	dir := s.directory()
	switch {
	case !idPrefix.MatchString(text):
		return migration.ID{}, mistakef("copy what `status` prints, or its beginning", "%s%.40q: not an id of 32 hexadecimal digits, nor the first %d or more of one", name, text, leastPrefix)
	case dir == "":
		return migration.ID{}, mistakef("name the directory with its journal with --state-dir", "%s%s: there is no directory with journals", name, text)
	case len(text) == len(migration.ID{}.String()):
		return migration.ParseID(text)
	}
	all, err := migrations(dir, role, text)
	switch {
	case err != nil:
		return migration.ID{}, mistakef("name the directory with --state-dir", "%s", plainText(err))
	case len(all) == 0:
		return migration.ID{}, mistakef("`status` lists what is there", "%s%s: no migration in %s begins so", name, text, dir)
	case len(all) > 1:
		return migration.ID{}, mistakef("give more of its digits", "%s%s: %d migrations begin so: %s", name, text, len(all), shorten(all))
	}
	return migration.ParseID(all[0])
}

// migrations are the ids that begin so, of the journals in a directory.
func migrations(dir string, role journal.Role, prefix string) (ids []string, err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	for _, name := range names {
		id, of, _ := strings.Cut(filepath.Base(name), ".")
		if of == role.String() && strings.HasPrefix(id, prefix) && idPrefix.MatchString(id) && len(id) == len(migration.ID{}.String()) {
			ids = append(ids, id)
		}
	}
	return ids, err
}

// shorten lists some of many ids.
func shorten(ids []string) string {
	const most = 4
	if len(ids) > most {
		return strings.Join(ids[:most], ", ") + ", ..."
	}
	return strings.Join(ids, ", ")
}

// completeMigration offers the ids of the journals that begin like what was typed.
func (c *common) completeMigration(_ *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 || c.state.directory() == "" {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ids, err := migrations(c.state.directory(), c.role.journal(), strings.ToLower(typed))
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}
