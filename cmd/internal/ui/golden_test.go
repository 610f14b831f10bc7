package ui

import (
	"errors"
	"time"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

var peerID = transport.PeerID{1, 2, 3}

// committed is how a migration of two devices may end at the destination.
func committed() Result {
	return Result{
		Scene:   Scene{Self: transport.PeerID{9}, Address: "127.0.0.1:7000"},
		Started: true,
		Report: migration.Report{
			Outcome: migration.Committed, Attempt: migration.Attempt{Epoch: 1}, Peer: peerID, Lanes: 2,
			Carrier: transport.Carrier{Name: "quic", GRO: true, ReceiveBuffer: 8 << 20, SendBuffer: 8 << 20},
			Total:   3210 * time.Millisecond, Downtime: 84160 * time.Microsecond,
			Stages:        []migration.Stage{{Name: "stop", Took: 1300 * time.Microsecond}, {Name: "save", Took: 82860 * time.Microsecond}},
			Occupancy:     migration.Occupancy{Queue: 0.12, Ahead: 0.004, Bottleneck: migration.BoundArrival},
			StopOccupancy: migration.Occupancy{Queue: 0.7512, Ahead: 0.031, Bottleneck: migration.BoundLoad},
			Devices: []migration.Device{
				{
					Name: "nic0", Bytes: 300 << 20, WireBytes: 150 << 20, PrecopyBytes: 290 << 20, Chunks: 300, Rounds: 4,
					Digest: migration.StreamDigest{0xab, 0xcd, 0xef}, Path: "read", PathWhy: "splice: EINVAL", State: "STOP",
				},
				{Name: "acc0", Bytes: 176, Chunks: 2, Digest: migration.StreamDigest{1}, Path: "read", State: "STOP"},
			},
			Warnings: []string{"no estimate from acc0"},
		},
		Verified: map[string]bool{"nic0": true},
	}
}

// foretold is how that migration may end at the source.
func foretold() Result {
	v := committed()
	known := func(d time.Duration) migration.Span { return migration.Span{Took: d, Known: true} }
	v.Sending, v.Verified, v.Report.Warnings = true, nil, nil
	v.Report.Devices[0].Save, v.Report.Devices[0].Load = 20*time.Millisecond, 30*time.Millisecond
	v.Report.Occupancy = migration.Occupancy{Queue: 0.05, Flight: 0.2, Bottleneck: migration.Balanced}
	v.Report.StopOccupancy = migration.Occupancy{Queue: 0.8277, Credit: 0.051, Flight: 0.0625, Bottleneck: migration.BoundNetwork}
	none := known(0)
	p := migration.Prediction{Stop: known(time.Millisecond), Fill: none, Save: known(79 * time.Millisecond), Wire: none, Load: none, Commit: none, Start: none, Downtime: known(80 * time.Millisecond)}
	v.Report.Predicted = &migration.Forecast{Prediction: p, Devices: []migration.DeviceForecast{
		{Bytes: 10 << 20, Prediction: p},
		{Prediction: migration.Prediction{Stop: known(time.Millisecond), Downtime: known(time.Millisecond)}},
	}}
	return v
}

// failed is a run that ended before the engine began.
func failed(err error) Result {
	return Result{Report: migration.Report{Outcome: migration.Aborted}, Err: err}
}

// interrupted is a migration that the peer broke off.
func interrupted() Result {
	v := committed()
	v.Sending, v.Verified, v.Report.Warnings = true, nil, nil
	v.Report.Outcome, v.Report.Stages, v.Report.Downtime = migration.Aborted, nil, 0
	v.Err = &transport.Fault{Code: transport.CodeDevice, Remote: true, Device: "nic0", Offset: 4096, Err: errors.New("write: input/output error")}
	return v
}

func inDoubt() Result {
	v := interrupted()
	v.Report.Outcome = migration.InDoubt
	v.Err = &transport.Fault{Code: transport.CodeNetwork, Err: transport.ErrPeerGone}
	return v
}

// unheard is a destination that could not listen.
func unheard() Result {
	v := failed(&transport.Fault{Code: transport.CodeNetwork, Err: errors.New("cannot assign requested address")})
	v.Started = true
	return v
}

func needsReset() Result {
	v := interrupted()
	v.Sending = false
	v.Report.Outcome = migration.NeedsReset
	v.Report.Warnings = []string{"reset: one error\nand another"}
	v.Err = &transport.Fault{Code: transport.CodeCancelled, Err: errors.New("cancelled: interrupt")}
	return v
}

// stuck is a source whose way back failed after the last END.
func stuck() Result {
	v := interrupted()
	v.Report.Outcome, v.Report.Attempt.Mig = migration.NeedsReset, migration.ID{0xab}
	v.Report.CopyThere = &migration.CopyThere{Ready: true, Rescue: true}
	v.There, v.Again = &CopyThere{*v.Report.CopyThere, v.Report.Attempt.Mig}, v.Report.Attempt.Mig.String()
	v.Report.Warnings = []string{"resume the devices: STOP_COPY -> STOP: input/output error"}
	return v
}

// silent is a source whose devices run, and whose guest may not.
func silent() Result {
	v := stuck()
	v.Report.Outcome, v.Report.GuestUnheard, v.Report.CopyThere.Rescue, v.There.Rescue = migration.Aborted, true, false, false
	return v
}

// preflighted is a --dry-run of two devices that went well.
func preflighted() Result {
	all, known := migration.Span{Took: 2610 * time.Millisecond}, func(d time.Duration) migration.Span { return migration.Span{Took: d, Known: true} }
	p := migration.Prediction{
		Precopy: migration.Span{Took: 2500 * time.Millisecond}, Fill: migration.Span{Took: 9 * time.Millisecond},
		Wire: known(100 * time.Millisecond), Commit: known(350 * time.Microsecond), Downtime: migration.Span{Took: 110 * time.Millisecond}, Total: all,
	}
	return Result{
		Scene: Scene{Sending: true}, Started: true, Report: migration.Report{Outcome: migration.Aborted, Peer: peerID},
		Preflight: &migration.Preflight{
			Peer: peerID, Software: "mig-recv 1.0", Version: 1, ChunkSize: 1 << 20, Lanes: 2, Codecs: []codec.ID{codec.IDRaw, codec.IDZstd},
			RTT: 350 * time.Microsecond, Rate: 120 << 20, Probed: 100 << 20, Prediction: p,
			Devices: []migration.PreflightDevice{
				{Name: "nic0", Driver: "mlx5_vfio_pci", PreCopy: true, Size: 300 << 20, Sized: true, Prediction: migration.Prediction{Total: all}},
				{Name: "acc0", Prediction: migration.Prediction{Downtime: known(time.Second), Total: known(time.Second)}},
			},
		},
	}
}

func refusedPreflight() Result {
	v := preflighted()
	v.Preflight = &migration.Preflight{}
	v.Err = &transport.Fault{Code: transport.CodeBusy, Remote: true, Device: "nic0", Err: errors.New("it is in PRE_COPY")}
	return v
}

// verdicts are the endings that the reports are tested with.
var verdicts = map[string]func() Result{
	"committed":   committed,
	"foretold":    foretold,
	"interrupted": interrupted,
	"in-doubt":    inDoubt,
	"needs-reset": needsReset,
	"stuck":       stuck,
	"silent":      silent,
	"unheard":     unheard,
	"preflight":   preflighted,
	"refused":     refusedPreflight,
	"usage":       func() Result { return failed(Mistakef("give one", "no --device is given")) },
}
