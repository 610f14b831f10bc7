package cli

import (
	"errors"
	"time"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/report"
)

var peerID = transport.ID{1, 2, 3}

// committed is how a migration of two devices may end at the destination.
func committed() verdict {
	return verdict{
		scene:   scene{self: transport.ID{9}, address: "127.0.0.1:7000"},
		started: true,
		report: report.Report{
			Outcome: handoff.Committed, Attempt: transport.Attempt{Epoch: 1}, Peer: peerID, Lanes: 2,
			Carrier: transport.Carrier{Name: "quic", GRO: true, ReceiveBuffer: 8 << 20, SendBuffer: 8 << 20},
			Total:   3210 * time.Millisecond, Downtime: 84160 * time.Microsecond,
			Stages:        []report.Stage{{Name: "stop", Took: 1300 * time.Microsecond}, {Name: "save", Took: 82860 * time.Microsecond}},
			Occupancy:     report.Occupancy{Queue: 0.12, Ahead: 0.004, Bottleneck: report.BoundArrival},
			StopOccupancy: report.Occupancy{Queue: 0.7512, Ahead: 0.031, Bottleneck: report.BoundLoad},
			Devices: []report.Device{
				{
					Name: "nic0", Bytes: 300 << 20, WireBytes: 150 << 20, PrecopyBytes: 290 << 20, Chunks: 300, Rounds: 4,
					Digest: transport.StreamDigest{0xab, 0xcd, 0xef}, Path: "read", PathWhy: "splice: EINVAL", State: "STOP",
				},
				{Name: "acc0", Bytes: 176, Chunks: 2, Digest: transport.StreamDigest{1}, Path: "read", State: "STOP"},
			},
			Warnings: []string{"no estimate from acc0"},
		},
		verified: map[string]bool{"nic0": true},
	}
}

// foretold is how that migration may end at the source.
func foretold() verdict {
	v := committed()
	known := func(d time.Duration) report.Span { return report.Span{Took: d, Known: true} }
	v.sending, v.verified, v.report.Warnings = true, nil, nil
	v.report.Devices[0].Save, v.report.Devices[0].Load = 20*time.Millisecond, 30*time.Millisecond
	v.report.Occupancy = report.Occupancy{Queue: 0.05, Flight: 0.2, Bottleneck: report.Balanced}
	v.report.StopOccupancy = report.Occupancy{Queue: 0.8277, Credit: 0.051, Flight: 0.0625, Bottleneck: report.BoundNetwork}
	none := known(0)
	p := report.Prediction{Stop: known(time.Millisecond), Fill: none, Save: known(79 * time.Millisecond), Wire: none, Load: none, Commit: none, Start: none, Downtime: known(80 * time.Millisecond)}
	v.report.Predicted = &report.Forecast{Prediction: p, Devices: []report.DeviceForecast{
		{Bytes: 10 << 20, Prediction: p},
		{Prediction: report.Prediction{Stop: known(time.Millisecond), Downtime: known(time.Millisecond)}},
	}}
	return v
}

// failed is a run that ended before the engine began.
func failed(err error) verdict {
	return verdict{report: report.Report{Outcome: handoff.Rolledback}, err: err}
}

// interrupted is a migration that the peer broke off.
func interrupted() verdict {
	v := committed()
	v.sending, v.verified, v.report.Warnings = true, nil, nil
	v.report.Outcome, v.report.Stages, v.report.Downtime = handoff.Rolledback, nil, 0
	v.err = &transport.Fault{Code: transport.CodeDevice, Remote: true, Device: "nic0", Offset: 4096, Err: errors.New("write: input/output error")}
	return v
}

func inDoubt() verdict {
	v := interrupted()
	v.report.Outcome = handoff.InDoubt
	v.err = &transport.Fault{Code: transport.CodeNetwork, Err: transport.ErrPeerGone}
	return v
}

// unheard is a destination that could not listen.
func unheard() verdict {
	v := failed(&transport.Fault{Code: transport.CodeNetwork, Err: errors.New("cannot assign requested address")})
	v.started = true
	return v
}

func needsReset() verdict {
	v := interrupted()
	v.sending = false
	v.report.Outcome = handoff.NeedsReset
	v.report.Warnings = []string{"reset: one error\nand another"}
	v.err = &transport.Fault{Code: transport.CodeCancelled, Err: errors.New("cancelled: interrupt")}
	return v
}

// stuck is a source whose way back failed after the last END.
func stuck() verdict {
	v := interrupted()
	v.report.Outcome, v.report.Attempt.Mig = handoff.NeedsReset, transport.MigID{0xab}
	v.report.CopyThere = &report.CopyThere{Ready: true, Rescue: true}
	v.there, v.again = &copyThere{*v.report.CopyThere, v.report.Attempt.Mig}, v.report.Attempt.Mig.String()
	v.report.Warnings = []string{"take the devices back: STOP_COPY -> STOP: input/output error"}
	return v
}

// silent is a source whose devices run, and whose guest may not.
func silent() verdict {
	v := stuck()
	v.report.Outcome, v.report.GuestUnheard, v.report.CopyThere.Rescue, v.there.Rescue = handoff.Rolledback, true, false, false
	return v
}

// preflighted is a --dry-run of two devices that went well.
func preflighted() verdict {
	all, known := report.Span{Took: 2610 * time.Millisecond}, func(d time.Duration) report.Span { return report.Span{Took: d, Known: true} }
	p := report.Prediction{
		Precopy: report.Span{Took: 2500 * time.Millisecond}, Fill: report.Span{Took: 9 * time.Millisecond},
		Wire: known(100 * time.Millisecond), Commit: known(350 * time.Microsecond), Downtime: report.Span{Took: 110 * time.Millisecond}, Total: all,
	}
	return verdict{
		scene: scene{sending: true}, started: true, report: report.Report{Outcome: handoff.Rolledback, Peer: peerID},
		preflight: &report.Preflight{
			Peer: peerID, Software: "mig-recv 1.0", Version: 1, ChunkSize: 1 << 20, Lanes: 2, Codecs: []codec.ID{codec.IDRaw, codec.IDZstd},
			RTT: 350 * time.Microsecond, Rate: 120 << 20, Probed: 100 << 20, Prediction: p,
			Devices: []report.PreflightDevice{
				{Name: "nic0", Driver: "mlx5_vfio_pci", PreCopy: true, Size: 300 << 20, Sized: true, Prediction: report.Prediction{Total: all}},
				{Name: "acc0", Prediction: report.Prediction{Downtime: known(time.Second), Total: known(time.Second)}},
			},
		},
	}
}

func refusedPreflight() verdict {
	v := preflighted()
	v.preflight = &report.Preflight{}
	v.err = &transport.Fault{Code: transport.CodeBusy, Remote: true, Device: "nic0", Err: errors.New("it is in PRE_COPY")}
	return v
}

// verdicts are the endings that the reports are tested with.
var verdicts = map[string]func() verdict{
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
	"usage":       func() verdict { return failed(mistakef("give one", "no --device is given")) },
}
