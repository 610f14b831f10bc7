package record

import (
	"cmp"
	"os"
	"path/filepath"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
)

// Finding is the result of a comparison.
type Finding struct {
	Figures any
	Table   string // the printed table: it names the host and the command
	Drawing *plot.Plot
	Height  vg.Length // of the drawing
}

// Leave writes a finding into a directory, as name.json, name.txt, name.svg and name.png.
func (f Finding) Leave(dir, name string) error {
	path := filepath.Join(dir, name)
	for _, format := range []string{"svg", "png"} {
		drawing, err := Draw(f.Drawing, f.Height, format)
		if err != nil {
			return err
		}
		if err := File(path+"."+format, drawing); err != nil {
			return err
		}
	}
	return cmp.Or(File(path+".txt", []byte(f.Table)), JSON(path+".json", f.Figures))
}

// Left reads a finding for a page: the table, and the drawing as svg.
func Left(dir, name string) (table string, drawing []byte, err error) {
	path := filepath.Join(dir, name)
	text, err1 := os.ReadFile(path + ".txt")
	drawing, err2 := os.ReadFile(path + ".svg")
	return string(text), drawing, cmp.Or(err1, err2)
}
