// Package must wraps calls that fail only because of a programming error.
package must

// Get returns the value. It panics if err is not nil.
func Get[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}
