package transport

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Certified is a certificate of a CA, and the names of the peers that this side admits. Their
// certificates are of the same CA. An empty list admits no peer. Certified reads its files again
// when they have changed: each connection uses their present content.
type Certified struct {
	names []string
	files *reread[*certified]
}

// certified is what the files of a Certified say at one time.
type certified struct {
	role  Role
	cert  tls.Certificate
	ca    authority
	names []string
}

// The files of a directory with certificates have the names that QEMU and libvirt use for
// migrations. A source is a client.
const (
	caFile  = "ca-cert.pem"
	crlFile = "ca-crl.pem" // need not be there
)

// file is the name of a role's certificate or key.
func (r Role) file(what string) string {
	if r == RoleSource {
		return "client-" + what + ".pem"
	}
	return "server-" + what + ".pem"
}

// usageName is what tools call the extended key usage of a role.
func (r Role) usageName() string {
	if r == RoleSource {
		return "clientAuth"
	}
	return "serverAuth"
}

// CertificateError is the fault of a certificate, or of a file that belongs to it, with the next
// step. It wraps [ErrAuth] and the cause.
type CertificateError struct {
	Of   string // the file, or the peer as its certificate calls it
	Err  error
	Hint string // the next step
}

// Error names the certificate and the fault.
func (e *CertificateError) Error() string {
	return fmt.Sprintf("transport: %v: %s: %v", ErrAuth, e.Of, e.Err)
}

// Unwrap gives [ErrAuth] and the cause.
func (e *CertificateError) Unwrap() []error { return []error{ErrAuth, e.Err} }

// LoadCertified reads what a role needs from a directory: ca-cert.pem,
// ca-crl.pem if it is there, and either client-cert.pem and client-key.pem or
// server-cert.pem and server-key.pem. Peers must have one of the names as a
// subjectAltName: that of the destination's host at a source, those of the
// sources that may send at a destination.
//
// What the peer would find wrong with the certificate is found here first. Every
// error is a [CertificateError], and holds no part of the key.
//
// A name with a "=" is a distinguished name as RFC 4514 writes it, "CN=host,O=org": all of the
// holder's name in the certificate, and not a part of it. A common name alone never counts.
func LoadCertified(dir string, role Role, names []string, o *FileOptions) (*Certified, error) {
	names = slices.Clone(names)
	for i, name := range names {
		if !isDistinguished(name) {
			continue
		}
		var err error
		if names[i], err = parseName(name); err != nil {
			return nil, &CertificateError{"the name " + shownName(name), err, "write it as RFC 4514 does, as 'CN=host,O=org': the refusal of a certificate prints its name so"}
		}
	}
	parse := func(open open) (*certified, error) { return readCertified(open, dir, role, names) }
	files, err := newReread(o, parse, certifiedFiles(dir, role)...)
	if err != nil {
		return nil, err
	}
	return &Certified{names, files}, nil
}

// certifiedFiles are the paths of what a role needs.
func certifiedFiles(dir string, role Role) (paths []string) {
	for _, name := range []string{caFile, crlFile, role.file("cert"), role.file("key")} {
		paths = append(paths, filepath.Join(dir, name))
	}
	return paths
}

// Files are the paths that are read again.
func (c *Certified) Files() []string { return slices.Clone(c.files.paths) }

func readCertified(open open, dir string, role Role, names []string) (*certified, error) {
	c := &certified{role: role, names: names}
	if err := c.ca.load(open, dir); err != nil {
		return nil, err
	}
	if err := c.loadOwn(open, filepath.Join(dir, role.file("cert")), filepath.Join(dir, role.file("key"))); err != nil {
		return nil, err
	}
	return c, nil
}

// ID is that of the certificate's key.
func (c *Certified) ID() PeerID { return c.files.now().id() }

// Names are what the certificate calls this side, DNS names first.
func (c *Certified) Names() []string { return namesOf(c.files.now().cert.Leaf) }

// String hides the key from every print of a Certified.
func (c *Certified) String() string { return c.ID().String() }

// GoString is String, for %#v.
func (c *Certified) GoString() string { return c.String() }

func (c *Certified) renew() credentials { return c.files.now() }

// peer is every name that is expected here and that the certificate has: with a new key,
// or with one name more, the peer is the same.
func (c *Certified) peer(leaf *x509.Certificate) (ids []PeerID) {
	for _, name := range namedIn(leaf, c.names) {
		ids = append(ids, nameID(name))
	}
	return ids
}

// namedIn are those of the names that a certificate has.
func namedIn(leaf *x509.Certificate, names []string) []string {
	whole := subjectName(leaf)
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		if isDistinguished(name) {
			return name != whole
		}
		return leaf.VerifyHostname(name) != nil
	})
}

func (c *certified) id() PeerID { return certificateID(c.cert.Leaf) }

func (c *certified) certificate(role Role) (tls.Certificate, error) {
	if role != c.role {
		return tls.Certificate{}, fmt.Errorf("transport: the certificate was loaded as that of a %v, not of a %v", c.role, role)
	}
	return c.cert, nil
}

func (c *certified) verify(shown []*x509.Certificate, role Role) error {
	leaf := shown[0]
	err := c.ca.check(shown, role)
	if err == nil && len(namedIn(leaf, c.names)) == 0 {
		err = &problem{
			error: fmt.Errorf("its names are not what is expected here, %s", shownNames(c.names)),
			hint:  nameHint(leaf),
			told:  fmt.Sprintf("none of its names is expected here: %s", shownNames(namesOf(leaf))),
		}
	}
	if err != nil {
		who := fmt.Sprintf("the certificate of peer %v, %s", certificateID(leaf), shownNames(namesOf(leaf)))
		return certificateError(who, err)
	}
	return nil
}

func nameHint(leaf *x509.Certificate) string {
	names := namesOf(leaf)
	if len(names) == 0 {
		return "have the CA issue one with a subjectAltName, or with a name of its holder"
	}
	return "if that is the host you mean, say --peer-name " + shownName(names[0])
}

// Bounds for the names of a peer in texts: a name that is cut cannot be pasted.
const (
	maxShownName  = 1000 // bytes
	maxShownNames = 8
)

// shownName is a name as a person gives it to a command: a distinguished name has commas and
// spaces of its own.
func shownName(name string) string {
	text := printable(name, maxShownName)
	if isDistinguished(name) {
		return "'" + text + "'"
	}
	return text
}

// shownNames lists names, which a peer may have chosen.
func shownNames(names []string) string {
	if len(names) == 0 {
		return "no name"
	}
	var list []string
	for _, name := range names[:min(len(names), maxShownNames)] {
		list = append(list, shownName(name))
	}
	if more := len(names) - len(list); more > 0 {
		list = append(list, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(list, ", ")
}

// namesOf are the names that count: a common name alone does not (RFC 9525, section 2), but
// all of the holder's name does.
func namesOf(c *x509.Certificate) []string {
	names := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	if whole := subjectName(c); whole != "" {
		names = append(names, whole)
	}
	return names
}

// loadOwn reads this side's certificate and key and judges them as the peer
// will, its name aside.
func (c *certified) loadOwn(open open, certPath, keyPath string) error {
	shown, err := readCertificates(open, certPath)
	if err != nil {
		return err
	}
	if err := c.ca.check(shown, c.role); err != nil {
		return certificateError(certPath, err)
	}
	key, err := readPrivate(open, keyPath)
	if err != nil {
		return fileError(keyPath, err, "it has to be there, readable by its owner only: chmod 600; or by a group of this process too, if root owns it: chmod 640")
	}
	var text bytes.Buffer
	for _, cert := range shown {
		pem.Encode(&text, &pem.Block{Type: certificateBlock, Bytes: cert.Raw})
	}
	c.cert, err = tls.X509KeyPair(text.Bytes(), key)
	if err != nil {
		return &CertificateError{keyPath, plainTLS(err), "put the key there, in PEM and without a passphrase, that " + filepath.Base(certPath) + " was made for"}
	}
	return nil
}

// plainTLS leaves out the name of the package.
func plainTLS(err error) error { return errors.New(strings.TrimPrefix(err.Error(), "tls: ")) }

// authority is a CA, or several, and what they have revoked.
type authority struct {
	certs   []*x509.Certificate
	roots   *x509.CertPool
	revoked []*x509.RevocationList
}

func (a *authority) load(open open, dir string) (err error) {
	path := filepath.Join(dir, caFile)
	if a.certs, err = readCertificates(open, path); err != nil {
		return err
	}
	a.roots = x509.NewCertPool()
	for _, c := range a.certs {
		if !c.IsCA {
			return &CertificateError{path, fmt.Errorf("%s is no CA", PeerText(c.Subject.String())), "put the certificate of the CA there, with basicConstraints CA:TRUE, and nothing else"}
		}
		if err := inTime(c.NotBefore, c.NotAfter); err != nil {
			return certificateError(path, err)
		}
		a.roots.AddCert(c)
	}
	return a.loadRevoked(open, filepath.Join(dir, crlFile))
}

func (a *authority) loadRevoked(open open, path string) error {
	const again = "have the CA issue a new list, in PEM, or remove the file"
	text, err := readPublic(open, path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fileError(path, err, again)
	}
	for _, der := range blocks(text, "X509 CRL") {
		list, err := x509.ParseRevocationList(der)
		if err == nil {
			err = a.trust(list)
		}
		if err != nil {
			return &CertificateError{path, err, again}
		}
		a.revoked = append(a.revoked, list)
	}
	if len(a.revoked) == 0 {
		return &CertificateError{path, errors.New("it has no PEM block \"X509 CRL\""), again}
	}
	return nil
}

// trust returns why a revocation list cannot be used. Critical extensions change the meaning of a
// list (RFC 5280, section 5.2).
func (a *authority) trust(list *x509.RevocationList) error {
	if !slices.ContainsFunc(a.certs, func(c *x509.Certificate) bool { return list.CheckSignatureFrom(c) == nil }) {
		return errors.New("the list is not signed by the CA in " + caFile)
	}
	extensions := slices.Clone(list.Extensions)
	for _, entry := range list.RevokedCertificateEntries {
		extensions = append(extensions, entry.Extensions...)
	}
	for _, e := range extensions {
		if e.Critical {
			return fmt.Errorf("the list has the critical extension %v, which is not understood", e.Id)
		}
	}
	return inTime(list.ThisUpdate, list.NextUpdate)
}

// problem is why a certificate is not accepted, and the next step.
type problem struct {
	error
	hint string
	told string // the text for the peer in place of the error; "" for the error itself
}

func certificateError(of string, err error) error {
	e := &CertificateError{of, err, "see what openssl verify -CAfile " + caFile + " says of it"}
	if p, ok := errors.AsType[*problem](err); ok {
		e.Err, e.Hint = p, p.hint
	}
	return e
}

func fileError(path string, err error, hint string) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		err = e.Err // the path is named already
	}
	return &CertificateError{path, err, hint}
}

// check returns why certificates, the leaf first, are not from the CA, not valid now, or not for a
// role. A certificate must name the role: without an extended key usage it would be good for both.
func (a *authority) check(shown []*x509.Certificate, role Role) error {
	leaf := shown[0]
	if err := inTime(leaf.NotBefore, leaf.NotAfter); err != nil {
		return err
	}
	between := x509.NewCertPool()
	for _, c := range shown[1:] {
		between.AddCert(c)
	}
	chains, err := leaf.Verify(x509.VerifyOptions{Roots: a.roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{role.usage()}})
	invalid, _ := errors.AsType[x509.CertificateInvalidError](err)
	_, unknown := errors.AsType[x509.UnknownAuthorityError](err)
	switch {
	case unknown:
		return &problem{error: errors.New("it was not issued by the CA in " + caFile), hint: "both hosts need the same " + caFile + ", and certificates that its CA has issued"}
	case err != nil && invalid.Reason != x509.IncompatibleUsage:
		return errors.New(PeerText(err.Error()))
	case err != nil || !slices.Contains(leaf.ExtKeyUsage, role.usage()):
		return &problem{
			error: fmt.Errorf("it is not for a %v: the extended key usage %s is missing", role, role.usageName()),
			hint:  "have the CA issue one with the extended key usage " + role.usageName(),
		}
	case !slices.ContainsFunc(chains, a.unrevoked):
		return &problem{error: errors.New("the CA has revoked it"), hint: "have the CA issue a new one"}
	}
	return a.current()
}

// current returns an error if a list has gone out of date since it was loaded.
func (a *authority) current() error {
	for _, list := range a.revoked {
		if err := inTime(list.ThisUpdate, list.NextUpdate); err != nil {
			return &problem{error: fmt.Errorf("%s, which says what was revoked, is out of date: %w", crlFile, err), hint: "copy a new list from the CA", told: "this side cannot tell what was revoked"}
		}
	}
	return nil
}

// unrevoked returns an error if the issuer has revoked a certificate of the chain.
func (a *authority) unrevoked(chain []*x509.Certificate) bool {
	for i, c := range chain[:len(chain)-1] {
		for _, list := range a.revoked {
			listed := slices.ContainsFunc(list.RevokedCertificateEntries, func(e x509.RevocationListEntry) bool {
				return e.SerialNumber.Cmp(c.SerialNumber) == 0
			})
			if listed && bytes.Equal(list.RawIssuer, chain[i+1].RawSubject) {
				return false
			}
		}
	}
	return true
}

// inTime returns an error outside of a validity period. A revocation list may have no end.
func inTime(from, to time.Time) error {
	now := time.Now()
	if now.Before(from) || !to.IsZero() && now.After(to) {
		return &problem{
			error: fmt.Errorf("it is valid from %s to %s, and now is %s", utc(from), utc(to), utc(now)),
			hint:  "have the CA issue a new one, or set this host's clock if that is wrong",
		}
	}
	return nil
}

func utc(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 MST") }

const certificateBlock = "CERTIFICATE"

// readCertificates reads one certificate or more.
func readCertificates(open open, path string) (certs []*x509.Certificate, err error) {
	text, err := readPublic(open, path)
	if err != nil {
		return nil, fileError(path, err, "the directory needs "+caFile+", and either "+RoleSource.file("cert")+" and "+RoleSource.file("key")+
			" or "+RoleDestination.file("cert")+" and "+RoleDestination.file("key"))
	}
	for _, der := range blocks(text, certificateBlock) {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, &CertificateError{path, err, "see what openssl x509 -in " + path + " says of it"}
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, &CertificateError{path, errors.New("it has no PEM block \"CERTIFICATE\""), "put the certificate there in PEM"}
	}
	return certs, nil
}

// blocks are the contents of a PEM file that are of a type.
func blocks(text []byte, kind string) (ders [][]byte) {
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			return ders
		}
		if block.Type == kind {
			ders = append(ders, block.Bytes)
		}
		text = rest
	}
}

// toldRefused is the text for a peer whose certificate is refused: the reason, without the names
// that this side expects.
func toldRefused(err error) string {
	if p, ok := errors.AsType[*problem](err); ok {
		return cmp.Or(p.told, p.Error())
	}
	if e, ok := errors.AsType[*CertificateError](err); ok {
		return e.Err.Error()
	}
	if e, ok := errors.AsType[*WrongPeerError](err); ok {
		if slices.Contains(e.Want, e.Got) {
			return fmt.Sprintf("its certificate is not that of a %v", e.Role)
		}
		return fmt.Sprintf("%v is not expected here", e.Got)
	}
	return "no certificate"
}
