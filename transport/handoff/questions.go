package handoff

// The methods below answer all that an engine has to know of its machine. An engine reads no
// phase.

// AwaitsWelcome reports whether HELLO was sent, and not answered yet.
func (s Source) AwaitsWelcome() bool { return s.Phase == SourceHello }

// AwaitsReady reports whether the streams are being sent: the destination has not confirmed them.
func (s Source) AwaitsReady() bool { return s.Phase == SourceTransfer || s.Phase == SourceWaiting }

// AwaitsApproval reports whether the VMM is asked whether to commit.
func (s Source) AwaitsApproval() bool { return s.Phase == SourceDeciding }

// InDoubt reports whether COMMIT is recorded, and there is no answer. Only an answer of the
// destination or of the witness ends that.
func (s Source) InDoubt() bool { return s.Phase == SourceDoubt }

// NeedsPeer reports whether the conversation with the destination continues: a lost lane is
// dialled again.
func (s Source) NeedsPeer() bool {
	return s.AwaitsWelcome() || s.AwaitsReady() || s.AwaitsApproval() || s.InDoubt()
}

// Engaged reports whether there is an attempt, even one that has ended.
func (d Dest) Engaged() bool { return d.Phase != DestIdle }

// Receives reports whether the streams are being written to the devices.
func (d Dest) Receives() bool { return d.Phase == DestReceiving }

// HoldsCopy reports whether the devices hold a complete copy, which waits for COMMIT.
func (d Dest) HoldsCopy() bool { return d.Phase == DestReady }

// Starts reports whether ACCEPT is recorded, and the devices are being started.
func (d Dest) Starts() bool { return d.Phase == DestStarting }

// MayRunDevices reports whether ACCEPT is recorded, and the devices run or are being started.
func (d Dest) MayRunDevices() bool { return d.Starts() || d.Phase == DestRunning }

// Resets reports whether the attempt is over, and the devices are being reset.
func (d Dest) Resets() bool { return d.Phase == DestResetting }
