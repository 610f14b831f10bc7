package sim

import (
	"encoding/json"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/migpipe/migpipe/vfio"
)

// keeping returns a device URL with the parameter keep, for a file in a temporary directory.
func keeping(t testing.TB, device string) string {
	mark := "?"
	if strings.Contains(device, "?") {
		mark = "&"
	}
	return device + mark + "keep=" + url.QueryEscape(filepath.Join(t.TempDir(), "a&b.state"))
}

func wantState(t *testing.T, d *Device, want vfio.State) {
	t.Helper()
	if got, err := d.State(); err != nil || got != want {
		t.Fatalf("device is in %v, %v, want %v", got, err, want)
	}
}

// statesOf returns the states that a profile's devices have, except RESUMING.
func statesOf(p *profile) (list []vfio.State) {
	for s := vfio.Stop; s <= vfio.PreCopyP2P; s++ {
		if p.features.Has(s) && s != vfio.Resuming {
			list = append(list, s)
		}
	}
	return list
}

// TestKeptSource checks that the next process finds a device in each state, without its
// session, and can run and migrate it.
func TestKeptSource(t *testing.T) {
	eachProfile(t, func(t *testing.T, p *profile) {
		for _, state := range statesOf(p) {
			synctest.Test(t, func(t *testing.T) {
				device := keeping(t, small[p.name])
				first := open(t, device)
				time.Sleep(time.Second)
				if s := set(t, first, state); s != nil {
					if _, err := s.Read(make([]byte, 20)); err != nil {
						t.Fatal(err)
					}
				}
				held := first.im.digest()
				second := open(t, device)
				wantState(t, second, state)
				if got := second.im.digest(); got != held {
					t.Errorf("%v: the content differs", state)
				}
				if s := set(t, second, state); s != nil {
					t.Errorf("%v: the session has a second handle", state)
				}
				set(t, second, vfio.Running)
				time.Sleep(time.Second)
				dst := open(t, p.name)
				load(t, dst, save(t, second))
				if err := dst.Verify(); err != nil {
					t.Errorf("%v: %v", state, err)
				}
			})
		}
	})
}

// TestKeptPreCopy checks that the driver still has the session: it continues to STOP_COPY, but has
// no handle.
func TestKeptPreCopy(t *testing.T) {
	device := keeping(t, small["mlx5"])
	set(t, open(t, device), vfio.PreCopy)
	d := open(t, device)
	if s := set(t, d, vfio.StopCopy); s != nil {
		t.Error("the session has a second handle")
	}
	wantState(t, open(t, device), vfio.StopCopy)
	if _, err := d.SetState(vfio.PreCopy); !errors.Is(err, vfio.ErrBlocked) {
		t.Errorf("STOP_COPY to PRE_COPY: %v", err)
	}
}

// TestKeptDestination checks that an interrupted load leaves only the state RESUMING, which a
// reset ends, and that an accepted load stays.
func TestKeptDestination(t *testing.T) {
	eachProfile(t, func(t *testing.T, p *profile) {
		device, state := keeping(t, p.name), save(t, open(t, small[p.name]))
		if _, err := set(t, open(t, device), vfio.Resuming).Write(state[:len(state)/2]); err != nil {
			t.Fatal(err)
		}
		d := open(t, device)
		wantState(t, d, vfio.Resuming)
		if s := set(t, d, vfio.Resuming); s != nil {
			t.Error("the session has a second handle")
		}
		if _, err := d.SetState(vfio.Stop); !errors.Is(err, vfio.ErrSessionLost) {
			t.Errorf("RESUMING to STOP after a lost load: %v", err)
		}
		wantState(t, d, vfio.Resuming)
		if err := d.Reset(); err != nil {
			t.Fatal(err)
		}
		d = open(t, device)
		wantState(t, d, vfio.Running)
		if _, err := set(t, d, vfio.Resuming).Write(state); err != nil {
			t.Fatal(err)
		}
		for _, to := range statesOf(p) {
			if to.Saving() {
				continue
			}
			set(t, d, to)
			d = open(t, device)
			wantState(t, d, to)
			if err := d.Verify(); err != nil {
				t.Errorf("%v: %v", to, err)
			}
		}
		again := open(t, p.name)
		load(t, again, save(t, d))
		if err := again.Verify(); err != nil {
			t.Errorf("second migration: %v", err)
		}
	})
}

// TestKeptDamageStays checks that Verify fails in the next process too, if the driver has accepted
// half a state.
func TestKeptDamageStays(t *testing.T) {
	device, state := keeping(t, "mlx5"), save(t, open(t, small["mlx5"]))
	first := open(t, device)
	load(t, first, state[:len(state)/2])
	second := open(t, device)
	if want, got := first.Verify(), second.Verify(); got == nil || got.Error() != want.Error() {
		t.Errorf("Verify returned %v, and now %v", want, got)
	}
}

// TestKeptUntilReset checks that Close does not change the device in the file, and that a reset
// discards its state.
func TestKeptUntilReset(t *testing.T) {
	device := keeping(t, small["mlx5"])
	d := open(t, device)
	load(t, d, save(t, open(t, "mlx5?size=1MiB&seed=9")))
	set(t, d, vfio.Stop)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = open(t, device)
	wantState(t, d, vfio.Stop)
	if err := d.Reset(); err != nil {
		t.Fatal(err)
	}
	d = open(t, device)
	wantState(t, d, vfio.Running)
	if err := d.Verify(); !errors.Is(err, errNothingLoaded) || d.im.size != 600000 || d.im.seed != 7 {
		t.Errorf("after the reset: %v, %d bytes of seed %d", err, d.im.size, d.im.seed)
	}
}

func TestKeptInError(t *testing.T) {
	device := keeping(t, "mlx5?size=1MiB&fault=error@10")
	s := set(t, open(t, device), vfio.StopCopy)
	s.Read(make([]byte, 10))
	if _, err := s.Read(make([]byte, 10)); err == nil {
		t.Fatal("the fault did not strike")
	}
	d := open(t, device)
	wantState(t, d, vfio.StateError)
	if err := d.Reset(); err != nil {
		t.Fatal(err)
	}
	wantState(t, open(t, device), vfio.Running)
}

// TestKeptLog checks that the first line of a process has the state in which it found the device.
func TestKeptLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	device := keeping(t, "mlx5?log="+path)
	load(t, open(t, device), save(t, open(t, small["mlx5"])))
	set(t, open(t, device), vfio.Stop)
	open(t, device)
	lines, err := ReadLog(path)
	if err != nil {
		t.Fatal(err)
	}
	type brief struct {
		Event, To          string
		Whole, Kept, Found bool
	}
	want := []brief{
		{"open", "RUNNING", false, true, false},
		{"set", "RUNNING_P2P", false, true, false},
		{"set", "STOP", false, true, false},
		{"set", "RESUMING", false, true, false},
		{"set", "STOP", true, true, false},
		{"set", "RUNNING_P2P", true, true, false},
		{"set", "RUNNING", true, true, false},
		{"open", "RUNNING", true, true, true},
		{"set", "RUNNING_P2P", true, true, true},
		{"set", "STOP", true, true, true},
		{"open", "STOP", true, true, true},
	}
	var got []brief
	for _, l := range lines {
		got = append(got, brief{l.Event, l.To, l.Whole, l.Kept, l.Found})
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// TestKeptIsTorn checks that the error for a truncated file names the file.
func TestKeptIsTorn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	open(t, "mtty?keep="+path)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenURL("mtty?keep=" + path); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "torn") {
			t.Fatalf("torn at byte %d: %v", n, err)
		}
	}
}

func TestKeptIsRefused(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	for content, want := range map[string]string{
		`{"profile":"mtty","state":1}`:                                                           `profile "mtty", not "xe"`,
		`{"profile":"xe","state":6}`:                                                             "a device in PRE_COPY, which",
		`{"profile":"xe","state":9}`:                                                             "a device in State(9)",
		`{"profile":"xe","state":1,"content":4}`:                                                 "content 4",
		`{"profile":"xe","state":1,"size":10,"block":4,"generations":[1,2]}`:                     "2 generations for 10 bytes in blocks of 4",
		`{"profile":"xe","state":1,"size":10}`:                                                   "in blocks of 0",
		`{"profile":"xe","state":1,"size":-1,"block":4}`:                                         "for -1 bytes",
		`{"profile":"xe","state":1,"size":9223372036854775807,"block":9223372036854775807}`:      "0 generations",
		`{"profile":"xe","state":1,"size":1,"block":1,"generations":[-1]}`:                       "cannot unmarshal",
		`{"profile":"xe","state":1,"size":1,"block":1,"generations":[1]}{"profile":"xe"}`:        "invalid character",
		`{"ns":1,"pid":2,"device":"sim:xe","event":"open","from":"RUNNING","to":"RUNNING"}` + "": `profile "", not "xe"`,
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenURL("xe?keep=" + path); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path+": ") {
			t.Errorf("%s: %v, want %q", content, err, want)
		}
	}
	for bad, want := range map[string]error{dir: syscall.EISDIR, path + "/x": syscall.ENOTDIR, dir + "/none/x": syscall.ENOENT} {
		if _, err := OpenURL("xe?keep=" + bad); !errors.Is(err, want) || !strings.Contains(err.Error(), bad) {
			t.Errorf("%s: %v, want %v", bad, err, want)
		}
	}
}

// TestKeptIsNoFIFO checks that Open does not wait for the writer of a FIFO.
func TestKeptIsNoFIFO(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenURL("xe?keep=" + path); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("opened: %v", err)
	}
}

// TestKeepFails checks that a transition fails, although it happened, if its file cannot be
// written.
func TestKeepFails(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gone")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	d := open(t, "mtty?keep="+dir+"/state&fault=error@10&fault=reset@20")
	s := set(t, d, vfio.StopCopy)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	s.Read(make([]byte, 10))
	_, faulty := s.Read(make([]byte, 10))
	wantState(t, d, vfio.StateError)
	reset := d.Reset()
	_, stop := d.SetState(vfio.RunningP2P)
	wantState(t, d, vfio.RunningP2P)
	for call, err := range map[string]error{"fault": faulty, "reset": reset, "set": stop} {
		if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v", call, err)
		}
	}
}

func FuzzKept(f *testing.F) {
	for i := range profiles {
		b, err := json.Marshal(keptDevice{Profile: profiles[i].name, State: vfio.StopCopy, Size: 10, Block: 4, Gens: []uint32{1, 2, 3}, Verify: "damaged"})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for i := range profiles {
			k, err := parseKept(b, &profiles[i])
			if err != nil {
				continue
			}
			if im := k.image(); len(im.gens) != len(k.Gens) {
				t.Errorf("the image has %d generations, want %d", len(im.gens), len(k.Gens))
			}
			text, err := json.Marshal(k)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := parseKept(text, &profiles[i]); err != nil || !reflect.DeepEqual(again, k) {
				t.Errorf("%+v is written as %+v, %v", k, again, err)
			}
		}
	})
}
