package writer_test

import (
	"context"
	"fmt"
	"sync"

	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio/sim"
	"github.com/migpipe/migpipe/writer"
)

// A destination serves one migration, and starts the guest when it owns the devices.
func ExampleReceive() {
	dialer, listener := transport.Pipe() // within a process; ListenQUIC and ListenTLS serve hosts
	var source sync.WaitGroup
	source.Go(func() {
		device, err := sim.OpenURL("hisi_acc")
		if err != nil {
			panic(err)
		}
		defer device.Close()
		reader.Send(context.Background(), dialer, []reader.Source{{Name: "acc0", Device: device}}, nil)
	})

	device, err := sim.OpenURL("hisi_acc") // in place of vfio.Open
	if err != nil {
		panic(err)
	}
	defer device.Close()
	report, err := writer.Receive(context.Background(), listener, []writer.Target{{Name: "acc0", Device: device}}, &writer.Options{
		MaxState: 1 << 30, // bytes of one device; an estimate never bounds a stream
		Observe: func(ev migration.Event) {
			if ev.Kind == migration.Warning {
				fmt.Println("warning:", ev.Text)
			}
		},
		StartGuest: func(context.Context) error { fmt.Println("start the guest"); return nil },
	})
	source.Wait()
	state, _ := device.State()
	fmt.Println(report.Outcome, state, err)
	// Output:
	// start the guest
	// committed RUNNING <nil>
}
