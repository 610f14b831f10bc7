// Package chaos tests the two programs as processes: between them is a bad network,
// at named points they are stopped, restarted, or lost with their host, and afterwards
// a checker reads the journals of both sides and the logs of the simulated devices,
// holds them against the invariants of the hand-off, and a second migration has to
// succeed.
//
//	make chaos                       every case, and some that are drawn
//	go test ./test/chaos             those that CI runs
//	go test ./test/chaos -v -all -run 'TestRows/18'
package chaos
