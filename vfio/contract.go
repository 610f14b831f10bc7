package vfio

import (
	"errors"
	"fmt"
	"reflect"
)

// Violations of the contract of [Device]. An engine that ignored one would wait for ever, or
// let a guest run twice.
var (
	ErrNoSession    = errors.New("device returned no data session for a state that opens one")
	ErrStraySession = errors.New("device returned a data session for a state that opens none")
	ErrElsewhere    = errors.New("device reports success but is in another state")
)

// Enter calls d.SetState(to) and checks the result against the contract of [Device]. opens says
// whether the request opens a data session (see [OpensSession]). If Enter fails it returns no
// Stream, and has closed the one that the device returned. After ErrStraySession the device is
// in the requested state.
func Enter(d Device, to State, opens bool) (Stream, error) {
	s, err := d.SetState(to)
	hasSession := CheckSession(s) == nil
	if err == nil {
		err = checkEntered(d, to, opens, hasSession)
	}
	switch {
	case err == nil && hasSession:
		return s, nil
	case hasSession:
		_ = s.Close()
	}
	return nil, err
}

// checkEntered checks the result of a successful SetState against the contract of [Device].
func checkEntered(d Device, to State, opens, hasSession bool) error {
	now, err := d.State()
	switch {
	case err != nil:
	case now != to:
		err = fmt.Errorf("%w: %v", ErrElsewhere, now)
	case opens && !hasSession:
		err = ErrNoSession
	case !opens && hasSession:
		err = ErrStraySession
	}
	if err != nil {
		return fmt.Errorf("set %v: %w", to, err)
	}
	return nil
}

// CheckSession returns ErrNoSession for a Stream that is nil or holds a nil pointer.
func CheckSession(s Stream) error {
	if s == nil {
		return ErrNoSession
	}
	if v := reflect.ValueOf(s); v.Kind() == reflect.Pointer && v.IsNil() {
		return ErrNoSession
	}
	return nil
}
