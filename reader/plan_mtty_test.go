package reader

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/migpipe/migpipe/reader/internal/plan"
	"github.com/migpipe/migpipe/reader/internal/plan/plantest"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/sim"
)

var kernelMttys = flag.String("mtty", "", "play TestPlanOnMtty on these `devices` of the kernel, "+
	"named as vfio.Open takes them and separated by commas; their state is lost")

// TestPlanOnMtty plays the scenarios of TestPlan on mttys: it makes every move that the plan asks
// for, polls the driver for every poll, and reads a stream that ends to its end. The mttys are
// simulated, or the kernel's with -mtty.
//
// The plan still gets the figures of the text: they are those of larger states, or of stranger
// drivers.
func TestPlanOnMtty(t *testing.T) {
	files, err := plantest.Texts.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(f.Name(), ".txt"), func(t *testing.T) {
			text, err := plantest.Texts.ReadFile("testdata/" + f.Name())
			if err != nil {
				t.Fatal(err)
			}
			m := &mttys{t: t}
			got, err := plantest.Play(string(text), m.step)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(text) {
				t.Errorf("the plan does\n%s\nthe scenario says\n%s", got, text)
			}
			if !m.moved {
				t.Skip("SKIP: the plan moves no device")
			}
		})
	}
}

// mttys play the devices of a scenario.
type mttys struct {
	t     *testing.T
	fleet *fleet   // moves them as the engine does; nil before the first event
	read  []uint64 // bytes of each one's stream
	moved bool
}

// step carries out an event before the plan gets it, and then the plan's answers.
func (m *mttys) step(s *plantest.Scenario, now time.Duration, ev plan.Event) ([]plan.Action, error) {
	if m.fleet == nil {
		m.openDevices(s.Features)
	}
	if err := m.carryOut(ev); err != nil {
		return nil, err
	}
	actions := s.Plan.Step(now, ev)
	for _, a := range actions {
		if err := m.apply(a); err != nil {
			return actions, err
		}
	}
	return actions, nil
}

// openDevices opens an mtty for each device of the scenario. At the end of the scenario all return
// to RUNNING: the kernel's mttys keep their state after their last close.
func (m *mttys) openDevices(parts []vfio.Features) {
	m.read = make([]uint64, len(parts))
	sources := make([]Source, len(parts))
	for i, features := range parts {
		sources[i].Device = mttyPart{openMtty(m.t, i), features}
	}
	m.fleet = newFleet(newDevices(sources))
	m.t.Cleanup(m.resumeAll)
	for i := range parts {
		if err := m.checkState(i, vfio.Running); err != nil {
			m.t.Fatal(err)
		}
	}
}

func openMtty(t *testing.T, i int) (d vfio.Device) {
	t.Helper()
	var err error
	if *kernelMttys == "" {
		d, err = sim.Open("mtty", nil)
	} else if names := strings.Split(*kernelMttys, ","); i < len(names) {
		d, err = vfio.Open(names[i])
	} else {
		t.Fatalf("-mtty names %d devices, the scenario has more", len(names))
	}
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (m *mttys) resumeAll() {
	if _, err := m.fleet.resume(false); err != nil {
		m.t.Error(err)
	}
	m.fleet.closeStreams()
	for i := range m.fleet.devices {
		if err := errors.Join(m.checkState(i, vfio.Running), m.device(i).Close()); err != nil {
			m.t.Error(err)
		}
	}
}

// mttyPart is an mtty that plays a device with fewer features: it refuses the features that the
// device lacks.
type mttyPart struct {
	vfio.Device
	features vfio.Features
}

func (p mttyPart) Features() vfio.Features { return p.features }

func (p mttyPart) SetState(to vfio.State) (vfio.Stream, error) {
	from, err := p.State()
	if err == nil {
		err = vfio.Legal(from, to, p.features)
	}
	if err != nil {
		return nil, fmt.Errorf("%v -> %v: %w", from, to, err)
	}
	return p.Device.SetState(to)
}

func (m *mttys) device(i int) vfio.Device { return m.fleet.devices[i].Device }

// checkState checks the state of a device.
func (m *mttys) checkState(device int, want vfio.State) error {
	now, err := m.device(device).State()
	if err == nil && now != want {
		err = fmt.Errorf("device %d is in %v, want %v", device, now, want)
	}
	return err
}

func (m *mttys) carryOut(ev plan.Event) error {
	if ev, ok := ev.(plan.PrecopyPolled); ok {
		return m.poll(ev.Device, ev.Idle)
	}
	if ev, ok := ev.(plan.SizePolled); ok {
		_, err := m.device(ev.Device).StopCopySize()
		return err
	}
	if ev, ok := ev.(plan.StreamEnded); ok {
		return m.readToEnd(ev.Device)
	}
	return nil
}

func (m *mttys) apply(action plan.Action) error {
	if a, ok := action.(plan.EnterStates); ok {
		return m.enter(a.Moves)
	}
	if _, ok := action.(plan.ConfirmEstimates); ok {
		return m.confirm()
	}
	return nil
}

func (m *mttys) enter(moves []plan.Move) error {
	m.moved = true
	err := m.fleet.enter(moves)
	for _, v := range moves {
		err = errors.Join(err, m.checkState(v.Device, v.To))
	}
	return err
}

func (m *mttys) confirm() error {
	for i, s := range m.fleet.devices {
		if !s.Device.Features().PreCopy {
			continue
		}
		if err := m.poll(i, false); err != nil {
			return err
		}
	}
	return nil
}

// mttyInitial is the number of bytes that mtty has in PRE_COPY: the header of its stream.
const mttyInitial = 24

// poll polls a device. It first reads everything of a device that is idle.
func (m *mttys) poll(device int, idle bool) error {
	if idle {
		if err := m.readUntil(device, vfio.ErrDrained); err != nil {
			return err
		}
	}
	got, err := m.fleet.stream(device).Pending()
	if want := (vfio.Pending{Initial: mttyInitial - m.read[device]}); err == nil && got != want {
		err = fmt.Errorf("device %d has %+v pending after %d bytes, want %+v", device, got, m.read[device], want)
	}
	return err
}

// readToEnd reads a stream to its end, which for mtty is at MIG_DATA_SIZE.
func (m *mttys) readToEnd(device int) error {
	if err := m.readUntil(device, io.EOF); err != nil {
		return err
	}
	size, err := m.device(device).StopCopySize()
	if err == nil && m.read[device] != size {
		err = fmt.Errorf("device %d has ended after %d bytes, want %d", device, m.read[device], size)
	}
	return err
}

func (m *mttys) readUntil(device int, end error) error {
	buf := make([]byte, 4<<10)
	for {
		n, err := m.fleet.stream(device).Read(buf)
		m.read[device] += uint64(n)
		if errors.Is(err, end) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("device %d, at byte %d: %w", device, m.read[device], err)
		}
	}
}
