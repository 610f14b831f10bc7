package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// externals are what people do with the tools that a host has.
func externals() []way {
	return []way{
		{Name: "socat TLS", Bench: "External/with=socat", Group: groupExternal, missing: lacks("socat"), move: socat(false)},
		{Name: "zstd -1 | socat TLS", Bench: "External/with=zstd+socat", Group: groupExternal, missing: lacks("socat", "zstd"), move: socat(true)},
	}
}

// lacks names the first of the tools that is not installed.
func lacks(tools ...string) func() string {
	return func() string {
		for _, tool := range tools {
			if _, err := exec.LookPath(tool); err != nil {
				return tool + " is not installed"
			}
		}
		return ""
	}
}

// socat sends what is written to its stdin over TLS to another one, which writes it to
// its stdout; with packed, zstd is between, on both sides.
func socat(packed bool) func(context.Context, int64, *meter) error {
	return func(ctx context.Context, size int64, m *meter) error {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		port, listen, dial, remove, err := socatCommands(ctx)
		defer remove()
		if err != nil {
			return err
		}
		sending, receiving := []*exec.Cmd{dial}, []*exec.Cmd{listen}
		if packed {
			sending = []*exec.Cmd{exec.CommandContext(ctx, "zstd", "-1", "-q", "-c"), dial}
			receiving = append(receiving, exec.CommandContext(ctx, "zstd", "-d", "-q", "-c"))
		}
		out, err := piped(receiving)
		if err != nil {
			return err
		}
		defer out.Close()
		if err := listening(ctx, port); err != nil {
			return err
		}
		in, err := sending[0].StdinPipe()
		if err != nil {
			return err
		}
		last, err := piped(sending)
		if err != nil {
			return err
		}
		defer last.Close()
		block()
		m.start()
		written := make(chan error, 1)
		go func() { written <- errors.Join(fill(in, size), in.Close()) }() // ends with socat, or with ctx
		err = errors.Join(end(out, size), <-written)
		m.finish(0)
		if err != nil {
			cancel()
		}
		return errors.Join(err, wait(sending), wait(receiving)) // whose processors' time counts when they have ended
	}
}

// piped starts the commands, each reading what the one before writes, and gives what the
// last one writes.
func piped(commands []*exec.Cmd) (last io.ReadCloser, err error) {
	for i, c := range commands {
		c.Stderr = os.Stderr
		if i > 0 {
			c.Stdin = last
		}
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		c.Stdout = w
		err = errors.Join(c.Start(), w.Close())
		if last != nil {
			err = errors.Join(err, last.Close()) // the child has its own
		}
		if err != nil {
			return nil, errors.Join(err, r.Close())
		}
		last = r
	}
	return last, nil
}

func wait(commands []*exec.Cmd) (err error) {
	for _, c := range commands {
		if failed := c.Wait(); failed != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", c.Path, failed))
		}
	}
	return err
}

// socatCommands are the two ends, with a certificate that they forget. remove is never nil.
func socatCommands(ctx context.Context) (port int, listen, dial *exec.Cmd, remove func(), err error) {
	dir, err := os.MkdirTemp("", "bench-socat-*")
	remove = func() { os.RemoveAll(dir) }
	if err != nil {
		return 0, nil, nil, remove, err
	}
	file := filepath.Join(dir, "both.pem")
	if err := writePEM(file); err != nil {
		return 0, nil, nil, remove, err
	}
	port, err = freePort()
	if err != nil {
		return 0, nil, nil, remove, err
	}
	listen = exec.CommandContext(ctx, "socat", "-u", "-b", fmt.Sprint(blockSize),
		fmt.Sprintf("OPENSSL-LISTEN:%d,bind=127.0.0.1,reuseaddr,cert=%s,key=%s,verify=0", port, file, file), "STDOUT")
	dial = exec.CommandContext(ctx, "socat", "-u", "-b", fmt.Sprint(blockSize),
		"STDIN", fmt.Sprintf("OPENSSL:127.0.0.1:%d,verify=0", port))
	return port, listen, dial, remove, nil
}

func writePEM(file string) error {
	certificate, err := selfSigned()
	if err != nil {
		return err
	}
	key, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	if err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]})...)
	return os.WriteFile(file, text, 0o600)
}

// freePort returns a port without a listener.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

// listening waits until a process listens on the port, since the start of a tool is not
// measured. It does not connect: socat accepts only one connection.
func listening(ctx context.Context, port int) error {
	line := fmt.Appendf(nil, ":%04X 00000000:0000 0A", port)
	for ctx.Err() == nil {
		table, err := os.ReadFile("/proc/net/tcp")
		if err != nil {
			return err
		}
		if bytes.Contains(table, line) {
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	return ctx.Err()
}
