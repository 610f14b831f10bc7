package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
)

// version is what the build knows about itself.
func version() string {
	return fmt.Sprintf("%s %s %s/%s", release(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// release is what it was built from. A version that the go command made from a
// revision names it already.
func release() string {
	v, commit := "(devel)", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		if info.Main.Version != "" {
			v = info.Main.Version
		}
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				commit = s.Value[:min(12, len(s.Value))]
			}
		}
	}
	return releaseOf(v, commit)
}

func releaseOf(version, commit string) string {
	if strings.Contains(version, commit) {
		return version
	}
	return version + " " + commit
}
