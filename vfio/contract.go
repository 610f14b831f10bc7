package vfio

import (
	"errors"
	"fmt"
	"io"
	"reflect"
)

// What a Device or a Stream may not do. An engine that met it and went on would wait for ever,
// or lose bytes.
var (
	ErrNoSession = errors.New("the device gave no data session with a state that opens one")
	ErrBadCount  = errors.New("the stream counts bytes that it cannot have moved")
)

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

// mostEmpty is how often in a row a stream may move nothing and not say why.
const mostEmpty = 100

// Progress holds each answer of a Stream against what was asked of it. The zero value is ready.
type Progress struct{ empty int }

// Check says ErrBadCount if n is not 0 to most, and io.ErrNoProgress if the stream has given
// 0 and no error 100 times in a row, as package bufio does. Any other err is returned as it is.
func (p *Progress) Check(n, most int, err error) error {
	switch {
	case n < 0 || n > most:
		return fmt.Errorf("%w: %d of at most %d", ErrBadCount, n, most)
	case n > 0 || err != nil:
		p.empty = 0
		return err
	}
	if p.empty++; p.empty < mostEmpty {
		return nil
	}
	return fmt.Errorf("%w: it gave nothing and no error %d times in a row", io.ErrNoProgress, mostEmpty)
}
