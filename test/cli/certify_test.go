package cli

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// authority finds the CA of a script.
type authority struct{}

type ca struct {
	cert *x509.Certificate
	key  ed25519.PrivateKey
}

// cmdCertify is "certify DIR server|client NAME": have the script's CA issue a
// certificate, as for --tls-dir.
func cmdCertify(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: certify DIR server|client NAME")
	}
	dir, role, name := ts.MkAbs(args[0]), args[1], args[2]
	usage := map[string]x509.ExtKeyUsage{"server": x509.ExtKeyUsageServerAuth, "client": x509.ExtKeyUsageClientAuth}
	ts.Check(os.MkdirAll(dir, 0o755))
	c := authorityOf(ts)
	public, key, err := ed25519.GenerateKey(rand.Reader)
	ts.Check(err)
	cert := sign(ts, &x509.Certificate{DNSNames: []string{name}, ExtKeyUsage: []x509.ExtKeyUsage{usage[role]}}, c.cert, public, c.key)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	ts.Check(err)
	writePEM(ts, filepath.Join(dir, "ca-cert.pem"), "CERTIFICATE", c.cert.Raw)
	writePEM(ts, filepath.Join(dir, role+"-cert.pem"), "CERTIFICATE", cert.Raw)
	writePEM(ts, filepath.Join(dir, role+"-key.pem"), "PRIVATE KEY", private)
}

// authorityOf makes the script's CA on first use.
func authorityOf(ts *testscript.TestScript) *ca {
	c := ts.Value(authority{}).(*ca)
	if c.cert == nil {
		public, key, err := ed25519.GenerateKey(rand.Reader)
		ts.Check(err)
		template := &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, Subject: pkix.Name{CommonName: "test CA"}}
		c.key, c.cert = key, sign(ts, template, template, public, key)
	}
	return c
}

func sign(ts *testscript.TestScript, template, parent *x509.Certificate, public ed25519.PublicKey, key ed25519.PrivateKey) *x509.Certificate {
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	ts.Check(err)
	cert, err := x509.ParseCertificate(der)
	ts.Check(err)
	return cert
}

func writePEM(ts *testscript.TestScript, path, kind string, der []byte) {
	var text strings.Builder
	ts.Check(pem.Encode(&text, &pem.Block{Type: kind, Bytes: der}))
	ts.Check(os.WriteFile(path, []byte(text.String()), 0o600))
}
