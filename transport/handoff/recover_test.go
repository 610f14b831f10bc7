package handoff

import "github.com/migpipe/migpipe/transport"

// What a side does that was started again and has nothing but its journal's
// last entry. Reconnecting is not built yet; the rules are, and the tests hold
// the machines to them.

func restartSource(last Entry) (Source, []Action) {
	s := Source{Attempt: last.Attempt, Journal: last.Journal, Peer: last.Peer, Digest: last.Digest, Record: last.Record}
	switch last.Record {
	case Commit:
		s.Phase = SourceDoubt
		return s, []Action{Send{&transport.Commit{Attempt: s.Attempt, Journal: s.Peer, Digest: s.Digest}}}
	case Done:
		s.Phase = SourceEnded
		return s, []Action{Send{&transport.Fin{Attempt: s.Attempt}}, Release{}, Finish{Committed}}
	}
	return s.rollback(nil)
}

func restartDest(last Entry) (Dest, []Action) {
	d := Dest{Attempt: last.Attempt, Journal: last.Journal, Digest: last.Digest, Record: last.Record, MaxEpoch: last.Attempt.Epoch}
	switch last.Record {
	case Open, Ready:
		return d.decline(transport.CodeInternal, "", 0, "the destination was started again")
	case Accept:
		d.Phase = DestStarting
		return d, []Action{Start{}}
	case Aborted:
		return d, []Action{Reset{}}
	}
	return d, nil
}
