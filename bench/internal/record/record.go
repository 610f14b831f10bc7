// Package record is how the comparisons of bench keep what they found: where it was
// taken, in files that are whole or not there, in the same colours.
package record

import (
	"encoding/json"
	"errors"
	"image/color"
	"os"
	"path/filepath"
)

// Palette colours what a chart has several of, in order; readable without telling red
// from green.
var Palette = []color.Color{
	color.RGBA{0x44, 0x77, 0xaa, 0xff}, color.RGBA{0xbb, 0xbb, 0xbb, 0xff}, color.RGBA{0x66, 0xcc, 0xee, 0xff},
	color.RGBA{0xcc, 0xbb, 0x44, 0xff}, color.RGBA{0xee, 0x66, 0x77, 0xff}, color.RGBA{0x22, 0x22, 0x22, 0xff},
	color.RGBA{0xaa, 0x33, 0x77, 0xff},
}

// File puts content where path says, whole or, after an error, not at all. The folder is
// made if need be.
func File(path string, content []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// JSON is File of figures.
func JSON(path string, figures any) error {
	text, err := json.MarshalIndent(figures, "", "  ")
	if err != nil {
		return err
	}
	return File(path, append(text, '\n'))
}
