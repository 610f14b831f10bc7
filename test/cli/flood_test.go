package cli

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
)

// room is the memory that a program may use beside --memory, in bytes.
const room = 64 << 20

// TestFloodedReceiver: a source that sends messages without end costs mig-recv no memory.
func TestFloodedReceiver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	cmd := flooded(t, "mig-recv", "--listen", "unix:"+path)
	attempt := migration.Attempt{Mig: migration.NewID(), Epoch: 1}
	lane, err := dial(t.Context(), path, wire.LaneControl, attempt)
	if err != nil {
		t.Fatal(err)
	}
	defer lane.Close()
	control := wire.NewControl(lane)
	hello := offer(attempt, wire.Versions{Min: 1, Max: 1})
	hello.Devices[0].Flags = vfio.Features{PreCopy: true, P2P: true}.MigrationFlags()
	if err := control.Send(hello); err != nil {
		t.Fatal(err)
	}
	if err := hear(control, wire.TypeWelcome); err != nil {
		t.Fatal(err)
	}
	// A source without a data lane is turned away after 10 s, which a slow machine may need.
	data, err := dial(t.Context(), path, wire.LaneData, attempt)
	if err != nil {
		t.Fatal(err)
	}
	defer data.Close()
	heard := make(chan error, 1)
	go func() { heard <- hear(control, wire.TypeDeclined) }() // the answer to a second HELLO ends it
	flood(t, lane, &wire.Estimate{Attempt: attempt, Devices: []wire.DeviceEstimate{{Dirty: 1 << 63, Known: true}}})
	stayed(t, cmd)
	if err := control.Send(hello); err != nil {
		t.Fatal(err)
	}
	if err := <-heard; err != nil {
		t.Error(err)
	}
	if cmd.Wait(); cmd.ProcessState.ExitCode() != exitOfPeer {
		t.Errorf("%v, want exit %d", cmd.ProcessState, exitOfPeer)
	}
}

// TestFloodedSender: a destination that does so costs mig-send no memory either.
func TestFloodedSender(t *testing.T) {
	l := listenUnix(t)
	cmd := flooded(t, "mig-send", "--to", "unix:"+l.Addr().String())
	lane, err := l.Accept(t.Context())
	if err == nil {
		_, err = wire.ReadPreamble(lane)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer lane.Close()
	control := wire.NewControl(lane)
	m, err := control.Receive()
	if err != nil {
		t.Fatal(err)
	}
	hello := m.(*wire.Hello)
	heard := make(chan error, 1)
	go func() { heard <- hear(control, wire.TypeAbort) }() // the answer to a message that only a source sends ends it
	journal := migration.NewJournalID()
	if err := control.Send((&vanishing{journal: journal}).welcome(hello)); err != nil {
		t.Fatal(err)
	}
	go swallow(t.Context(), l) // mig-send's end ends it
	flood(t, lane, &wire.Ack{Attempt: hello.Attempt, Journal: journal, Devices: []wire.DeviceAck{{Applied: 1<<64 - 1, Window: wire.Window{Seq: 8, Offset: 1 << 20}}}})
	stayed(t, cmd)
	if err := control.Send(hello); err != nil {
		t.Fatal(err)
	}
	if err := <-heard; err != nil {
		t.Error(err)
	}
	if cmd.Wait(); cmd.ProcessState.ExitCode() != exitOfPeer {
		t.Errorf("%v, want exit %d", cmd.ProcessState, exitOfPeer)
	}
}

// exitOfPeer is the exit code for a peer that breaks the protocol.
const exitOfPeer = 5

// flooded starts a program with 1 MiB of memory, and with a device that has more to send
// than the other side accepts.
func flooded(t *testing.T, program string, args ...string) *exec.Cmd {
	t.Helper()
	if raceEnabled() {
		t.Skip("the race detector keeps a shadow of the memory")
	}
	cmd := command(t, program, append(args, "-q", "--memory", "1MiB", "--chunk-size", "4KiB", "--stalled-after", "10m", "--device", "d=sim:mtty")...)
	if program == "mig-send" {
		cmd.Args[len(cmd.Args)-1] = "d=sim:mlx5?size=8MiB"
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// flood sends the same message 400,000 times: retained, they would need more than room.
func flood(t *testing.T, lane transport.Lane, m wire.Message) {
	t.Helper()
	one, err := wire.AppendMessage(nil, m)
	if err != nil {
		t.Fatal(err)
	}
	thousand := bytes.Repeat(one, 1000)
	for range 400 {
		if _, err := lane.Write(thousand); err != nil {
			t.Fatal(err)
		}
	}
}

// hear reads messages up to the last one of the conversation.
func hear(control *wire.Control, last wire.MessageType) error {
	for {
		m, err := control.Receive()
		if err != nil {
			return fmt.Errorf("no %v: %w", last, err)
		}
		if m.Type() == last {
			return nil
		}
	}
}

// stayed checks the peak memory of a running program.
func stayed(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	var peak int
	if _, err := fmt.Sscanf(strings.TrimSpace(rowOf(string(status), "VmHWM:")), "%d kB", &peak); err != nil {
		t.Fatal(err)
	}
	if peak <<= 10; peak > 1<<20+room {
		t.Errorf("%s took %d MiB, may take %d", cmd.Args[0], peak>>20, (1<<20+room)>>20)
	}
}
