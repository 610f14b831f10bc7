package vfio

//lint:file-ignore U1000 the kernel's structures are named whole, used or not

// The structures and numbers of include/uapi/linux/vfio.h, in the machine's own
// layout. Fields keep the kernel's order; uapi_test.go compares every size,
// offset and number with the installed header. The calls that belong to the VMM
// alone (DMA logging, attaching to an IOAS, power) are here only so that the
// numbering is whole.

// ioctl request numbers, _IO(';', 100+n) without the direction bits that some
// architectures add (see sys_linux.go). The kernel reuses numbers: each is
// meant for one kind of fd.
const (
	// On a container, /dev/vfio/vfio.
	reqGetAPIVersion  = 0x3b64
	reqCheckExtension = 0x3b65
	reqSetIOMMU       = 0x3b66
	// On a group, /dev/vfio/N.
	reqGroupGetStatus      = 0x3b67
	reqGroupSetContainer   = 0x3b68
	reqGroupUnsetContainer = 0x3b69
	reqGroupGetDeviceFD    = 0x3b6a
	// On a device.
	reqDeviceGetInfo = 0x3b6b
	reqDeviceReset   = 0x3b6f
	reqDeviceFeature = 0x3b75
	// On a device's cdev, /dev/vfio/devices/vfioN.
	reqDeviceBindIOMMUFD   = 0x3b76
	reqDeviceAttachIOMMUFD = 0x3b77
	reqDeviceDetachIOMMUFD = 0x3b78
	// On the data_fd of a saving session.
	reqMigGetPrecopyInfo = 0x3b79
)

// Values of VFIO_GET_API_VERSION, VFIO_CHECK_EXTENSION and VFIO_SET_IOMMU.
const (
	apiVersion   = 0
	iommuType1   = 1
	iommuType1v2 = 3
)

// groupStatus is struct vfio_group_status.
type groupStatus struct {
	argsz, flags uint32
}

const (
	groupViable       = 1 // every device of the group is bound to a VFIO driver
	groupContainerSet = 2
)

// deviceInfo is struct vfio_device_info.
type deviceInfo struct {
	argsz, flags, numRegions, numIRQs, capOffset, pad uint32
}

const (
	deviceHasReset = 1 << iota
	deviceIsPCI
	deviceIsPlatform
	deviceIsAMBA
	deviceIsCCW
	deviceIsAP
	deviceIsFSLMC
	deviceHasCaps
	deviceIsCDX
)

// bindIOMMUFD is struct vfio_device_bind_iommufd as of 6.6. Later kernels take
// an optional token behind it; old ones demand these 16 bytes and no flags.
type bindIOMMUFD struct {
	argsz, flags uint32
	iommufd      int32
	outDevID     uint32
}

// attachIOMMUFD and detachIOMMUFD are struct
// vfio_device_{attach,detach}_iommufd_pt without PASID.
type (
	attachIOMMUFD struct{ argsz, flags, ptID uint32 }
	detachIOMMUFD struct{ argsz, flags uint32 }
)

// featureHeader is struct vfio_device_feature: flags hold the index of the
// feature and what is done with it; the payload follows.
type featureHeader struct {
	argsz, flags uint32
}

// What is done with a feature.
const (
	featureGet   = 1 << 16
	featureSet   = 1 << 17
	featureProbe = 1 << 18
)

// Feature indices. Those from 13 up are still contested and have no name here.
const (
	featurePCIVFToken = iota
	featureMigration
	featureMigDeviceState
	featureLowPowerEntry
	featureLowPowerEntryWakeup
	featureLowPowerExit
	featureDMALoggingStart
	featureDMALoggingStop
	featureDMALoggingReport
	featureMigDataSize
	featureBusMaster
	featureDMABuf
	featureMigPrecopyInfoV2
)

// Flags of featureMigrationArg.
const (
	migrationStopCopy = 1 << iota
	migrationP2P
	migrationPreCopy
)

// precopyInfoReinit is the flag of precopyInfo that says that the device was
// initialised anew; meaningful only after VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2.
const precopyInfoReinit = 1

// featureMigrationArg is the call of VFIO_DEVICE_FEATURE_MIGRATION.
type featureMigrationArg struct {
	featureHeader
	migration uint64
}

// featureStateArg is the call of VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE. The
// kernel writes the payload back even when a SET fails: state is then what was
// asked for, not what is.
type featureStateArg struct {
	featureHeader
	state  State
	dataFD int32
}

// featureSizeArg is the call of VFIO_DEVICE_FEATURE_MIG_DATA_SIZE.
type featureSizeArg struct {
	featureHeader
	stopCopyLength uint64
}

// featureBusMasterArg is the call of VFIO_DEVICE_FEATURE_BUS_MASTER.
type featureBusMasterArg struct {
	featureHeader
	op uint32
}

// dmaLoggingStart, dmaLoggingRange and dmaLoggingReport are struct
// vfio_device_feature_dma_logging_{control,range,report}.
type (
	dmaLoggingStart struct {
		pageSize        uint64
		numRanges, rsvd uint32
		ranges          uint64
	}
	dmaLoggingRange struct {
		iova, length uint64
	}
	dmaLoggingReport struct {
		iova, length, pageSize, bitmap uint64
	}
)

// precopyInfo is struct vfio_precopy_info, the answer of
// VFIO_MIG_GET_PRECOPY_INFO.
type precopyInfo struct {
	argsz, flags   uint32
	initial, dirty uint64
}
