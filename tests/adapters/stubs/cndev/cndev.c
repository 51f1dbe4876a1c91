/* A libcndev.so of our own with the real C ABI (version 6 of the interface), told by a control file.
 *
 * CNDEV_STUB names the file; it is read at every call. Its lines:
 *   cards N        how many devices (8)         lost CARD     it cannot be opened (18, in a problem)
 *   hang CARD      its memory is never told     sick CARD     its health is 0
 *   single CARD N  its corrected ECC errors     without CALL  this call is not supported (10)
 *   die CARD       its memory ends the process
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int32_t cndevDevice_t;
typedef int cndevRet_t;
typedef struct { int version; unsigned number; } cndevCardInfo_t;
typedef struct { int version; uint8_t uuid[37]; uint64_t ncsUUID64; } cndevUUID_t;
typedef struct { int version; uint64_t sn, motherBoardSn; } cndevCardSN_t;
typedef struct { int64_t physicalMemoryTotal, physicalMemoryUsed, reservedMemory, virtualMemoryTotal, virtualMemoryUsed; uint64_t globalMemory, reserved[16]; } cndevMemoryInfoV2_t;
typedef struct { int version; unsigned mcu[3], driver[3]; } cndevVersionInfo_t;
typedef struct { int version; uint64_t oneBit, multipleOne, multiple, multipleMultiple, corrected, uncorrected, total, forbidden; } cndevECCInfo_t;
typedef struct { int usage, cap, machine, tdp, maxPower, reserved[16]; } cndevDevicePowerInfo_t;
typedef struct { int version, board, cluster[20], memoryDie[8], chip, airInlet, airOutlet, memory, videoInput, cpu, isp; } cndevTemperatureInfo_t;
typedef struct { int version, averageCoreUtilization, coreUtilization[80]; } cndevUtilizationInfo_t;
typedef struct { int version, boardFreq, ddrFreq; } cndevFrequencyInfo_t;
typedef struct { unsigned subsystemId, deviceId; uint16_t vendor, subsystemVendor; unsigned domain, bus, device, function; uint16_t moduleId, slotId; unsigned reserved[8]; } cndevPCIeInfoV2_t;
typedef struct { int version, health, deviceState, driverState; } cndevCardHealthState_t;
typedef struct { int version, nodeId; } cndevNUMANodeId_t;
typedef struct { int version; unsigned pid; uint64_t physicalMemoryUsed, virtualMemoryUsed; } cndevProcessInfo_t;

enum { OK = 0, OLD_INTERFACE = 3, INVALID_DEVICE = 6, TOO_LITTLE = 9, UNSUPPORTED = 10, IN_PROBLEM = 18 };

static long control(const char *word, long card, long otherwise) {
    const char *path = getenv("CNDEV_STUB");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[128], key[64];
    long found = otherwise, first, second;
    while (file && fgets(line, sizeof line, file)) {
        int held = sscanf(line, "%63s %ld %ld", key, &first, &second);
        if (held < 1 || strcmp(key, word)) continue;
        if (card < 0) found = held > 1 ? first : 1;
        else if (held > 1 && first == card) found = held > 2 ? second : 1;
    }
    if (file) fclose(file);
    return found;
}

static int reach(cndevDevice_t device, const char *call) {
    const char *path = getenv("CNDEV_STUB");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[128], name[100];
    int missing = 0;
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "without %99s", name) == 1 && !strcmp(name, call)) missing = 1;
    if (file) fclose(file);
    if (missing) return UNSUPPORTED;
    if (device < 0 || device >= control("cards", -1, 8)) return INVALID_DEVICE;
    return control("lost", device, 0) ? IN_PROBLEM : OK;
}
#define REACH(device) int code = reach(device, __func__); if (code) return code
/* Structs with a version are refused without it, as the driver does. */
#define ASKED(info, device) if ((info)->version != 6) return OLD_INTERFACE; REACH(device)

cndevRet_t cndevInit(int reserved) { return reserved; }

cndevRet_t cndevGetDeviceCount(cndevCardInfo_t *info) {
    if (info->version != 6) return OLD_INTERFACE;
    info->number = (unsigned)control("cards", -1, 8);
    return OK;
}

cndevRet_t cndevGetDeviceHandleByIndex(int index, cndevDevice_t *handle) {
    REACH(index);
    *handle = index;
    return OK;
}

const char *cndevGetCardNameStringByDevId(cndevDevice_t device) { return reach(device, __func__) ? NULL : "MLU370-X8"; }

cndevRet_t cndevGetUUID(cndevUUID_t *info, cndevDevice_t device) {
    ASKED(info, device);
    memcpy(info->uuid, "10001012-1916-0000-0000-000000000000", sizeof info->uuid);
    info->uuid[7] = (uint8_t)('0' + device % 10);
    return OK;
}

cndevRet_t cndevGetCardSN(cndevCardSN_t *info, cndevDevice_t device) {
    ASKED(info, device);
    info->sn = 0x502212000000 + (uint64_t)device;
    return OK;
}

cndevRet_t cndevGetMemoryUsageV2(cndevMemoryInfoV2_t *info, cndevDevice_t device) { /* MB */
    REACH(device);
    if (control("hang", device, 0)) for (;;) pause();
    if (control("die", device, 0)) _exit(7);
    memset(info, 0, sizeof *info);
    info->physicalMemoryTotal = 23374, info->physicalMemoryUsed = 120 + device;
    return OK;
}

cndevRet_t cndevGetVersionInfo(cndevVersionInfo_t *info, cndevDevice_t device) {
    ASKED(info, device);
    info->mcu[0] = 1, info->mcu[1] = 1, info->mcu[2] = 6;
    info->driver[0] = 5, info->driver[1] = 10, info->driver[2] = 22;
    return OK;
}

cndevRet_t cndevGetECCInfo(cndevECCInfo_t *info, cndevDevice_t device) {
    ASKED(info, device);
    memset((char *)info + 8, 0, sizeof *info - 8);
    info->corrected = (uint64_t)control("single", device, 0);
    return OK;
}

cndevRet_t cndevGetDevicePowerInfo(cndevDevicePowerInfo_t *info, cndevDevice_t device) { /* W */
    REACH(device);
    info->usage = 106, info->cap = 250;
    return OK;
}

cndevRet_t cndevGetTemperatureInfo(cndevTemperatureInfo_t *info, cndevDevice_t device) {
    ASKED(info, device);
    info->chip = 39, info->board = 33, info->memory = -1;
    return OK;
}

cndevRet_t cndevGetDeviceUtilizationInfo(cndevUtilizationInfo_t *info, cndevDevice_t device) {
    ASKED(info, device);
    info->averageCoreUtilization = 11;
    return OK;
}

cndevRet_t cndevGetFrequencyInfo(cndevFrequencyInfo_t *info, cndevDevice_t device) {
    ASKED(info, device);
    info->boardFreq = 1300, info->ddrFreq = 0;
    return OK;
}

cndevRet_t cndevGetPCIeInfoV2(cndevPCIeInfoV2_t *info, cndevDevice_t device) {
    REACH(device);
    memset(info, 0, sizeof *info);
    info->vendor = 0xcabc, info->deviceId = 0x370, info->bus = 0x39 + (unsigned)device;
    return OK;
}

cndevRet_t cndevGetCardHealthState(cndevCardHealthState_t *info, cndevDevice_t device) {
    ASKED(info, device);
    info->health = control("sick", device, 0) ? 0 : 1, info->deviceState = info->health, info->driverState = 4;
    return OK;
}

cndevRet_t cndevGetNUMANodeIdByDevId(cndevNUMANodeId_t *info, cndevDevice_t device) {
    ASKED(info, device);
    info->nodeId = device / 4;
    return OK;
}

cndevRet_t cndevGetProcessInfo(unsigned *count, cndevProcessInfo_t *info, cndevDevice_t device) { /* KiB */
    REACH(device);
    if (*count < 1) return TOO_LITTLE;
    *count = 1;
    info[0].pid = 5000 + (unsigned)device, info[0].physicalMemoryUsed = 4096;
    return OK;
}
