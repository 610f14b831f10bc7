package cli

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// authority is the key of a script's CA.
type authority struct{}

type ca struct {
	cert *x509.Certificate
	key  ed25519.PrivateKey
}

// cmdCertify is "certify DIR server|client NAME": the script's CA issues a certificate, as
// for --tls-dir. NAME is a host, or the holder's whole name.
func cmdCertify(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: certify DIR server|client NAME")
	}
	ts.Check(ts.Value(authority{}).(*ca).issue(ts.MkAbs(args[0]), args[1], args[2], time.Hour))
}

// issue makes a directory for --tls-dir, or replaces its files.
func (c *ca) issue(dir, role, name string, valid time.Duration) error {
	if err := errors.Join(os.MkdirAll(dir, 0o755), c.begin()); err != nil {
		return err
	}
	usage := map[string]x509.ExtKeyUsage{"server": x509.ExtKeyUsageServerAuth, "client": x509.ExtKeyUsageClientAuth}
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{DNSNames: []string{name}, ExtKeyUsage: []x509.ExtKeyUsage{usage[role]}}
	if strings.Contains(name, "=") {
		template.DNSNames, template.Subject = nil, holder(name)
	}
	cert, err := sign(template, c.cert, public, c.key, valid)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	return errors.Join(err,
		writePEM(filepath.Join(dir, "ca-cert.pem"), "CERTIFICATE", c.cert.Raw),
		writePEM(filepath.Join(dir, role+"-cert.pem"), "CERTIFICATE", cert.Raw),
		writePEM(filepath.Join(dir, role+"-key.pem"), "PRIVATE KEY", private))
}

// holder is a distinguished name. Its last part comes first in the certificate, as GnuTLS
// writes it.
func holder(text string) (name pkix.Name) {
	types := map[string]int{"CN": 3, "C": 6, "L": 7, "ST": 8, "O": 10}
	for part := range strings.SplitSeq(text, ",") {
		kind, value, _ := strings.Cut(part, "=")
		a := pkix.AttributeTypeAndValue{Type: []int{2, 5, 4, types[kind]}, Value: value}
		name.ExtraNames = append([]pkix.AttributeTypeAndValue{a}, name.ExtraNames...)
	}
	return name
}

// begin makes the CA on first use.
func (c *ca) begin() error {
	if c.cert != nil {
		return nil
	}
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, Subject: pkix.Name{CommonName: "test CA"}}
	c.key = key
	c.cert, err = sign(template, template, public, key, time.Hour)
	return err
}

func sign(template, parent *x509.Certificate, public ed25519.PublicKey, key ed25519.PrivateKey, valid time.Duration) (*x509.Certificate, error) {
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(valid)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// writePEM replaces a file by rename, as tools that renew certificates do.
func writePEM(path, kind string, der []byte) error {
	next := path + ".next"
	err := os.WriteFile(next, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
	return errors.Join(err, os.Rename(next, path))
}
