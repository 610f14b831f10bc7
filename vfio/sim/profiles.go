package sim

import (
	"syscall"

	"github.com/migpipe/migpipe/vfio"
)

// profiles describe the in-tree drivers, as far as their behaviour is visible in
// the stream. Sizes are those of typical devices.
var profiles = []profile{
	{
		// drivers/vfio/pci/mlx5: a tracked SAVE runs in the background, in chunk
		// mode into two buffers of 8 MiB. LOAD runs inside write() under the
		// state lock.
		name: "mlx5", doc: "NIC virtual function: hundreds of MB, pre-copy in increments, saves into two 8 MiB buffers",
		features: vfio.Features{P2P: true, PreCopy: true, DataSize: true, PreCopyInfoV2: true},
		magic:    0x35786c6d, layout: records{},
		size: 128 << 20, min: 1, max: maxSize,
		rounds: increments, async: true, chunk: 8 << 20, chunks: 2, drainBusy: true,
		loads:   inLocked,
		badHead: rejection{inWrite, syscall.EOPNOTSUPP}, badBody: rejection{inWrite, syscall.EREMOTEIO},
		overflow: rejection{inWrite, syscall.EINVAL},
	},
	{
		// drivers/vfio/pci/virtio/migrate.c: an admin command dumps all device
		// parts inside the ioctl, at most once a second.
		name: "virtio", doc: "virtio-net virtual function: small, dumps its whole state again once a second on request",
		features: vfio.Features{P2P: true, PreCopy: true, DataSize: true},
		magic:    0x6f697472, layout: records{},
		size: 256 << 10, min: 1, max: maxSize,
		rounds:  dumps,
		loads:   inWrite,
		badHead: rejection{inWrite, syscall.EOPNOTSUPP}, badBody: rejection{inWrite, syscall.EINVAL},
		overflow: rejection{inWrite, syscall.EINVAL},
	},
	{
		// drivers/vfio/pci/hisilicon: a match block of 40 bytes, then 136. If no
		// guest driver is loaded, only the match block.
		name: "hisi_acc", doc: "HiSilicon accelerator: 40 + 136 bytes (40 with size=40), no P2P",
		features: vfio.Features{PreCopy: true, DataSize: true},
		magic:    0x69736968, layout: blob{head: 40, bare: true},
		size: 176, min: 176, max: 176, bare: 40, estimate: 176,
		loads:    atStop,
		badHead:  rejection{inWrite, syscall.EFAULT},
		overflow: rejection{inWrite, syscall.ENOMEM},
		short:    syscall.EINVAL,
	},
	{
		// drivers/vfio/pci/qat: the setup section is readable in PRE_COPY. On
		// the way to STOP the driver loads those of the 4096 bytes that were
		// written.
		name: "qat", doc: "Intel QAT accelerator: 4096 bytes, the setup section in PRE_COPY",
		features: vfio.Features{P2P: true, PreCopy: true, DataSize: true},
		magic:    0x746171, layout: blob{head: qatSetup},
		size: 4096, min: 4096, max: 4096,
		loads:   atStop,
		badHead: rejection{inWrite, syscall.EINVAL}, badBody: rejection{atStop, syscall.EINVAL},
		overflow: rejection{inWrite, syscall.ENOMEM},
	},
	{
		// drivers/vfio/pci/pds: SET STOP_COPY reads the whole state from the
		// firmware. On the way to STOP the firmware checks the whole state.
		name: "pds", doc: "AMD Pensando: at most 64 KiB, no pre-copy, short write at 64 KiB",
		features: vfio.Features{P2P: true, DataSize: true},
		magic:    0x736470, layout: blob{head: baseLen},
		size: 40 << 10, min: 64, max: pdsMax, estimate: pdsMax,
		loads:   atStop,
		badHead: rejection{atStop, syscall.EINVAL}, badBody: rejection{atStop, syscall.EINVAL},
	},
	{
		// drivers/gpu/drm/xe: the driver builds packets of up to 512 MiB in host
		// memory, up to five of them ahead of the reader. read() sleeps until
		// its buffer is full.
		name: "xe", doc: "Intel GPU: GBs, no pre-copy, every read waits until its buffer is full",
		features: vfio.Features{P2P: true, DataSize: true},
		magic:    0x6578, layout: records{},
		size: 1 << 30, min: 1, max: maxSize,
		async: true, chunk: 512 << 20, chunks: 5, fillsReads: true,
		loads:   inWrite,
		badHead: rejection{inWrite, syscall.ENODEV}, badBody: rejection{inWrite, syscall.EIO},
		overflow: rejection{inWrite, syscall.EINVAL},
	},
	{
		// samples/vfio-mdev/mtty.c: a header, then 36 bytes for each port.
		name: "mtty", doc: "the kernel's sample device: 60 or 96 bytes (ports=1 or 2)",
		features: vfio.Features{P2P: true, PreCopy: true, DataSize: true},
		magic:    0x7e9d09898c3e2c4e, layout: blob{head: baseLen},
		size: baseLen, port: 36, min: 60, max: 96,
		loads:    atStop,
		badHead:  rejection{inWrite, syscall.EFAULT},
		overflow: rejection{inWrite, syscall.ENOMEM},
		short:    syscall.EINVAL,
	},
	{
		// NVIDIA vGPU is closed. Two facts are known: its state is the used
		// frame buffer, and bandwidth bounds its migration.
		name: "vgpu", doc: "virtual GPU: tens of GB, pre-copy in increments, bound by bandwidth",
		features: vfio.Features{P2P: true, PreCopy: true, DataSize: true},
		magic:    0x75706776, layout: records{},
		size: 16 << 30, min: 1, max: maxSize,
		rounds: increments, async: true, chunk: 2 << 20, chunks: 8,
		loads:   inWrite,
		badHead: rejection{inWrite, syscall.EINVAL}, badBody: rejection{inWrite, syscall.EIO},
		overflow: rejection{inWrite, syscall.EINVAL},
	},
}

const (
	qatSetup = 256      // bytes of QAT's setup section
	pdsMax   = 64 << 10 // the estimate of pds, and the most that it can load
)
