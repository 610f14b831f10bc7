package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// standIn does of socat what is asked of it here, with the same arguments.
func standIn(args []string) error {
	if len(args) != 5 || args[0] != "-u" || args[1] != "-b" {
		return fmt.Errorf("arguments %q", args)
	}
	if m := regexp.MustCompile(`^OPENSSL:(127\.0\.0\.1:\d+),verify=0$`).FindStringSubmatch(args[4]); m != nil && args[3] == "STDIN" {
		c, err := tls.Dial("tcp", m[1], &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			return err
		}
		if _, err := io.Copy(c, os.Stdin); err != nil {
			return err
		}
		return c.CloseWrite()
	}
	m := regexp.MustCompile(`^OPENSSL-LISTEN:(\d+),bind=127\.0\.0\.1,reuseaddr,cert=(.+),key=(.+),verify=0$`).FindStringSubmatch(args[3])
	if m == nil || args[4] != "STDOUT" {
		return fmt.Errorf("arguments %q", args)
	}
	certificate, err := tls.LoadX509KeyPair(m[2], m[3])
	if err != nil {
		return err
	}
	l, err := tls.Listen("tcp", "127.0.0.1:"+m[1], &tls.Config{Certificates: []tls.Certificate{certificate}, SessionTicketsDisabled: true})
	if err != nil {
		return err
	}
	c, err := l.Accept()
	if err != nil {
		return err
	}
	_, err = io.Copy(os.Stdout, c)
	return err
}

// Tools are started, fed and read to the end, and their processors' time is counted; one
// that fails is named, and one that is not there is left out.
func TestExternal(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(self, filepath.Join(dir, "socat")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	for _, w := range externals() {
		if why := w.skip(); why != "" {
			t.Logf("SKIP %s: %s", w.Name, why)
			continue
		}
		s, err := w.measure(t.Context(), 8<<20)
		if err != nil || s.Rate <= 0 || s.CPU <= 0 {
			t.Errorf("%s: %+v, %v", w.Name, s, err)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := externals()[0].measure(ended, 8<<20); err == nil {
		t.Error("a run that was ended has succeeded")
	}
	t.Setenv("PATH", "")
	if why := externals()[0].skip(); why != "socat is not installed" {
		t.Errorf("without a PATH: %q", why)
	}
}
