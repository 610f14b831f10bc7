package transport

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

// TestParseName reads names as people and tools write them.
func TestParseName(t *testing.T) {
	for text, want := range map[string]string{
		"CN=laptop.example.com,O=Example Home,L=London,ST=London,C=GB": "CN=laptop.example.com,O=Example Home,L=London,ST=London,C=GB",
		"cn = laptop , o = Example Home":                               "CN=laptop,O=Example Home",
		"2.5.4.3=a":                                                    "CN=a",
		"emailAddress=a@b,1.2.3.4=x":                                   "EMAIL=a@b,1.2.3.4=x",
		`O=Acme\, Inc.,CN=a\+b`:                                        `O=Acme\, Inc.,CN=a\+b`,
		`O=Acme\2C Inc.`:                                               `O=Acme\, Inc.`,
		`CN=\ a\ ,O=\#1`:                                               `CN=\ a\ ,O=\#1`,
		"OU=b+CN=a,C=GB":                                               "CN=a+OU=b,C=GB",
		"CN=Lu\\C4\\8Di\\C4\\87":                                       "CN=Lučić",
		"CN=#0c0161":                                                   "CN=a",
		"1.2.3=#020101":                                                "1.2.3=#020101",
	} {
		if got, err := parseName(text); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"CN":           `at character 1: no "="`,
		"CN=a,":        `at character 6: no "="`,
		"CN=a,,O=b":    "at character 6",
		"CN=":          "at character 4: a value is missing",
		"nonsense=b":   `at character 1: "nonsense" is no attribute`,
		"1..2=b":       "is no attribute",
		"CN=a;O=b":     "has to be escaped",
		`CN=a\`:        "in the middle of an escape",
		`CN=a\zz`:      "two hexadecimal digits",
		`CN=\ff`:       "no UTF-8",
		"CN=#0c":       "one value of BER",
		"CN=#0x":       "hexadecimal digits",
		"CN=a,=b":      "is no attribute",
		"CN=\"a\",O=b": "has to be escaped",
	} {
		if got, err := parseName(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %q, %v, want %q", text, got, err, want)
		}
	}
}

func FuzzParseName(f *testing.F) {
	for _, text := range []string{"CN=a,O=b", `O=Acme\, Inc.`, "OU=b+CN=a", "CN=#0c0161", "1.2.3=#020101", `CN=\ a\ `, "CN=\x01"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		name, err := parseName(text)
		if err != nil {
			return
		}
		if again, err := parseName(name); err != nil || again != name {
			t.Errorf("%q became %q, and that %q, %v", text, name, again, err)
		}
	})
}

// FuzzSubjectName: parseName reads back each name that subjectName writes of a certificate.
func FuzzSubjectName(f *testing.F) {
	for _, n := range []pkix.Name{{CommonName: "a"}, {CommonName: "a, b", Organization: []string{"c+d", " #"}}, {Country: []string{"GB"}, Locality: []string{"Łódź"}}} {
		der, err := asn1.Marshal(n.ToRDNSequence())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(der)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		name := subjectName(&x509.Certificate{RawSubject: der})
		if name == "" || strings.Contains(name, "=,") || strings.Contains(name, "=+") || strings.HasSuffix(name, "=") { // empty values name no holder
			return
		}
		if again, err := parseName(name); err == nil && again != name {
			t.Errorf("%s: %q became %q", hex.EncodeToString(der), name, again)
		}
	})
}

// TestHolderName: all of the holder's name admits a client without a subjectAltName, and no
// part of it, nor another order.
func TestHolderName(t *testing.T) {
	ca := newTestCA(t)
	key := ca.newKey()
	const whole = "CN=laptop,O=Example Home,L=London,ST=London,C=GB"
	qemu := func(c *x509.Certificate) {
		c.DNSNames, c.Subject = nil, pkix.Name{}
		for _, a := range []struct {
			kind  int
			value string
		}{{6, "GB"}, {8, "London"}, {7, "London"}, {10, "Example Home"}, {3, "laptop"}} {
			c.Subject.ExtraNames = append(c.Subject.ExtraNames, pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{2, 5, 4, a.kind}, Value: a.value})
		}
	}
	client := ca.load(RoleSource, "src.example", "dst.example").as(ca.issue(key, RoleSource, "", qemu), key)
	for name, admitted := range map[string]bool{
		whole: true,
		"cn=laptop, o=Example Home, l=London, st=London, c=GB": true,
		"CN=laptop":                false,
		"CN=laptop,O=Example Home": false,
		"laptop":                   false,
		whole + ",DC=example":      false,
		strings.ToUpper(whole):     false,
		"C=GB,ST=London,L=London,O=Example Home,CN=laptop": false,
	} {
		server := ca.load(RoleDestination, "dst.example", name)
		err := server.renew().verify([]*x509.Certificate{client.files.now().cert.Leaf}, RoleSource)
		if (err == nil) != admitted {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && !strings.Contains(err.Error(), "'"+whole+"'") {
			t.Errorf("%s: the refusal does not have the name: %v", name, err)
		}
	}
	_, err := LoadCertified(ca.dir(RoleDestination, "dst.example"), RoleDestination, []string{"CN=a,b"}, nil)
	if wrong, ok := errors.AsType[*CertificateError](err); !ok || !strings.Contains(wrong.Hint, "RFC 4514") {
		t.Errorf("a name that is none: %v", err)
	}
}

// odd is a value of a name with every character that something on the way could change, and
// oddShown how it is shown.
const (
	odd      = "Acme, \"Inc\" \\ it's \u202e\tü"
	oddShown = `Acme\, \"Inc\" \\ it\27s \E2\80\AE\09ü`
)

// holder gives a certificate a holder's name in the place of other names.
func holder(common, organization string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.DNSNames, c.Subject = nil, pkix.Name{CommonName: common, Organization: []string{organization}}
	}
}

// TestShownNameCanBePasted: what a refusal and its hint show of a name, --peer-name takes.
func TestShownNameCanBePasted(t *testing.T) {
	ca := newTestCA(t)
	key := ca.newKey()
	leaf := ca.load(RoleSource, "src.example", "x").as(ca.issue(key, RoleSource, "", holder(odd, strings.Repeat("o", 500))), key).files.now().cert.Leaf
	err := ca.load(RoleDestination, "dst.example", "other").renew().verify([]*x509.Certificate{leaf}, RoleSource)
	wrong, _ := errors.AsType[*CertificateError](err)
	if wrong == nil {
		t.Fatalf("the peer is not refused: %v", err)
	}
	for _, text := range []string{err.Error(), wrong.Hint} {
		_, after, _ := strings.Cut(text, "'")
		shown, _, closed := strings.Cut(after, "'")
		if !closed || !strings.Contains(shown, "CN="+oddShown) {
			t.Errorf("the name is shown otherwise: %s", text)
		}
		if err := ca.load(RoleDestination, "dst.example", shown).renew().verify([]*x509.Certificate{leaf}, RoleSource); err != nil {
			t.Errorf("what was shown is not the name: %v", err)
		}
	}
}

// TestRefusedWithReason: over both carriers, both sides have the reason, and the client is not
// told whom the server expects.
func TestRefusedWithReason(t *testing.T) {
	ca, other := newTestCA(t), newTestCA(t)
	key := ca.newKey()
	good := ca.load(RoleSource, "src.example", "dst.example")
	for name, c := range map[string]struct {
		client *Certified
		said   string
	}{
		"another name": {good, "none of its names is expected here: src.example"},
		"another CA":   {good.as(other.issue(key, RoleSource, "src.example"), key), "it was not issued by the CA in ca-cert.pem"},
		"a long name":  {good.as(ca.issue(key, RoleSource, "", holder(odd, strings.Repeat("y", 600))), key), `CN=` + oddShown + `,O=` + strings.Repeat("y", 600) + `'`},
		"no use":       {good.as(ca.issue(key, RoleDestination, "src.example"), key), "the extended key usage clientAuth is missing"},
	} {
		for carrier, listen := range map[string]func(string, Credentials, *ListenOptions) (Listener, error){"quic": ListenQUIC, "tls": ListenTLS} {
			t.Run(name+" over "+carrier, func(t *testing.T) {
				heard := make(chan error, 4)
				l, err := listen("127.0.0.1:0", ca.load(RoleDestination, "dst.example", "secret.example"), &ListenOptions{Refused: func(err error) { heard <- err }})
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				var d Dialer = &QUICDialer{Addr: l.Addr().String(), Credentials: c.client}
				if carrier == "tls" {
					d = &TLSDialer{Addr: l.Addr().String(), Credentials: c.client}
				}
				lane, err := d.Dial(t.Context())
				if err == nil {
					lane.Write([]byte("HELLO"))
					_, err = lane.Read(make([]byte, 100))
					lane.Close()
				}
				if !errors.Is(err, ErrRefusedByPeer) || !strings.Contains(err.Error(), c.said) || strings.Contains(err.Error(), "secret") {
					t.Errorf("the client has %v, want %q", err, c.said)
				}
				if err := <-heard; !errors.Is(err, ErrAuth) {
					t.Errorf("the server has %v", err)
				}
			})
		}
	}
}
