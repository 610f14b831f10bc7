// Package must is for calls that fail only by a mistake of the programmer.
package must

// Get gives the value, and panics with the error if there is one.
func Get[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}
