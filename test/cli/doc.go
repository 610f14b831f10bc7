// Package cli holds tests that run mig-send and mig-recv as users do: two
// processes, two command lines.
package cli
