// Package transport connects the two hosts of a migration. It knows nothing of devices.
//
// A [Lane] is one ordered, reliable byte stream to the peer. A [Dialer] opens lanes and a
// [Listener] accepts them; a carrier is a pair of these: [QUICDialer] and [ListenQUIC],
// [TLSDialer] and [ListenTLS], [EitherDialer] and [ListenEither] for both, [UnixDialer] and
// [ListenUnix] within a host, and [Pipe] within a process. Package transporttest is the suite
// that every carrier passes.
//
// Each side proves who it is by its [Credentials]: a key of its own and a list of peers
// ([Pinned], [PinnedFile]), or the certificates of a CA ([Certified]). A [Fault] is why an
// attempt failed, and its [Code] is the reason that a program may branch on.
//
// PROTOCOL.md beside this code specifies the messages on the lanes. Package migration describes a
// migration to an embedder.
package transport
