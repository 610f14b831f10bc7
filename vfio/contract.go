package vfio

import (
	"errors"
	"fmt"
	"reflect"
)

// What a Device may not do. An engine that went on with it would wait for ever, or let a guest
// run twice.
var (
	ErrNoSession    = errors.New("the device gave no data session where the state opens one")
	ErrStraySession = errors.New("the device gave a data session where the state opens none")
	ErrElsewhere    = errors.New("the device reports success and is in another state")
)

// Enter is d.SetState(to), held against the contract. opens says whether that opens a data
// session (see [OpensSession]). With an error it returns no Stream, and has closed the one that
// the device gave. After ErrStraySession the device is in the state all the same.
func Enter(d Device, to State, opens bool) (Stream, error) {
	s, err := d.SetState(to)
	given := CheckSession(s) == nil
	if err == nil {
		err = arrived(d, to, opens, given)
	}
	switch {
	case err == nil && given:
		return s, nil
	case given:
		_ = s.Close()
	}
	return nil, err
}

// arrived holds what a SetState has done against the contract.
func arrived(d Device, to State, opens, given bool) error {
	now, err := d.State()
	switch {
	case err != nil:
	case now != to:
		err = fmt.Errorf("%w: it says %v", ErrElsewhere, now)
	case opens && !given:
		err = ErrNoSession
	case !opens && given:
		err = ErrStraySession
	}
	if err != nil {
		return fmt.Errorf("set %v: %w", to, err)
	}
	return nil
}

// CheckSession says ErrNoSession for a Stream that is nil, or a nil pointer.
func CheckSession(s Stream) error {
	if s == nil {
		return ErrNoSession
	}
	if v := reflect.ValueOf(s); v.Kind() == reflect.Pointer && v.IsNil() {
		return ErrNoSession
	}
	return nil
}
