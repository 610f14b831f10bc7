package sim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/migpipe/migpipe/vfio"
)

// kept is what the file of [Options.Keep] says of a device.
type kept struct {
	Profile string     `json:"profile"`
	State   vfio.State `json:"state"`            // by its number
	Verify  string     `json:"verify,omitempty"` // what Verify says, if it is not content
	Seed    uint64     `json:"seed"`
	Content Content    `json:"content"` // by its number
	Size    int64      `json:"size"`
	Block   int64      `json:"block"`
	Gens    []uint32   `json:"generations"`
}

// keep writes the device's file anew. Under another name first: a process that is
// killed meanwhile leaves the file as it was. It is not synced: what the file has to
// outlive is the process, not the host.
func (d *Device) keep() error {
	if d.opts.Keep == "" {
		return nil
	}
	k := kept{
		Profile: d.p.name, State: d.state,
		Seed: d.im.seed, Content: d.im.content, Size: d.im.size, Block: d.im.block, Gens: d.im.gens,
	}
	if d.loaded != nil {
		k.Verify = d.loaded.Error()
	}
	b, _ := json.Marshal(k) // strings and numbers
	next := d.opts.Keep + ".new"
	if err := os.WriteFile(next, b, 0o600); err != nil {
		return err
	}
	return os.Rename(next, d.opts.Keep)
}

// find takes up the device that is kept, or begins to keep this one if none is.
func (d *Device) find() error {
	if d.opts.Keep == "" {
		return nil
	}
	b, err := readKept(d.opts.Keep)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return d.keep()
	case err != nil:
		return err
	}
	k, err := parseKept(b, d.p)
	if err != nil {
		return fmt.Errorf("%s: %w: remove it, and the device is new", d.opts.Keep, err)
	}
	d.found = true
	d.takeUp(k)
	return nil
}

// readKept reads the file of a device. A FIFO is not waited for.
func readKept(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Mode().Type()&^fs.ModeDir != 0 { // of a directory, the read tells
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	return io.ReadAll(f)
}

func parseKept(b []byte, p *profile) (*kept, error) {
	var k kept
	if err := json.Unmarshal(b, &k); err != nil {
		return nil, fmt.Errorf("no kept device, or a torn one: %w", err)
	}
	switch {
	case k.Profile != p.name:
		return nil, fmt.Errorf("the device that is kept is %q, not %q", k.Profile, p.name)
	case k.State != vfio.StateError && !p.features.Has(k.State):
		return nil, fmt.Errorf("the device that is kept is in %v, which its kind does not have", k.State)
	case k.Content > Text || int64(len(k.Gens)) != k.blocks():
		return nil, fmt.Errorf("bad kept device: %d generations for %d bytes in blocks of %d, content %d", len(k.Gens), k.Size, k.Block, k.Content)
	}
	return &k, nil
}

// blocks is how many generations there have to be, -1 where no number is right.
func (k *kept) blocks() int64 {
	switch {
	case k.Size == 0:
		return 0
	case k.Size < 0 || k.Size > maxSize || k.Block < 1 || k.Block > maxBlock:
		return -1
	}
	return (k.Size + k.Block - 1) / k.Block
}

// image is the state; the guest goes on from there.
func (k *kept) image() *image {
	im := newImage(k.Seed, k.Content, k.Size, k.Block)
	copy(im.gens, k.Gens)
	return im
}

// verdict is what Verify said.
func (k *kept) verdict() error {
	switch k.Verify {
	case "":
		return nil
	case errNothingLoaded.Error():
		return errNothingLoaded
	}
	return errors.New(k.Verify)
}

// takeUp makes this device the kept one. The driver still has the session, if the
// state has one, but the handle ended with the process that had it, and none is
// given out twice. What was written to one that loads is not kept: it is lost.
func (d *Device) takeUp(k *kept) {
	d.state, d.loaded = k.State, k.verdict()
	d.adopt(k.image())
	switch {
	case d.state.Saving():
		d.sess = &session{d: d, save: newSaver(d.p, d.identity(), d.im, &d.opts, time.Now())}
	case d.state == vfio.Resuming:
		d.sess = &session{d: d, load: newLoader(d.p, d.identity(), d.capacity())}
		d.sess.load.refuse(verdict{atStop, syscall.ENODEV}, vfio.ErrSessionLost)
	}
}
