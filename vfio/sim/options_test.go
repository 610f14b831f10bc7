package sim

import (
	"math"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/migpipe/migpipe/vfio"
)

func TestParse(t *testing.T) {
	profile, o, err := Parse("mlx5?size=1.5GiB&dirty=100MiB/s&save=2GiB/s&load=1GB&buffer=4MiB&record=8MiB&alloc=1.5s&stop=20ms&start=100us&seed=0x10&version=3&content=mixed&log=a%26b&keep=c%26d" +
		"&fault=read@64KiB:EIO&fault=set@RESUMING-STOP:EINVAL&fault=reset@1MiB")
	want := &Options{
		Size: 3 << 29, DirtyRate: 100 << 20, SaveRate: 2 << 30, LoadRate: 1e9, Buffer: 4 << 20, Record: 8 << 20, Seed: 16, StateVersion: 3, Content: Mixed, Log: "a&b", Keep: "c&d",
		Alloc: 1500 * time.Millisecond, Stop: 20 * time.Millisecond, Start: 100 * time.Microsecond,
		Faults: []Fault{
			{Kind: FaultRead, At: 64 << 10, Errno: syscall.EIO},
			{Kind: FaultSet, From: vfio.Resuming, To: vfio.Stop, Errno: syscall.EINVAL},
			{Kind: FaultReset, At: 1 << 20, Errno: syscall.EIO},
		},
	}
	if err != nil || profile != "mlx5" || !reflect.DeepEqual(o, want) {
		t.Fatalf("%q, %+v, %v", profile, o, err)
	}
}

func TestParseErrors(t *testing.T) {
	for url, want := range map[string]string{
		"":                              "known are mlx5, virtio, hisi_acc, qat, pds, xe, mtty, vgpu",
		"e1000":                         `unknown profile "e1000"`,
		"mlx5?sise=1":                   `unknown parameter "sise": known are alloc, buffer, content`,
		"mlx5?size=big":                 `parameter size: "big" is not a size`,
		"mlx5?size=-1":                  "not a size",
		"mlx5?size=0x10":                "not a size",
		"mlx5?size=NaN":                 "not a size",
		"mlx5?size=9999999TiB":          "not a size",
		"mlx5?size=2TiB":                "must be 1 to",
		"mlx5?size=1&size=2":            "size is given 2 times",
		"mlx5?dirty=fast":               `"fast" is not a rate`,
		"qat?buffer=1KiB":               "has no buffers",
		"mlx5?record=-1":                "not a size",
		"mlx5?alloc=soon":               `parameter alloc: "soon" is not a time like 300ms`,
		"mlx5?stop=-1s":                 `parameter stop: "-1s" is not a time`,
		"mlx5?keep=":                    "parameter keep: must name a file",
		"mlx5?keep=a&keep=b":            "parameter keep is given 2 times",
		"mlx5?start=5":                  `parameter start: "5" is not a time`,
		"mlx5?content=noise":            `"noise" is not one of random, zero, mixed, text`,
		"?size=0":                       "no profile is named",
		"mlx5?size=0":                   "parameter size: must be more than 0",
		"mlx5?seed=x":                   `parameter seed: "x" is not a number from 0 to 18446744073709551615`,
		"mlx5?version=-1":               `parameter version: "-1" is not a number from 1 to 4294967295`,
		"mtty?ports=0":                  `parameter ports: "0" is not a number from 1 to 2`,
		"mlx5?ports=2":                  "only mtty",
		"mtty?ports=3":                  "is not a number from 1 to 2",
		"mtty?size=61":                  "has 96 bytes",
		"hisi_acc?size=100":             "must be 176",
		"qat?size=1":                    "must be 4096",
		"pds?size=65537":                "must be 64 to 65536",
		"mlx5?fault=read":               "is not KIND@WHERE",
		"mlx5?fault=explode@1":          "with KIND one of set, read",
		"mlx5?fault=read@1:EWHATEVER":   `unknown errno "EWHATEVER"`,
		"mlx5?fault=set@STOPPED":        `unknown state "STOPPED"`,
		"mlx5?fault=set@STOPPED-STOP":   `unknown state "STOPPED"`,
		"mlx5?fault=set@STOP-RUNNING-X": "unknown state",
		"mlx5?size=%zz":                 "parameters:",
	} {
		_, _, err := Parse(url)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%q) = %v, want %q", url, err, want)
		}
		if d, err := OpenURL(url); err == nil {
			d.Close()
			t.Errorf("OpenURL(%q) succeeds", url)
		}
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for _, o := range []*Options{{Size: -1}, {DirtyRate: -1}, {SaveRate: -1}, {LoadRate: -1}, {Buffer: -1}, {Record: -1}, {Alloc: -1}, {Stop: -1}, {Start: -1}, {Content: 9}, {Ports: -1}} {
		if _, err := Open("mlx5", o); err == nil {
			t.Errorf("%+v is accepted", *o)
		}
	}
}

func TestProfilesOpenAsDescribed(t *testing.T) {
	for _, p := range Profiles() {
		d := open(t, p.Name)
		if p.Doc == "" || strings.Contains(p.Doc, "\n") || p.Size != d.opts.Size {
			t.Errorf("%+v, opens with %d bytes", p, d.opts.Size)
		}
		if got := vfio.Describe(d); got.Driver != p.Name {
			t.Errorf("%s: Describe returned %+v", p.Name, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, url := range small {
		f.Add(url)
	}
	f.Add("mtty?ports=1&size=60&fault=set@RESUMING-STOP:EINVAL&fault=hang@1KiB")
	f.Fuzz(func(t *testing.T, url string) {
		profile, o, err := Parse(url)
		if err != nil {
			return
		}
		o.Size = min(o.Size, 1<<30) // bounds the memory
		o.Log, o.Keep = "", ""      // writes no files
		d, err := Open(profile, o)
		if err != nil {
			t.Fatalf("Open refuses the options that Parse(%q) returned: %v", url, err)
		}
		d.Close()
	})
}

func TestRatesAndTimesAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.Int64Range(1, 1<<50).Draw(t, "rate")
		n := rapid.Int64Range(0, 1<<50).Draw(t, "n")
		d := timeFor(rate, n)
		if d == math.MaxInt64 {
			return
		}
		if got := bytesIn(rate, d); got < n {
			t.Fatalf("%d bytes/s make %d bytes in %v, want %d", rate, got, d, n)
		}
		if d > 0 && bytesIn(rate, d-1) >= n && n > 0 {
			t.Fatalf("%v is too long for %d bytes at %d bytes/s", d, n, rate)
		}
	})
	if bytesIn(math.MaxInt64, math.MaxInt64) != math.MaxInt64 || bytesIn(0, time.Second) != 0 || timeFor(1, math.MaxInt64) != math.MaxInt64 {
		t.Error("the extreme values overflow")
	}
}

func TestBitset(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 300).Draw(t, "n")
		members := rapid.SliceOfDistinct(rapid.IntRange(0, n-1), rapid.ID).Draw(t, "members")
		b := newBitset(n)
		for _, m := range members {
			b.set(m)
		}
		var got []int
		for i := b.next(0); i >= 0; i = b.next(i + 1) {
			got = append(got, i)
		}
		slices.Sort(members)
		if len(got) != b.count() || len(got) != len(members) || !slices.Equal(append([]int{}, got...), append([]int{}, members...)) {
			t.Fatalf("members %v, got %v", members, got)
		}
	})
}
