package transport

import (
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// isDistinguished reports whether a name is a distinguished name. The name of a host has no "=".
func isDistinguished(name string) bool { return strings.Contains(name, "=") }

// attributeNames are the names of RFC 4514, section 3, and some others that tools print. This
// package writes the first name of an OID.
var attributeNames = []struct{ name, oid string }{
	{"CN", "2.5.4.3"}, {"L", "2.5.4.7"}, {"ST", "2.5.4.8"}, {"O", "2.5.4.10"}, {"OU", "2.5.4.11"}, {"C", "2.5.4.6"},
	{"STREET", "2.5.4.9"}, {"DC", "0.9.2342.19200300.100.1.25"}, {"UID", "0.9.2342.19200300.100.1.1"},
	{"EMAIL", "1.2.840.113549.1.9.1"}, {"emailAddress", "1.2.840.113549.1.9.1"},
	{"serialNumber", "2.5.4.5"}, {"SN", "2.5.4.4"}, {"GN", "2.5.4.42"}, {"title", "2.5.4.12"}, {"postalCode", "2.5.4.17"},
}

// oidOf is the OID of an attribute as a person names it.
func oidOf(name string) (string, error) {
	for _, a := range attributeNames {
		if strings.EqualFold(a.name, name) {
			return a.oid, nil
		}
	}
	digits := strings.Trim(name, "0123456789.")
	if name == "" || digits != "" || strings.HasPrefix(name, ".") || strings.HasSuffix(name, ".") || strings.Contains(name, "..") || !strings.Contains(name, ".") {
		return "", fmt.Errorf("%.40q is no attribute of a name: CN, O, OU, L, ST, C and some more are, and OIDs as 2.5.4.3", name)
	}
	return name, nil
}

func attributeName(oid string) string {
	for _, a := range attributeNames {
		if a.oid == oid {
			return a.name
		}
	}
	return oid
}

// attribute is one part of a distinguished name. A value that is no string is its BER, in
// hexadecimal behind a #.
type attribute struct {
	oid, value string
	raw        bool
}

func (a attribute) String() string {
	if a.raw {
		return attributeName(a.oid) + "=" + a.value
	}
	return attributeName(a.oid) + "=" + escapeValue(a.value)
}

// escapeValue is RFC 4514, section 2.4. What cannot be printed is escaped too, and so is a
// single quote: a person pastes the name between two of them.
func escapeValue(value string) string {
	var b strings.Builder
	for i, r := range value {
		switch {
		case strings.ContainsRune(`"+,;<>\`, r), i == 0 && (r == ' ' || r == '#'), r == ' ' && i == len(value)-1:
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\'' || !strconv.IsPrint(r):
			for _, c := range []byte(string(r)) {
				fmt.Fprintf(&b, `\%02X`, c)
			}
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// nameText writes a name as RFC 4514 does, its last part first, as gnutls and
// `openssl x509 -nameopt RFC2253` do. The same name has one text here.
func nameText(parts [][]attribute) string {
	texts := make([]string, len(parts))
	for i, part := range parts {
		all := make([]string, len(part))
		for j, a := range part {
			all[j] = a.String()
		}
		slices.Sort(all)
		texts[i] = strings.Join(all, "+")
	}
	return strings.Join(texts, ",")
}

// subjectName is the distinguished name of a certificate's holder, "" if it has none.
func subjectName(c *x509.Certificate) string {
	var sequence []asn1.RawValue
	if rest, err := asn1.Unmarshal(c.RawSubject, &sequence); err != nil || len(rest) > 0 {
		return ""
	}
	parts := make([][]attribute, len(sequence))
	for i, raw := range sequence {
		var set []struct {
			Type  asn1.ObjectIdentifier
			Value asn1.RawValue
		}
		if rest, err := asn1.UnmarshalWithParams(raw.FullBytes, &set, "set"); err != nil || len(rest) > 0 {
			return ""
		}
		for _, a := range set {
			at := len(parts) - 1 - i
			parts[at] = append(parts[at], newAttribute(a.Type.String(), a.Value))
		}
	}
	return nameText(parts)
}

func newAttribute(oid string, v asn1.RawValue) attribute {
	text, ok := "", v.Class == asn1.ClassUniversal
	switch v.Tag {
	case asn1.TagUTF8String, asn1.TagPrintableString, asn1.TagIA5String, asn1.TagNumericString:
		text, ok = string(v.Bytes), ok && utf8.Valid(v.Bytes)
	case asn1.TagT61String: // in practice Latin-1
		runes := make([]rune, len(v.Bytes))
		for i, b := range v.Bytes {
			runes[i] = rune(b)
		}
		text = string(runes)
	case asn1.TagBMPString:
		units := make([]uint16, len(v.Bytes)/2)
		for i := range units {
			units[i] = uint16(v.Bytes[2*i])<<8 | uint16(v.Bytes[2*i+1])
		}
		text, ok = string(utf16.Decode(units)), ok && len(v.Bytes)%2 == 0
	default:
		ok = false
	}
	if !ok {
		return attribute{oid, "#" + hex.EncodeToString(v.FullBytes), true}
	}
	return attribute{oid, text, false}
}

var errNameEnds = errors.New("it ends in the middle of an escape")

// parseName reads a distinguished name as RFC 4514 writes it, and gives the one text that
// nameText has for it. Spaces around "=", "," and "+" do not count, as they do not there.
func parseName(text string) (string, error) {
	var parts [][]attribute
	var part []attribute
	for at := 0; ; {
		kind, value, found := strings.Cut(text[at:], "=")
		if !found {
			return "", fmt.Errorf("at character %d: no \"=\" behind %.40q", at+1, kind)
		}
		oid, err := oidOf(strings.TrimSpace(kind))
		if err != nil {
			return "", fmt.Errorf("at character %d: %w", at+1, err)
		}
		at += len(kind) + 1
		a, length, err := parseValue(oid, value)
		if err != nil {
			return "", fmt.Errorf("at character %d: %w", at+1, err)
		}
		part = append(part, a)
		if at += length; at < len(text) && text[at] == '+' {
			at++
			continue
		}
		parts, part = append(parts, part), nil
		if at == len(text) {
			return nameText(parts), nil
		}
		at++ // the comma
	}
}

// parseValue reads a value up to a comma, a plus sign or the end, and returns its length, too.
func parseValue(oid, text string) (a attribute, length int, err error) {
	text, spaces := strings.TrimLeft(text, " "), len(text)-len(strings.TrimLeft(text, " "))
	var b strings.Builder
	kept, i := 0, 0 // how much of b is no unescaped space at its end
	for ; i < len(text) && text[i] != ',' && text[i] != '+'; i++ {
		c := text[i]
		switch {
		case strings.IndexByte(`"<>;`, c) >= 0 || c == 0:
			return a, 0, fmt.Errorf("%q has to be escaped with a \\", c)
		case c != '\\':
			b.WriteByte(c)
			if c == ' ' {
				continue
			}
		default:
			n, plain, err := unescape(text[i+1:])
			if err != nil {
				return a, 0, err
			}
			b.WriteByte(plain)
			i += n
		}
		kept = b.Len()
	}
	value := b.String()[:kept]
	switch {
	case !utf8.ValidString(value):
		return a, 0, fmt.Errorf("%.40q is no UTF-8", value)
	case strings.HasPrefix(text, "#"):
		ber, err := hex.DecodeString(value[1:])
		if err != nil {
			return a, 0, fmt.Errorf("behind a # come hexadecimal digits: %w", err)
		}
		var v asn1.RawValue
		if rest, err := asn1.Unmarshal(ber, &v); err != nil || len(rest) > 0 {
			return a, 0, errors.New("behind a # comes one value of BER")
		}
		return newAttribute(oid, v), spaces + i, nil
	case value == "":
		return a, 0, errors.New("a value is missing")
	}
	return attribute{oid, value, false}, spaces + i, nil
}

// unescape reads the characters after a backslash: two hexadecimal digits, or an escaped
// character.
func unescape(text string) (length int, plain byte, err error) {
	if text == "" {
		return 0, 0, errNameEnds
	}
	if strings.IndexByte(` "#+,;<=>\`, text[0]) >= 0 {
		return 1, text[0], nil
	}
	if len(text) < 2 {
		return 0, 0, errNameEnds
	}
	b, err := hex.DecodeString(text[:2])
	if err != nil {
		return 0, 0, fmt.Errorf("%q stands behind a \\, where two hexadecimal digits do, or one of \"#+,;<=>\\ and a space", text[:2])
	}
	return 2, b[0], nil
}
