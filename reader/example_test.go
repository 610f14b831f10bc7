package reader_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff/witness"
	"github.com/migpipe/migpipe/transport/journal"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/file"
	"github.com/migpipe/migpipe/vfio/sim"
	"github.com/migpipe/migpipe/writer"
)

// simulated opens a simulated device, in place of vfio.Open.
func simulated(url string) vfio.Device {
	device, err := sim.OpenURL(url)
	if err != nil {
		panic(err)
	}
	return device
}

// receive serves one migration beside the example, and returns a function that waits for its end.
func receive(listener transport.Listener, opts *writer.Options) (wait func() migration.Outcome) {
	var done sync.WaitGroup
	var report migration.Report
	device := simulated("mlx5?size=1MiB")
	done.Go(func() {
		defer device.Close()
		report, _ = writer.Receive(context.Background(), listener, []writer.Target{{Name: "nic0", Device: device}}, opts)
	})
	return func() migration.Outcome {
		done.Wait()
		return report.Outcome
	}
}

// A source sends one device. The outcome, and not the error, says which side may run it.
func ExampleSend() {
	dialer, listener := transport.Pipe() // within a process; QUICDialer and TLSDialer go between hosts
	wait := receive(listener, nil)

	device := simulated("mlx5?size=1MiB")
	defer device.Close()
	report, err := reader.Send(context.Background(), dialer, []reader.Source{{Name: "nic0", Device: device}}, nil)
	fmt.Println("source:", report.Outcome, err)
	fmt.Println("destination:", wait())
	// Output:
	// source: committed <nil>
	// destination: committed
}

// An observer gets every event. It must not block.
func ExampleSend_progress() {
	dialer, listener := transport.Pipe()
	wait := receive(listener, nil)

	device := simulated("mlx5?size=1MiB")
	defer device.Close()
	var phases []string
	_, err := reader.Send(context.Background(), dialer, []reader.Source{{Name: "nic0", Device: device}}, &reader.Options{
		Observe: func(ev migration.Event) {
			switch ev.Kind {
			case migration.Phase:
				phases = append(phases, ev.Phase)
			case migration.Progress:
				_ = ev.Devices // bytes, rates and estimates of each device
			}
		},
	})
	wait()
	fmt.Println(phases[0], "...", phases[len(phases)-1], err)
	// Output: connect ... running <nil>
}

// A cancelled context ends the attempt before COMMIT. The devices run at the source again.
func ExampleSend_cancel() {
	dialer, listener := transport.Pipe()
	receiving, stop := context.WithCancel(context.Background())
	defer stop()
	target := simulated("mlx5?size=64MiB")
	defer target.Close()
	var destination sync.WaitGroup
	destination.Go(func() {
		writer.Receive(receiving, listener, []writer.Target{{Name: "nic0", Device: target}}, nil)
	})

	device := simulated("mlx5?size=64MiB")
	defer device.Close()
	ctx, cancel := context.WithCancelCause(context.Background())
	report, err := reader.Send(ctx, dialer, []reader.Source{{Name: "nic0", Device: device}}, &reader.Options{
		Observe: func(ev migration.Event) {
			if ev.Kind == migration.Phase && ev.Phase == migration.PreCopy {
				cancel(errors.New("the operator cancelled"))
			}
		},
	})
	state, _ := device.State()
	fmt.Println(report.Outcome, state, err)
	stop()
	destination.Wait()
	// Output: aborted RUNNING the operator cancelled
}

// A VMM pauses the guest, approves the switchover when its own state has arrived as well, and
// resumes the guest if the devices return to RUNNING.
func ExampleSend_vmm() {
	dialer, listener := transport.Pipe()
	wait := receive(listener, &writer.Options{
		StartGuest: func(context.Context) error { fmt.Println("destination: start the guest"); return nil },
	})

	device := simulated("mlx5?size=1MiB")
	defer device.Close()
	report, err := reader.Send(context.Background(), dialer, []reader.Source{{Name: "nic0", Device: device}}, &reader.Options{
		PauseGuest:  func(context.Context) error { fmt.Println("source: pause the guest"); return nil },
		Approve:     func(context.Context) error { fmt.Println("source: approve the switchover"); return nil },
		ResumeGuest: func(context.Context) error { fmt.Println("source: resume the guest"); return nil },
	})
	wait()
	fmt.Println(report.Outcome, err)
	// Output:
	// source: pause the guest
	// source: approve the switchover
	// destination: start the guest
	// committed <nil>
}

// A preflight asks whether a migration would be accepted. It touches no device.
func ExamplePreflight() {
	dialer, listener := transport.Pipe()
	receiving, stop := context.WithCancel(context.Background())
	defer stop()
	target := simulated("mlx5?size=1MiB")
	defer target.Close()
	var destination sync.WaitGroup
	destination.Go(func() {
		writer.Receive(receiving, listener, []writer.Target{{Name: "nic0", Device: target}}, nil)
	})

	device := simulated("mlx5?size=1MiB")
	defer device.Close()
	found, err := reader.Preflight(context.Background(), dialer, []reader.Source{{Name: "nic0", Device: device}}, nil)
	fmt.Println(found.Devices[0].Name, found.Devices[0].PreCopy, found.RTT > 0, err)
	stop()
	destination.Wait()
	// Output: nic0 true true <nil>
}

// Hooks let the network or the storage shut out the older attempt. The attempt is the fencing
// token: its epoch only rises.
func ExampleSend_hooks() {
	dialer, listener := transport.Pipe()
	var mu sync.Mutex
	announce := func(text string) func(context.Context, migration.Attempt) error {
		return func(_ context.Context, a migration.Attempt) error {
			mu.Lock()
			defer mu.Unlock()
			fmt.Println(text, a.Epoch)
			return nil
		}
	}
	wait := receive(listener, &writer.Options{OnAccept: announce("destination: fence everything before attempt")})

	device := simulated("mlx5?size=1MiB")
	defer device.Close()
	report, err := reader.Send(context.Background(), dialer, []reader.Source{{Name: "nic0", Device: device}}, &reader.Options{
		OnRevert: announce("source: the devices return, attempt"),
	})
	wait()
	fmt.Println(report.Outcome, err)
	// Output:
	// destination: fence everything before attempt 1
	// committed <nil>
}

// A witness decides in doubt which side may run the devices. Both sides must use the same one.
func ExampleSend_witness() {
	dir, err := os.MkdirTemp("", "witness")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	register, err := witness.OpenDir(dir) // a directory that both hosts have mounted
	if err != nil {
		panic(err)
	}
	dialer, listener := transport.Pipe()
	wait := receive(listener, &writer.Options{Witness: register})

	device := simulated("mlx5?size=1MiB")
	defer device.Close()
	report, err := reader.Send(context.Background(), dialer, []reader.Source{{Name: "nic0", Device: device}}, &reader.Options{Witness: register})
	wait()
	fmt.Println(report.Outcome, err)
	// Output: committed <nil>
}

// A durable journal stores this side's decisions across a crash. A later process with the same
// journal asks the destination, and never runs a copy twice.
func ExampleSend_journal() {
	dir, err := os.MkdirTemp("", "journals")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	attempt := migration.Attempt{Mig: migration.NewID(), Epoch: 1}
	store, err := journal.Open(dir, journal.Options{Role: journal.Source, Mig: attempt.Mig, Volatile: true})
	if err != nil {
		panic(err)
	}
	defer store.Close()

	dialer, listener := transport.Pipe()
	wait := receive(listener, nil)
	device := simulated("mlx5?size=1MiB")
	defer device.Close()
	_, err = reader.Send(context.Background(), dialer, []reader.Source{{Name: "nic0", Device: device}}, &reader.Options{Journal: store, Attempt: attempt})
	wait()
	fmt.Println(store.Last().Record, err)
	// Output: DONE <nil>
}

// A file takes the place of a device on either side.
func ExampleSend_file() {
	dir, err := os.MkdirTemp("", "states")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	from, to := filepath.Join(dir, "state"), filepath.Join(dir, "copy")
	if err := os.WriteFile(from, []byte("the state of a device"), 0o600); err != nil {
		panic(err)
	}
	source, err := file.NewSource(from)
	if err != nil {
		panic(err)
	}
	defer source.Close()
	target, err := file.NewDestination(to, nil)
	if err != nil {
		panic(err)
	}
	defer target.Close()

	dialer, listener := transport.Pipe()
	var destination sync.WaitGroup
	destination.Go(func() {
		writer.Receive(context.Background(), listener, []writer.Target{{Name: "disk", Device: target}}, nil)
	})
	_, err = reader.Send(context.Background(), dialer, []reader.Source{{Name: "disk", Device: source}}, nil)
	destination.Wait()
	text, _ := os.ReadFile(to)
	fmt.Println(string(text), err)
	// Output: the state of a device <nil>
}
