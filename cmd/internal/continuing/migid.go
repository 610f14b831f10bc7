package continuing

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/migpipe/migpipe/cmd/internal/ui"
	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/transport/migration"
)

// LeastPrefix is how many digits the beginning of a migration's id has at least.
const LeastPrefix = 4

var idPrefix = regexp.MustCompile(`^[0-9a-f]{4,32}$`)

// FindMigration reads the id of a migration, or the beginning of one that a journal of this
// side has, if no other one begins so. name is what the id was given with.
func (s *State) FindMigration(role journal.Role, name, text string) (migration.ID, error) {
	text = strings.ToLower(text)
	dir := s.Directory()
	switch {
	case !idPrefix.MatchString(text):
		return migration.ID{}, ui.Mistakef("copy what `status` prints, or its beginning", "%s%.40q: not an id of 32 hexadecimal digits, nor the first %d or more of one", name, text, LeastPrefix)
	case dir == "":
		return migration.ID{}, ui.Mistakef("name the directory with its journal with --state-dir", "%s%s: there is no directory with journals", name, text)
	case len(text) == len(migration.ID{}.String()):
		return migration.ParseID(text)
	}
	all, err := Migrations(dir, role, text)
	switch {
	case err != nil:
		return migration.ID{}, ui.Mistakef("name the directory with --state-dir", "%s", ui.PlainText(err))
	case len(all) == 0:
		return migration.ID{}, ui.Mistakef("`status` lists what is there", "%s%s: no migration in %s begins so", name, text, dir)
	case len(all) > 1:
		return migration.ID{}, ui.Mistakef("give more of its digits", "%s%s: %d migrations begin so: %s", name, text, len(all), shorten(all))
	}
	return migration.ParseID(all[0])
}

// Migrations are the ids that begin so, of the journals in a directory.
func Migrations(dir string, role journal.Role, prefix string) (ids []string, err error) {
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
