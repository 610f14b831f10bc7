// Package chaos tests the two programs as processes, with a bad network between them. At
// named points the programs are stopped, restarted, or lost with their host. Afterwards a
// checker reads the journals of both sides and the logs of the simulated devices. It checks
// them against the invariants of the hand-off. Then a second migration has to succeed.
//
//	make chaos                       every case, and some random ones
//	go test ./test/chaos             the cases that CI runs
//	go test ./test/chaos -v -all -run 'TestRows/18'
package chaos
