package model

import "time"

// Field is the calibration: a mlx5 VF with 100 MiB of state that is all dirty
// when the guest stops, and a link of 100 Gbit/s, such that the model gives the
// downtimes that were published for QEMU.
//
//   - Four ConnectX-7 VFs, about 400 MiB in all, 100GbE: 2.1 s serial, 1.07 to
//     1.1 s with multifd device state and load threads.
//   - One VF of 300 MB: 1.9 s without switchover-ack, 420 ms with it.
//
// From the publications: LOAD takes 204 to 217 ms per 100 MiB; SAVE fills two
// buffers of 8 MiB and idles while both are unread; allocation at the
// destination is the whole difference that the ack makes, 1,480 ms for 300 MB,
// hence a third of it here.
//
// Fitted: Save by the difference between serial and multifd (three more drains);
// Start and [Guest] by what is left of 1.1 s with four devices and of 420 ms with
// one. Assumed: Stop, and that one idle VF had 8 MiB dirty. A larger share of
// either makes Start longer still.
func Field() (Device, Link) {
	return Device{
		Initial: 100 * mib, Dirty: 100 * mib,
		Save: 280 * mib, Buffer: 8 * mib, Buffers: 2,
		Load: 476 * mib, Record: 8 * mib,
		Alloc: 500 * time.Millisecond, Stop: 20 * time.Millisecond, Start: 120 * time.Millisecond,
	}, Link{Rate: 12.5e9, RTT: 100 * time.Microsecond}
}

// Guest is the time that QEMU spent in the published figures beside the devices: vCPUs,
// guest memory, other devices. It is the same for every strategy, so this package does not
// compute it.
const Guest = 250 * time.Millisecond
