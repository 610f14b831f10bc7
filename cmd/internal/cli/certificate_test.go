package cli

import "testing"

// TestCertificateName: the zone of an address is in no certificate.
func TestCertificateName(t *testing.T) {
	for host, want := range map[string]string{
		"dest.example": "dest.example", "192.0.2.7": "192.0.2.7", "2001:db8::7": "2001:db8::7", "fe80::7%eth0": "fe80::7",
	} {
		if got := certificateName(host); got != want {
			t.Errorf("the certificate of %s has to name %s, want %s", host, got, want)
		}
	}
}
