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

// keptDevice is the content of the file of [Options.Keep].
type keptDevice struct {
	Profile string     `json:"profile"`
	State   vfio.State `json:"state"`            // by its number
	Verify  string     `json:"verify,omitempty"` // text of Verify's error, if it fails
	Seed    uint64     `json:"seed"`
	Content Content    `json:"content"` // by its number
	Size    int64      `json:"size"`
	Block   int64      `json:"block"`
	Gens    []uint32   `json:"generations"`
}

// writeKept replaces the file of Options.Keep by a rename, so that a process which is
// killed meanwhile leaves the old file. It does not sync the file, which must outlive
// the process but not the host.
func (d *Device) writeKept() error {
	if d.opts.Keep == "" {
		return nil
	}
	k := keptDevice{
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

// openKept restores the device from the file of Options.Keep. If the file does not exist, it
// writes this device to it.
func (d *Device) openKept() error {
	if d.opts.Keep == "" {
		return nil
	}
	b, err := readKept(d.opts.Keep)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return d.writeKept()
	case err != nil:
		return err
	}
	k, err := parseKept(b, d.p)
	if err != nil {
		return fmt.Errorf("%s: %w: remove the file to open a new device", d.opts.Keep, err)
	}
	d.found = true
	d.restore(k)
	return nil
}

// readKept reads the file of a device. It does not wait for the writer of a FIFO.
func readKept(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Mode().Type()&^fs.ModeDir != 0 { // the read of a directory fails
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	return io.ReadAll(f)
}

func parseKept(b []byte, p *profile) (*keptDevice, error) {
	var k keptDevice
	if err := json.Unmarshal(b, &k); err != nil {
		return nil, fmt.Errorf("not the file of a device, or a torn one: %w", err)
	}
	switch {
	case k.Profile != p.name:
		return nil, fmt.Errorf("the file holds a device of profile %q, not %q", k.Profile, p.name)
	case k.State != vfio.StateError && !p.features.Has(k.State):
		return nil, fmt.Errorf("the file holds a device in %v, which its profile does not have", k.State)
	case k.Content > Text || int64(len(k.Gens)) != k.blockCount():
		return nil, fmt.Errorf("the file holds a bad device: %d generations for %d bytes in blocks of %d, content %d", len(k.Gens), k.Size, k.Block, k.Content)
	}
	return &k, nil
}

// blockCount returns the number of generations that the size needs, -1 if size or block are
// invalid.
func (k *keptDevice) blockCount() int64 {
	switch {
	case k.Size == 0:
		return 0
	case k.Size < 0 || k.Size > maxSize || k.Block < 1 || k.Block > maxBlock:
		return -1
	}
	return (k.Size + k.Block - 1) / k.Block
}

// image returns the device's state.
func (k *keptDevice) image() *image {
	im := newImage(k.Seed, k.Content, k.Size, k.Block)
	copy(im.gens, k.Gens)
	return im
}

// verifyError returns the error of Verify.
func (k *keptDevice) verifyError() error {
	switch k.Verify {
	case "":
		return nil
	case errNothingLoaded.Error():
		return errNothingLoaded
	}
	return errors.New(k.Verify)
}

// restore gives this device the state of the file. The driver still has the session,
// if the state has one. But its handle ended with the earlier process, and a session has
// only one handle. The bytes that were written to a loading session are lost.
func (d *Device) restore(k *keptDevice) {
	d.state, d.loaded = k.State, k.verifyError()
	d.setImage(k.image())
	switch {
	case d.state.Saving():
		d.sess = &session{d: d, save: newSaver(d.p, d.identity(), d.im, &d.opts, time.Now())}
	case d.state == vfio.Resuming:
		d.sess = &session{d: d, load: newLoader(d.p, d.identity(), d.capacity())}
		d.sess.load.refuse(rejection{atStop, syscall.ENODEV}, vfio.ErrSessionLost)
	}
}
