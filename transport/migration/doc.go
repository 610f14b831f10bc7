// Package migration has what the user of an engine sees of a migration: its [ID] and its
// [Attempt], its [Outcome], the [Report] at its end, the [Event]s while it runs, and what a
// [Preflight] finds before it. Both engines use it, and it does nothing itself.
package migration
