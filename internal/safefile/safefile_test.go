package safefile

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const other = 12345 // the id of another user, who need not exist

// must ends a test whose files cannot be created.
func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// TestRead checks that Read accepts a file that no other user can change, also through links, and
// opens only regular files.
func TestRead(t *testing.T) {
	for _, c := range []struct {
		name   string
		access Access
		make   func(dir, path string) error // changes a good file of mode 0600 at path
		want   string                       // part of the error, "" for none
		root   bool                         // only root can make the change
	}{
		{name: "good", make: func(_, _ string) error { return nil }},
		{name: "readable", make: func(_, p string) error { return os.Chmod(p, 0o644) }},
		{name: "readable secret", access: Secret, make: func(_, p string) error { return os.Chmod(p, 0o604) }, want: "mode 0604 lets others read the key: run chmod 600 "},
		{name: "writable", make: func(_, p string) error { return os.Chmod(p, 0o620) }, want: "mode 0620 lets others change it"},
		{name: "writable directory", make: func(d, _ string) error { return os.Chmod(d, 0o770) }, want: "mode 0770 lets others change the content of "},
		{name: "sticky directory", make: func(d, _ string) error { return os.Chmod(d, 0o777|fs.ModeSticky) }},
		{name: "writable directory above", make: func(d, _ string) error { return os.Chmod(filepath.Dir(d), 0o777) }, want: "mode 0777 lets others change the content of "},
		{name: "owner", make: func(_, p string) error { return os.Chown(p, other, -1) }, want: "belongs to user 12345", root: true},
		{name: "owner of the directory", make: func(d, _ string) error { return os.Chown(d, other, -1) }, want: "belongs to user 12345", root: true},
		{name: "links as Kubernetes has them", make: func(d, p string) error {
			now := filepath.Join(d, "..2026")
			return errors.Join(os.Mkdir(now, 0o755), os.Rename(p, filepath.Join(now, "file")),
				os.Symlink("..2026", filepath.Join(d, "..data")), os.Symlink("..data/file", p))
		}},
		{name: "link of another user", make: func(d, p string) error {
			real := filepath.Join(d, "real")
			return errors.Join(os.Rename(p, real), os.Symlink(real, p), os.Lchown(p, other, -1))
		}, want: "belongs to user 12345", root: true},
		{name: "link through a writable directory", make: func(d, p string) error {
			open := filepath.Join(d, "open")
			return errors.Join(os.Mkdir(open, 0o700), os.Chmod(open, 0o777), os.Rename(p, filepath.Join(open, "real")), os.Symlink("open/../open/real", p))
		}, want: "lets others change the content of "},
		{name: "link to itself", make: func(_, p string) error { return errors.Join(os.Remove(p), os.Symlink(p, p)) }, want: "too many levels"},
		{name: "FIFO", make: func(_, p string) error { return errors.Join(os.Remove(p), unix.Mkfifo(p, 0o600)) }, want: "not a regular file"},
		{name: "device", make: func(_, p string) error { return errors.Join(os.Remove(p), os.Symlink("/dev/zero", p)) }, want: "not a regular file"},
		{name: "directory", make: func(_, p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o700)) }, want: "not a regular file"},
		{name: "large", make: func(_, p string) error { return os.Truncate(p, 101) }, want: "101 bytes, want at most 100"},
		{name: "missing", make: func(_, p string) error { return os.Remove(p) }, want: "no such file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.root && os.Geteuid() != 0 {
				t.Skip("SKIP: only root can give a file away")
			}
			dir := filepath.Join(t.TempDir(), "dir")
			path := filepath.Join(dir, "file")
			must(t, os.Mkdir(dir, 0o700), os.WriteFile(path, []byte("text"), 0o600), c.make(dir, path))
			text, err := Read(path, 100, c.access)
			switch {
			case c.want == "" && (err != nil || string(text) != "text"):
				t.Errorf("read %q, %v", text, err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("%v, want %q", err, c.want)
			case errors.Is(err, fs.ErrNotExist) != (c.name == "missing"):
				t.Errorf("%v: wrong match with fs.ErrNotExist", err)
			case strings.Contains(c.want, "others") && !errors.Is(err, ErrUntrusted):
				t.Errorf("%v is not ErrUntrusted", err)
			}
		})
	}
}

// TestRelative checks that a relative path is resolved from the working directory.
func TestRelative(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	must(t, os.Mkdir("a", 0o700), os.WriteFile("b", []byte("text"), 0o600))
	if text, err := Read("a/.././b", 100, Secret); err != nil || string(text) != "text" {
		t.Errorf("%q, %v", text, err)
	}
}

// TestCheckDir checks that a directory in which others may create files is refused, sticky or
// not.
func TestCheckDir(t *testing.T) {
	dir := t.TempDir()
	for mode, bad := range map[fs.FileMode]bool{0o755: false, 0o700: false, 0o770: true, 0o777: true, 0o777 | fs.ModeSticky: true} {
		must(t, os.Chmod(dir, mode))
		if err := CheckDir(dir); errors.Is(err, ErrUntrusted) != bad {
			t.Errorf("mode %v: %v", mode, err)
		}
	}
	must(t, os.Chmod(dir, 0o700))
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, nil, 0o600))
	if err := CheckDir(file); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("a file: %v", err)
	}
	if os.Geteuid() == 0 {
		must(t, os.Chown(dir, other, -1))
		if err := CheckDir(dir); !errors.Is(err, ErrUntrusted) {
			t.Errorf("directory of another user: %v", err)
		}
	}
}

// TestMakeDir checks that MakeDir creates one directory but not its parent.
func TestMakeDir(t *testing.T) {
	dir := t.TempDir()
	if err := MakeDir(filepath.Join(dir, "no", "new")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("two levels: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "no")); err == nil {
		t.Error("the parent directory was created")
	}
	for range 2 {
		if err := MakeDir(filepath.Join(dir, "new") + "/"); err != nil {
			t.Error(err)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "new")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
	must(t, os.Chmod(dir, 0o777))
	if err := MakeDir(filepath.Join(dir, "other")); !errors.Is(err, ErrUntrusted) {
		t.Errorf("in a directory that others may write: %v", err)
	}
}

// TestRootOwns checks that a group may read a secret file of root if the reader, root or not, is in
// that group. Neither another group nor all users may read or change it.
func TestRootOwns(t *testing.T) {
	if path := os.Getenv("SAFEFILE_TEST"); path != "" {
		_, err := Read(path, 100, Secret)
		os.Stdout.WriteString("answer: " + errText(err))
		os.Exit(0)
	}
	if os.Geteuid() != 0 {
		t.Skip("SKIP: only root can be another user")
	}
	const group = other + 1
	service := syscall.Credential{Uid: other, Gid: other, Groups: []uint32{group}}
	root := syscall.Credential{Groups: []uint32{group}} // as in a container
	stranger := syscall.Credential{}                    // root, in no other group
	for _, c := range []struct {
		mode   fs.FileMode
		reader syscall.Credential
		want   string
	}{
		{0o640, service, "answer: none"},
		{0o440, service, "answer: none"},
		{0o440, root, "answer: none"},
		{0o640, root, "answer: none"},
		{0o640, syscall.Credential{Uid: other, Gid: group}, "answer: none"},
		{0o440, stranger, "answer: mode 0440 lets others read the key: run chmod 600"},
		{0o660, service, "answer: mode 0660 lets others read the key: run chmod 640"},
		{0o660, root, "answer: mode 0660 lets others read the key"},
		{0o644, service, "answer: mode 0644 lets others read the key"},
		{0o444, root, "answer: mode 0444 lets others read the key"},
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, "file")
		must(t, os.Chmod(filepath.Dir(dir), 0o755), os.WriteFile(path, nil, 0o600), os.Chown(path, 0, group), os.Chmod(path, c.mode))
		cmd := exec.Command("/proc/self/exe", "-test.run", "^TestRootOwns$")
		cmd.Env = append(os.Environ(), "SAFEFILE_TEST="+path)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &c.reader}
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), c.want) {
			t.Errorf("mode %v, read as %+v: %v\n%s", c.mode, c.reader, err, out)
		}
	}
}

// TestNotMapped checks that the error explains an owner who is not mapped in this user namespace.
// Outside of a user namespace the same number is an ordinary user.
func TestNotMapped(t *testing.T) {
	if path := os.Getenv("SAFEFILE_TEST"); path != "" {
		_, err := Read(path, 100, Public)
		os.Stdout.WriteString("answer: " + errText(err))
		os.Exit(0)
	}
	if os.Geteuid() != 0 {
		t.Skip("SKIP: only root can give a file away")
	}
	const says = "which represents every user who is not mapped in this user namespace"
	path := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(path, nil, 0o644), os.Chown(path, other, -1))
	cmd := exec.Command("/proc/self/exe", "-test.run", "^TestNotMapped$")
	cmd.Env = append(os.Environ(), "SAFEFILE_TEST="+path)
	root := []syscall.SysProcIDMap{{Size: 1}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: root, GidMappings: root}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) {
		t.Skipf("SKIP: no user namespace: %v", err)
	}
	if err != nil || !strings.Contains(string(out), says) || !strings.Contains(string(out), path) {
		t.Errorf("%v\n%s", err, out)
	}
	must(t, os.Chown(path, overflowUser(), -1))
	if _, err := Read(path, 100, Public); !errors.Is(err, ErrUntrusted) || strings.Contains(err.Error(), says) != inUserNamespace() {
		t.Errorf("outside: %v", err)
	}
}

func errText(err error) string {
	if err == nil {
		return "none"
	}
	return err.Error()
}
