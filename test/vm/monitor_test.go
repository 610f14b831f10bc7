package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// monitor is a conversation with a guest's QEMU, in QMP.
type monitor struct {
	net.Conn
	replies *json.Decoder
}

func newMonitor(c net.Conn) *monitor { return &monitor{c, json.NewDecoder(c)} }

// openMonitor connects to the QEMU of a guest.
func (m *machine) openMonitor(t *testing.T) *monitor {
	t.Helper()
	c, err := net.Dial("unix", m.monitor)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	q := newMonitor(c)
	if err := q.do("qmp_capabilities", struct{}{}); err != nil {
		t.Fatal(err)
	}
	return q
}

// do has QEMU execute a command, and waits for its end.
func (q *monitor) do(command string, arguments any) error {
	q.SetDeadline(time.Now().Add(callTime))
	if err := json.NewEncoder(q).Encode(map[string]any{"execute": command, "arguments": arguments}); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	for {
		var reply struct { // or it is the greeting or an event, with none of these
			Return json.RawMessage
			Error  struct{ Desc string }
		}
		if err := q.replies.Decode(&reply); err != nil {
			return fmt.Errorf("%s: %w", command, err)
		}
		if reply.Error.Desc != "" {
			return fmt.Errorf("%s: %s", command, reply.Error.Desc)
		}
		if reply.Return != nil {
			return nil
		}
	}
}

// saveMemory has QEMU write the guest's memory from an address on into a file. After an error
// the file does not exist.
func (q *monitor) saveMemory(from, size int64, to string) error {
	part := to + ".part"
	defer os.Remove(part) // there only after an error
	if err := q.do("pmemsave", map[string]any{"val": from, "size": size, "filename": part}); err != nil {
		return err
	}
	if info, err := os.Stat(part); err != nil || info.Size() != size {
		return errors.Join(err, fmt.Errorf("pmemsave did not write %d bytes", size))
	}
	return os.Rename(part, to)
}

// A dump gets its name only when it is whole; after an error there is no file.
func TestSaveMemory(t *testing.T) {
	const greeting, event = `{"QMP":{"capabilities":[]}}`, `{"event":"STOP","timestamp":{}}`
	for name, c := range map[string]struct {
		written int
		reply   string
		saved   bool
	}{
		"whole":    {4096, greeting + event + `{"return":{}}`, true},
		"short":    {4095, `{"return":{}}`, false},
		"refused":  {100, `{"error":{"class":"GenericError","desc":"no space"}}`, false},
		"vanished": {100, greeting, false},
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := net.Pipe()
			go func() { // ends with its answer
				defer theirs.Close()
				var request struct{ Arguments struct{ Filename string } }
				err := json.NewDecoder(theirs).Decode(&request)
				err = errors.Join(err, os.WriteFile(request.Arguments.Filename, make([]byte, c.written), 0o600))
				if _, failed := theirs.Write([]byte(c.reply)); err != nil || failed != nil {
					t.Error(err, failed)
				}
			}()
			dir := t.TempDir()
			err := newMonitor(ours).saveMemory(0, 4096, filepath.Join(dir, "memory"))
			names, _ := filepath.Glob(filepath.Join(dir, "*"))
			if saved := len(names) == 1 && filepath.Base(names[0]) == "memory"; (err == nil) != c.saved || saved != c.saved || !saved && len(names) > 0 {
				t.Errorf("%v, and %q is there", err, names)
			}
			ours.Close()
		})
	}
}
