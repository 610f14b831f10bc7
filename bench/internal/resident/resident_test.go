package resident

import (
	"bytes"
	"os"
	"os/exec"
	"testing"
	"time"

	"go.uber.org/goleak"
	"gonum.org/v1/plot/vg"

	"github.com/migpipe/migpipe/bench/internal/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Samples advance in time, and include memory that was allocated meanwhile.
func TestWatch(t *testing.T) {
	const more = 64 << 20
	stop := Watch(os.Getpid(), time.Millisecond)
	taken := bytes.Repeat([]byte{1}, more)
	time.Sleep(20 * time.Millisecond)
	list := stop()
	first, last := list[0], list[len(list)-1]
	if len(list) < 3 || last.Seconds < 0.02 || last.Bytes < first.Bytes+more/2 {
		t.Errorf("%d bytes were taken, and seen were %v", len(taken), list)
	}
	p, err := Draw("Memory", "the test began", []Line{{"this", list}})
	if err != nil {
		t.Fatal(err)
	}
	if drawing, err := record.Draw(p, 5*vg.Centimeter, "svg"); err != nil || !bytes.Contains(drawing, []byte("since the test began")) {
		t.Errorf("%v: %s", err, drawing)
	}
}

// A process that has ended has no samples, before and after its parent has waited for it.
func TestEnded(t *testing.T) {
	cmd := exec.Command("sleep", "0.05")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop := Watch(cmd.Process.Pid, 10*time.Millisecond)
	time.Sleep(200 * time.Millisecond)
	list := stop()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, s := range list {
		if s.Bytes <= 0 || s.Seconds > 0.15 {
			t.Errorf("after its end it had %v", s)
		}
	}
	if list = Watch(cmd.Process.Pid, time.Second)(); len(list) > 0 {
		t.Errorf("it is gone, and had %v", list)
	}
}
