package sim

import (
	"syscall"

	"github.com/migpipe/migpipe/vfio"
)

// profiles is what the in-tree drivers do, as far as the other side of a
// stream can tell. Sizes are those of typical devices.
var profiles = []profile{
	{
		// drivers/vfio/pci/mlx5: a tracked SAVE runs beside the owner, in chunk
		// mode into two buffers of 8 MiB; LOAD runs inside write() under the
		// state lock.
		name: "mlx5", doc: "NIC virtual function: hundreds of MB, pre-copy in increments, saves into two 8 MiB buffers",
		features: vfio.Features{P2P: true, PreCopy: true, DataSize: true, PreCopyInfoV2: true},
		magic:    0x35786c6d, layout: records{},
		size: 128 << 20, min: 1, max: maxSize,
		rounds: increments, async: true, chunk: 8 << 20, chunks: 2, drainBusy: true,
		loads:   inLocked,
		badHead: verdict{inWrite, syscall.EOPNOTSUPP}, badBody: verdict{inWrite, syscall.EREMOTEIO},
		overflow: verdict{inWrite, syscall.EINVAL},
	},
	{
		// drivers/vfio/pci/virtio/migrate.c: an admin command dumps all device
		// parts inside the ioctl, at most once a second.
		name: "virtio", doc: "virtio-net virtual function: small, dumps everything again once a second while it is asked",
		features: vfio.Features{P2P: true, PreCopy: true, DataSize: true},
		magic:    0x6f697472, layout: records{},
		size: 256 << 10, min: 1, max: maxSize,
		rounds:  dumps,
		loads:   inWrite,
		badHead: verdict{inWrite, syscall.EOPNOTSUPP}, badBody: verdict{inWrite, syscall.EINVAL},
		overflow: verdict{inWrite, syscall.EINVAL},
	},
	{
		// drivers/vfio/pci/hisilicon: a match block of 40 bytes, then 136; only
		// the match block when no guest driver is loaded.
		name: "hisi_acc", doc: "HiSilicon accelerator: 40 + 136 bytes (40 with size=40), no P2P",
		features: vfio.Features{PreCopy: true, DataSize: true},
		magic:    0x69736968, layout: blob{head: 40, bare: true},
		size: 176, min: 176, max: 176, bare: 40, estimate: 176,
		loads:    atStop,
		badHead:  verdict{inWrite, syscall.EFAULT},
		overflow: verdict{inWrite, syscall.ENOMEM},
		short:    syscall.EINVAL,
	},
	{
		// drivers/vfio/pci/qat: the setup section goes out in PRE_COPY; whatever
		// of the 4096 bytes was filled is loaded on the way to STOP.
		name: "qat", doc: "Intel QAT accelerator: 4096 bytes, the setup section in PRE_COPY",
		features: vfio.Features{P2P: true, PreCopy: true, DataSize: true},
		magic:    0x746171, layout: blob{head: qatSetup},
		size: 4096, min: 4096, max: 4096,
		loads:   atStop,
		badHead: verdict{inWrite, syscall.EINVAL}, badBody: verdict{atStop, syscall.EINVAL},
		overflow: verdict{inWrite, syscall.ENOMEM},
	},
	{
		// drivers/vfio/pci/pds: SET STOP_COPY fetches all from firmware; the
		// firmware judges a whole state on the way to STOP.
		name: "pds", doc: "AMD Pensando: at most 64 KiB, no pre-copy, short write at 64 KiB",
		features: vfio.Features{P2P: true, DataSize: true},
		magic:    0x736470, layout: blob{head: baseLen},
		size: 40 << 10, min: 64, max: pdsMax, estimate: pdsMax,
		loads:   atStop,
		badHead: verdict{atStop, syscall.EINVAL}, badBody: verdict{atStop, syscall.EINVAL},
	},
	{
		// drivers/gpu/drm/xe: packets of up to 512 MiB are built in host memory,
		// five of them ahead of the reader; read() sleeps until it is full.
		name: "xe", doc: "Intel GPU: GBs, no pre-copy, every read waits until it is full",
		features: vfio.Features{P2P: true, DataSize: true},
		magic:    0x6578, layout: records{},
		size: 1 << 30, min: 1, max: maxSize,
		async: true, chunk: 512 << 20, chunks: 5, fills: true,
		loads:   inWrite,
		badHead: verdict{inWrite, syscall.ENODEV}, badBody: verdict{inWrite, syscall.EIO},
		overflow: verdict{inWrite, syscall.EINVAL},
	},
	{
		// samples/vfio-mdev/mtty.c: a header, then 36 bytes for each port.
		name: "mtty", doc: "the kernel's sample device: 60 or 96 bytes (ports=1 or 2)",
		features: vfio.Features{P2P: true, PreCopy: true, DataSize: true},
		magic:    0x7e9d09898c3e2c4e, layout: blob{head: baseLen},
		size: baseLen, port: 36, min: 60, max: 96,
		loads:    atStop,
		badHead:  verdict{inWrite, syscall.EFAULT},
		overflow: verdict{inWrite, syscall.ENOMEM},
		short:    syscall.EINVAL,
	},
	{
		// NVIDIA vGPU is closed: what is known is that its state is the used
		// frame buffer and that moving it is bound by bandwidth.
		name: "vgpu", doc: "virtual GPU: tens of GB, pre-copy in increments, bound by bandwidth",
		features: vfio.Features{P2P: true, PreCopy: true, DataSize: true},
		magic:    0x75706776, layout: records{},
		size: 16 << 30, min: 1, max: maxSize,
		rounds: increments, async: true, chunk: 2 << 20, chunks: 8,
		loads:   inWrite,
		badHead: verdict{inWrite, syscall.EINVAL}, badBody: verdict{inWrite, syscall.EIO},
		overflow: verdict{inWrite, syscall.EINVAL},
	},
}

const (
	qatSetup = 256      // bytes of QAT's setup section
	pdsMax   = 64 << 10 // what pds estimates, and all that it can take
)
