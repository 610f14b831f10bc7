package docs

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const unitDir = root + "/docs/systemd"

// hardened are the directives of both services, in one form or another.
var hardened = []string{
	"DynamicUser=yes", "NoNewPrivileges=yes", "CapabilityBoundingSet=", "AmbientCapabilities=",
	"ProtectSystem=strict", "ProtectHome=yes", "PrivateTmp=yes", "PrivateDevices=yes", "DevicePolicy=closed", "PrivateUsers=yes",
	"ProtectKernelLogs=yes", "ProtectKernelModules=yes", "ProtectKernelTunables=yes", "ProtectControlGroups=yes",
	"ProtectClock=yes", "ProtectHostname=yes", "ProtectProc=invisible", "ProcSubset=pid",
	"RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX", "RestrictNamespaces=yes", "RestrictRealtime=yes", "RestrictSUIDSGID=yes",
	"MemoryDenyWriteExecute=yes", "LockPersonality=yes", "SystemCallArchitectures=native",
	// Without these three, systemd 252 prevents the program from confining itself.
	"SystemCallFilter=@system-service landlock_create_ruleset landlock_add_rule landlock_restrict_self",
	"SystemCallFilter=~@privileged @resources",
	"MemoryMax=256M", "MemorySwapMax=0", "TasksMax=256", "LimitCORE=0", "UMask=0077", "StateDirectoryMode=0700", "Restart=on-failure",
}

// unit returns the directives of a unit file.
func unit(t *testing.T, name string) (lines []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(unitDir, name))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			lines = append(lines, line)
		}
	}
	return lines
}

// TestUnitsAreHardened compares the services with the list, and with the purpose of each. No
// directive may occur twice: in most cases only its last value would count.
func TestUnitsAreHardened(t *testing.T) {
	own := map[string][]string{
		"mig-recv@.service": {"Type=notify", "StateDirectory=mig mig/%i", "RestartPreventExitStatus=2 3 6 9"},
		"mig-send@.service": {"Type=exec", "StateDirectory=mig mig/%i", "RestartPreventExitStatus=1 2 3 4 5 6 7 8 9 10"},
		"mig-recv@.socket":  {"ListenDatagram=7000", "FileDescriptorName=quic"},
	}
	for name, want := range own {
		lines := unit(t, name)
		if strings.HasSuffix(name, ".service") {
			want = append(want, hardened...)
		}
		for _, w := range want {
			if !slices.Contains(lines, w) {
				t.Errorf("%s does not say %s", name, w)
			}
		}
		said := map[string]bool{}
		for _, line := range lines {
			key, _, ok := strings.Cut(line, "=")
			if ok && said[key] && key != "SystemCallFilter" {
				t.Errorf("%s has %s twice", name, key)
			}
			said[key] = true
		}
	}
}

// TestUnitFlags compares the services' command lines with the programs' help.
func TestUnitFlags(t *testing.T) {
	help := helpTexts(t)
	for name, program := range map[string]string{"mig-recv@.service": "mig-recv", "mig-send@.service": "mig-send"} {
		lines := unit(t, name)
		i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "ExecStart=/usr/local/bin/"+program+" ") })
		if i < 0 {
			t.Errorf("%s does not start %s", name, program)
			continue
		}
		for _, want := range []string{" --continue ", " --state-dir %S/mig/%i "} { // a restart is the recovery
			if !strings.Contains(lines[i], want) {
				t.Errorf("%s does not start it with%s", name, want)
			}
		}
		for _, f := range flag.FindAllString(lines[i], -1) {
			if !strings.Contains(help[program], f+" ") {
				t.Errorf("%s has no flag %s, which %s uses", program, f, name)
			}
		}
	}
}

// exposure is the limit for the result of `systemd-analyze security`, in tenths: 0 is best, 100
// worst. It counts the network, which the services need: 12 by systemd 252. Other versions
// weigh differently.
const exposure = "15"

// TestUnitsBySystemd has systemd read the units.
func TestUnitsBySystemd(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skipf("SKIP: no systemd here to read the units: %v", err)
	}
	dir := t.TempDir()
	var paths, services []string
	program := regexp.MustCompile(`/usr/local/bin/mig-\w+`)
	for _, name := range []string{"mig-recv@.service", "mig-recv@.socket", "mig-send@.service"} {
		text, err := os.ReadFile(filepath.Join(unitDir, name))
		path := filepath.Join(dir, name)
		if err == nil { // it requires the programs
			err = os.WriteFile(path, program.ReplaceAll(text, []byte("/bin/true")), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
		if strings.HasSuffix(name, ".service") {
			services = append(services, path)
		}
	}
	out, err := exec.Command(analyze, append([]string{"verify", "--man=no"}, paths...)...).CombinedOutput()
	if err != nil || strings.Contains(string(out), "mig-") { // errors in other units are not ours
		t.Errorf("verify: %v\n%s", err, out)
	}
	for _, path := range services {
		out, err := exec.Command(analyze, "security", "--offline=true", "--threshold="+exposure, "--no-pager", path).CombinedOutput()
		if err != nil {
			t.Errorf("security %s: %v\n%s", path, err, out)
		}
	}
}
