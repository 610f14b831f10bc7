package vfio

//lint:file-ignore U1000 the kernel's structures are complete, including unused fields

// The structures and numbers of include/uapi/linux/vfio.h that this package uses, in the
// machine's own layout. Fields keep the kernel's order; uapi_test.go compares every size,
// offset and number with the installed header.

// ioctl request numbers, _IO(';', 100+n) without the direction bits that some
// architectures add (see sys_linux.go). The kernel reuses numbers: each number
// belongs to one kind of fd.
const (
	// On a container, /dev/vfio/vfio.
	reqGetAPIVersion = 0x3b64
	reqSetIOMMU      = 0x3b66
	// On a group, /dev/vfio/N.
	reqGroupGetStatus    = 0x3b67
	reqGroupSetContainer = 0x3b68
	reqGroupGetDeviceFD  = 0x3b6a
	// On a device.
	reqDeviceGetInfo = 0x3b6b
	reqDeviceReset   = 0x3b6f
	reqDeviceFeature = 0x3b75
	// On a device's cdev, /dev/vfio/devices/vfioN.
	reqDeviceBindIOMMUFD = 0x3b76
	// On the data_fd of a saving session.
	reqMigGetPrecopyInfo = 0x3b79
)

// Values of VFIO_GET_API_VERSION and VFIO_SET_IOMMU.
const (
	apiVersion   = 0
	iommuType1   = 1
	iommuType1v2 = 3
)

// groupStatus is struct vfio_group_status.
type groupStatus struct {
	argsz, flags uint32
}

// groupViable is set if every device of the group is bound to a VFIO driver.
const groupViable = 1

// deviceInfo is struct vfio_device_info.
type deviceInfo struct {
	argsz, flags, numRegions, numIRQs, capOffset, pad uint32
}

// bindIOMMUFD is struct vfio_device_bind_iommufd as of 6.6. Later kernels take
// an optional token behind it; old ones demand these 16 bytes and no flags.
type bindIOMMUFD struct {
	argsz, flags uint32
	iommufd      int32
	outDevID     uint32
}

// featureHeader is struct vfio_device_feature: flags hold the index of the
// feature and the operation; the payload follows.
type featureHeader struct {
	argsz, flags uint32
}

// Operations on a feature.
const (
	featureGet   = 1 << 16
	featureSet   = 1 << 17
	featureProbe = 1 << 18
)

// Indices of the features that this package uses.
const (
	featureMigration        = 1
	featureMigDeviceState   = 2
	featureMigDataSize      = 9
	featureMigPrecopyInfoV2 = 12
)

// Flags of featureMigrationArg.
const (
	migrationStopCopy = 1 << iota
	migrationP2P
	migrationPreCopy
)

// precopyInfoReinit is the flag of precopyInfo for a device that was
// initialised again. It is meaningful only after VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2.
const precopyInfoReinit = 1

// featureMigrationArg is the argument of VFIO_DEVICE_FEATURE_MIGRATION.
type featureMigrationArg struct {
	featureHeader
	migration uint64
}

// featureStateArg is the argument of VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE. The
// kernel writes the payload back even if a SET fails. Then state is the requested
// state, not the current one.
type featureStateArg struct {
	featureHeader
	state  State
	dataFD int32
}

// featureSizeArg is the argument of VFIO_DEVICE_FEATURE_MIG_DATA_SIZE.
type featureSizeArg struct {
	featureHeader
	stopCopyLength uint64
}

// precopyInfo is struct vfio_precopy_info, the argument of
// VFIO_MIG_GET_PRECOPY_INFO.
type precopyInfo struct {
	argsz, flags   uint32
	initial, dirty uint64
}
