package vfio

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// uapiRow is a number of this package, the expected value, and the C expression
// for it. guard is a macro that the header defines if it has the number.
type uapiRow struct {
	name  string
	ours  uint64
	want  uint64
	c     string
	guard string
}

const (
	guardFeature = "VFIO_DEVICE_FEATURE"
	guardMig     = "VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE"
	guardBind    = "VFIO_DEVICE_BIND_IOMMUFD"
	guardPrecopy = "VFIO_MIG_GET_PRECOPY_INFO"
	guardSize    = "VFIO_DEVICE_FEATURE_MIG_DATA_SIZE"
)

// number returns a row for a macro, which is its own guard.
func number(ours uint64, macro string, want uint64) uapiRow {
	return uapiRow{macro, ours, want, macro, macro}
}

// layout returns the rows of a structure: its size and the offset of every
// field, in order. header is the structure's offset in the ioctl's argument.
func layout(v any, header uint64, guard, c string, size uint64, fields ...any) []uapiRow {
	t := reflect.TypeOf(v)
	rows := []uapiRow{{"sizeof " + c, uint64(t.Size()) - header, size, "sizeof(struct " + c + ")", guard}}
	var offsets []uint64
	for f := range t.Fields() {
		if !f.Anonymous {
			offsets = append(offsets, uint64(f.Offset)-header)
		}
	}
	for i := 0; i < len(fields); i += 2 {
		name := fmt.Sprintf("offsetof(struct %s, %s)", c, fields[i])
		rows = append(rows, uapiRow{name, offsets[i/2], uint64(fields[i+1].(int)), name, guard})
	}
	if len(offsets) != len(fields)/2 {
		panic("layout of " + c + " does not name every field")
	}
	return rows
}

func uapiRows() []uapiRow {
	rows := []uapiRow{
		number(reqGetAPIVersion, "VFIO_GET_API_VERSION", 0x3b64),
		number(reqSetIOMMU, "VFIO_SET_IOMMU", 0x3b66),
		number(reqGroupGetStatus, "VFIO_GROUP_GET_STATUS", 0x3b67),
		number(reqGroupSetContainer, "VFIO_GROUP_SET_CONTAINER", 0x3b68),
		number(reqGroupGetDeviceFD, "VFIO_GROUP_GET_DEVICE_FD", 0x3b6a),
		number(reqDeviceGetInfo, "VFIO_DEVICE_GET_INFO", 0x3b6b),
		number(reqDeviceReset, "VFIO_DEVICE_RESET", 0x3b6f),
		number(reqDeviceFeature, "VFIO_DEVICE_FEATURE", 0x3b75),
		number(reqDeviceBindIOMMUFD, "VFIO_DEVICE_BIND_IOMMUFD", 0x3b76),
		number(reqMigGetPrecopyInfo, "VFIO_MIG_GET_PRECOPY_INFO", 0x3b79),
		number(apiVersion, "VFIO_API_VERSION", 0),
		number(iommuType1, "VFIO_TYPE1_IOMMU", 1),
		number(iommuType1v2, "VFIO_TYPE1v2_IOMMU", 3),
		number(groupViable, "VFIO_GROUP_FLAGS_VIABLE", 1),
		number(featureGet, "VFIO_DEVICE_FEATURE_GET", 0x10000),
		number(featureSet, "VFIO_DEVICE_FEATURE_SET", 0x20000),
		number(featureProbe, "VFIO_DEVICE_FEATURE_PROBE", 0x40000),
		number(featureMigration, "VFIO_DEVICE_FEATURE_MIGRATION", 1),
		number(featureMigDeviceState, "VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE", 2),
		number(featureMigDataSize, "VFIO_DEVICE_FEATURE_MIG_DATA_SIZE", 9),
		number(featureMigPrecopyInfoV2, "VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2", 12),
		number(migrationStopCopy, "VFIO_MIGRATION_STOP_COPY", 1),
		number(migrationP2P, "VFIO_MIGRATION_P2P", 2),
		number(migrationPreCopy, "VFIO_MIGRATION_PRE_COPY", 4),
		number(precopyInfoReinit, "VFIO_PRECOPY_INFO_REINIT", 1),
	}
	for i, name := range []string{"ERROR", "STOP", "RUNNING", "STOP_COPY", "RESUMING", "RUNNING_P2P"} {
		c := "VFIO_DEVICE_STATE_" + name
		rows = append(rows, uapiRow{c, uint64(StateError) + uint64(i), uint64(i), c, guardMig})
	}
	for i, name := range []string{"PRE_COPY", "PRE_COPY_P2P"} {
		c := "VFIO_DEVICE_STATE_" + name
		rows = append(rows, uapiRow{c, uint64(PreCopy) + uint64(i), uint64(6 + i), c, guardPrecopy})
	}
	return append(rows, layoutRows()...)
}

func layoutRows() (rows []uapiRow) {
	add := func(r []uapiRow) { rows = append(rows, r...) }
	add(layout(groupStatus{}, 0, "VFIO_GROUP_GET_STATUS", "vfio_group_status", 8, "argsz", 0, "flags", 4))
	info := layout(deviceInfo{}, 0, "VFIO_DEVICE_GET_INFO", "vfio_device_info", 24,
		"argsz", 0, "flags", 4, "num_regions", 8, "num_irqs", 12, "cap_offset", 16, "pad", 20)
	info[len(info)-1].guard = "VFIO_DEVICE_FLAGS_CDX" // the padding and CDX both came with 6.6
	add(info)
	add(layout(featureHeader{}, 0, guardFeature, "vfio_device_feature", 8, "argsz", 0, "flags", 4))
	add(layout(featureMigrationArg{}, 8, guardMig, "vfio_device_feature_migration", 8, "flags", 0))
	add(layout(featureStateArg{}, 8, guardMig, "vfio_device_feature_mig_state", 8, "device_state", 0, "data_fd", 4))
	add(layout(featureSizeArg{}, 8, guardSize, "vfio_device_feature_mig_data_size", 8, "stop_copy_length", 0))
	add(layout(precopyInfo{}, 0, guardPrecopy, "vfio_precopy_info", 24,
		"argsz", 0, "flags", 4, "initial_bytes", 8, "dirty_bytes", 16))
	add(layout(bindIOMMUFD{}, 0, guardBind, "vfio_device_bind_iommufd", 16,
		"argsz", 0, "flags", 4, "iommufd", 8, "out_devid", 12))
	return rows
}

// growable are the structures that newer headers have lengthened. The caller
// chooses their size (argsz), so only the offsets must match the header's.
var growable = []string{"vfio_device_info", "vfio_device_bind_iommufd"}

// TestUAPIConstants compares this package's numbers with those of the protocol.
func TestUAPIConstants(t *testing.T) {
	for _, r := range uapiRows() {
		if r.ours != r.want {
			t.Errorf("%s: %#x, want %#x", r.name, r.ours, r.want)
		}
	}
}

// TestUAPIHeader compares every number with the value that a C compiler finds
// in the installed header.
func TestUAPIHeader(t *testing.T) {
	header := headerNumbers(t)
	var missing []string
	for _, r := range uapiRows() {
		got, ok := header[r.name]
		switch {
		case !ok:
			missing = append(missing, r.name)
		case strings.HasPrefix(r.name, "VFIO_") && got&0xffff == r.ours && got>>16 == 0x2000: // _IO on powerpc, mips, sparc
		case got != r.ours:
			t.Errorf("%s: the header has %#x, this package %#x", r.name, got, r.ours)
		}
	}
	if len(header) == 0 {
		t.Error("the C program printed no number")
	}
	t.Logf("%d numbers match the header, which is too old for %d: %s",
		len(header), len(missing), strings.Join(missing, ", "))
}

// headerNumbers compiles and runs a C program that prints the header's numbers.
func headerNumbers(t *testing.T) map[string]uint64 {
	t.Helper()
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip("SKIP: no gcc to compile the kernel's header with")
	}
	if _, err := os.Stat("/usr/include/linux/vfio.h"); err != nil {
		t.Skip("SKIP: /usr/include/linux/vfio.h is not installed (linux-libc-dev)")
	}
	bin := filepath.Join(t.TempDir(), "uapi")
	cc := exec.Command(gcc, "-x", "c", "-o", bin, "-")
	cc.Stdin = bytes.NewReader(cProgram())
	if out, err := cc.CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	out, err := exec.Command(bin).Output()
	if err != nil {
		t.Fatal(err)
	}
	numbers := map[string]uint64{}
	for line := range strings.Lines(string(out)) {
		var n uint64
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if _, err := fmt.Sscan(value, &n); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		numbers[name] = n
	}
	return numbers
}

func cProgram() []byte {
	var b bytes.Buffer
	b.WriteString("#include <stddef.h>\n#include <stdio.h>\n#include <linux/vfio.h>\nint main(void) {\n")
	for _, r := range uapiRows() {
		if name, ok := strings.CutPrefix(r.name, "sizeof "); ok && slices.Contains(growable, name) {
			continue
		}
		fmt.Fprintf(&b, "#ifdef %s\nprintf(\"%s=%%llu\\n\", (unsigned long long)(%s));\n#endif\n", r.guard, r.name, r.c)
	}
	b.WriteString("return 0;\n}\n")
	return b.Bytes()
}
