// Package migration describes a migration to the user of an engine: its [ID] and [Attempt], the
// [Event]s while it runs, its [Outcome] and [Report], and the [Preflight] before it. Both engines
// use these types. The package itself does nothing.
package migration
