package wire

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// section returns the text of PROTOCOL.md between a heading and the next one of any level.
func section(t *testing.T, heading string) string {
	t.Helper()
	text, err := os.ReadFile("../../transport/PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "\n"+heading+"\n")
	if !ok {
		t.Fatalf("PROTOCOL.md has no heading %q", heading)
	}
	body, _, _ := strings.Cut(rest, "\n#")
	return body
}

// rows returns the first two columns of a section's tables, without headings.
func rows(t *testing.T, heading string) (out []string) {
	t.Helper()
	row := regexp.MustCompile(`(?m)^\| ([^|]+) \| ([^|]+) \|`)
	for _, m := range row.FindAllStringSubmatch(section(t, heading), -1) {
		if m[1] != "key" && m[1] != "code" && m[1] != "constant" {
			out = append(out, m[1]+" "+m[2])
		}
	}
	return out
}

func same(t *testing.T, what string, doc, code []string) {
	t.Helper()
	if !reflect.DeepEqual(doc, code) {
		t.Errorf("%s: PROTOCOL.md has\n  %s\nand the code\n  %s", what, strings.Join(doc, "\n  "), strings.Join(code, "\n  "))
	}
}

func TestProtocolMessages(t *testing.T) {
	var doc, code []string
	for _, m := range regexp.MustCompile(`(?m)^### (\d+ [A-Z_]+)$`).FindAllStringSubmatch(wholeProtocol(t), -1) {
		doc = append(doc, m[1])
	}
	structs := map[string]reflect.Type{"Attempt": reflect.TypeFor[migration.Attempt]()}
	for _, m := range allMessages() {
		heading := fmt.Sprintf("%d %v", m.Type(), m.Type())
		code = append(code, heading)
		typ := reflect.TypeOf(m).Elem()
		same(t, heading, rows(t, "### "+heading), keys(fieldsOf(typ)[2:])) // after the two of Attempt
		for _, f := range fieldsOf(typ) {
			nested(f.typ, structs)
		}
	}
	same(t, "messages", doc, code)
	for name, typ := range structs {
		same(t, name, rows(t, "#### "+name), keys(fieldsOf(typ)))
	}
}

func wholeProtocol(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../transport/PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func keys(fields []wireField) (out []string) {
	for _, f := range fields {
		out = append(out, f.key+" "+f.name)
	}
	return out
}

// nested adds the structs within a message to into.
func nested(typ reflect.Type, into map[string]reflect.Type) {
	if typ.Kind() == reflect.Slice {
		typ = typ.Elem()
	}
	if typ.Kind() != reflect.Struct {
		return
	}
	into[typ.Name()] = typ
	for _, f := range fieldsOf(typ) {
		nested(f.typ, into)
	}
}

func TestProtocolCodes(t *testing.T) {
	var code []string
	for c := transport.CodeInternal; !strings.HasPrefix(c.String(), "code-"); c++ {
		code = append(code, fmt.Sprintf("%d %v", c, c))
	}
	same(t, "codes", rows(t, "## Codes"), code)
}

func TestProtocolCodecs(t *testing.T) {
	text := section(t, "## Data frames")
	for _, c := range codec.All() {
		if row := fmt.Sprintf("\n| %d | %v |", c.ID(), c.ID()); !strings.Contains(text, row) {
			t.Errorf("PROTOCOL.md lacks the codec %v", c.ID())
		}
	}
}

func TestProtocolLimits(t *testing.T) {
	values := map[string]any{
		"MaxLanes": transport.MaxLanes, "RetryHalfOpen": transport.RetryHalfOpen, "MaxHalfOpen": transport.MaxHalfOpen, "SilentTime": transport.SilentTime, "KnownTime": transport.KnownTime, "KnownAddresses": transport.KnownAddresses,
		"ConnBurst": transport.ConnBurst, "ConnRate": transport.ConnRate,
		"HandshakeTimeout": transport.HandshakeTimeout, "LanesTimeout": LanesTimeout, "IdleTimeout": transport.IdleTimeout, "MinIdleTimeout": transport.MinIdleTimeout, "KeepAlive": transport.KeepAlive,
		"MaxChunk": MaxChunk, "MinChunk": MinChunk, "MaxControl": MaxControl, "MaxDevices": MaxDevices, "MaxName": MaxName,
		"MaxPriority": MaxPriority, "MaxStream": uint64(MaxStream),
		"PreflightTimeout": PreflightTimeout, "ProbeTime": ProbeTime, "MaxProbe": MaxProbe, "Heartbeat": Heartbeat, "SilenceLimit": SilenceLimit, "UnreadTimeout": UnreadTimeout,
		"InitialWindow": transport.InitialWindow, "MaxWindow": transport.MaxWindow, "MaxWindowGrowth": transport.MaxWindowGrowth,
	}
	var code []string
	for _, name := range limitNames(t) {
		code = append(code, fmt.Sprintf("%s %v", name, values[name]))
	}
	slices.Sort(code)
	same(t, "limits", slices.Sorted(slices.Values(rows(t, "## Limits"))), code)
}

// limitNames returns the constants of the protocol's limits, and the exported ones of the carriers'
// limits.
func limitNames(t *testing.T) (names []string) {
	t.Helper()
	for _, path := range []string{"../../transport/limits.go", "limits.go"} {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if spec, ok := n.(*ast.ValueSpec); ok && spec.Names[0].IsExported() {
				names = append(names, spec.Names[0].Name)
			}
			return true
		})
	}
	return names
}

// TestProtocolOffsets checks that the tables of PROTOCOL.md cover the frame headers.
func TestProtocolOffsets(t *testing.T) {
	for heading, want := range map[string]int{"## Lanes": preambleLen, "## Data frames": chunkHeadLen, "## Control frames": controlHeadLen} {
		end := 0
		row := regexp.MustCompile(`(?m)^\| (\d+) \| (\d+) \| `)
		for _, m := range row.FindAllStringSubmatch(section(t, heading), -1) {
			var at, n int
			fmt.Sscan(m[1], &at)
			fmt.Sscan(m[2], &n)
			if at != end {
				t.Errorf("%s: a gap at offset %d", heading, end)
			}
			end = at + n
		}
		if end != want {
			t.Errorf("%s: %d bytes, want %d", heading, end, want)
		}
	}
}
