package vfio

import (
	"fmt"
	"path"
	"regexp"
	"strings"
)

// address names a device: exactly one field is set.
type address struct {
	path string // of a device's cdev, absolute and clean
	pci  string // "0000:3b:00.1", lower case, with the domain
	mdev string // a UUID, lower case
}

var (
	pciPattern  = regexp.MustCompile(`^([0-9a-f]{4,8}:)?[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$`)
	uuidPattern = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
)

// CheckName tells whether [Open] understands a name, without looking for the
// device.
func CheckName(name string) error {
	_, err := parseAddress(name)
	return err
}

// parseAddress tells the three ways to name a device apart. A PCI address may
// lack its domain, 0000.
func parseAddress(s string) (address, error) {
	low := strings.ToLower(s)
	switch {
	case strings.HasPrefix(s, "/") && !strings.ContainsRune(s, 0):
		return address{path: path.Clean(s)}, nil
	case uuidPattern.MatchString(low):
		return address{mdev: low}, nil
	case pciPattern.MatchString(low):
		if strings.Count(low, ":") == 1 {
			low = "0000:" + low
		}
		return address{pci: low}, nil
	}
	return address{}, fmt.Errorf("%.80q is no device: want a path as /dev/vfio/devices/vfio0, "+
		"a PCI address as 0000:3b:00.1, or the UUID of a mediated device", s)
}
