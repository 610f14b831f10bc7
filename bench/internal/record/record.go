// Package record is how the comparisons of bench store their results: with the host, in files
// that are whole or absent, and in the same colours.
package record

import (
	"encoding/json"
	"errors"
	"image/color"
	"os"
	"path/filepath"
)

// Palette has the colours of a chart's series, in order. They are distinguishable without
// red and green.
var Palette = []color.Color{
	color.RGBA{0x44, 0x77, 0xaa, 0xff}, color.RGBA{0xbb, 0xbb, 0xbb, 0xff}, color.RGBA{0x66, 0xcc, 0xee, 0xff},
	color.RGBA{0xcc, 0xbb, 0x44, 0xff}, color.RGBA{0xee, 0x66, 0x77, 0xff}, color.RGBA{0x22, 0x22, 0x22, 0xff},
	color.RGBA{0xaa, 0x33, 0x77, 0xff},
}

// File writes content to path, whole or, after an error, not at all. It makes the directory
// if necessary.
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

// JSON writes figures as File does.
func JSON(path string, figures any) error {
	text, err := json.MarshalIndent(figures, "", "  ")
	if err != nil {
		return err
	}
	return File(path, append(text, '\n'))
}
