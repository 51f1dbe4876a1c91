/* A management library of NVML's shape without a device: the calls that the adapters make, with NVML's C ABI.
 *
 * Built by tests/adapters/nvml_stub.py, once as libnvidia-ml.so.1 (PREFIX nvml) and once for each library that has
 * NVML's calls under another prefix; with -DOWN_PCI the bus address comes in the structure of efml.h and brml.h.
 *
 * NVML_STUB_PROFILE names a text file, a device a line of `key=value` words (spaces in values are `_`):
 *     uuid=GPU-1 name=NVIDIA_H800 bdf=00000000:1B:00.0 total=85520809984 used=0 util=42 power=410250 …
 * A key that is left out is a call that answers NVML_ERROR_NOT_SUPPORTED. `mig=2` makes two partitions of it.
 * NVML_STUB_CONTROL names a file that is read at every call, a command a line:
 *     lost INDEX | reset INDEX | gone INDEX | hang INDEX CALL | hang_init | crash INDEX CALL | fail_count
 *     xid INDEX NUMBER | ecc INDEX GROWTH
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef PREFIX
#define PREFIX nvml
#endif
#define JOIN2(a, b) a##b
#define JOIN(a, b) JOIN2(a, b)
#define F(name) __attribute__((visibility("default"))) int JOIN(PREFIX, name)

enum { OK, UNINITIALIZED, INVALID, NOT_SUPPORTED, NO_PERMISSION, _5, NOT_FOUND, TOO_SMALL, TIMEOUT = 10, LOST = 15,
       RESET = 16, UNKNOWN = 999 };
enum { MOST = 32, PARTS = 8, WORDS = 1024 };

typedef unsigned int u32;
typedef unsigned long long u64;
typedef struct device { int index, part; char words[WORDS]; } *Device;

static struct device devices[MOST], parts[MOST][PARTS];
static int known, ready, seen_xids[MOST], watched[MOST];

static const char *find(const char *words, const char *key) {
    static char held[16][160];
    static int next;
    size_t length = strlen(key);
    for (const char *at = words; at && *at;) {
        while (*at == ' ') at++;
        if (!strncmp(at, key, length) && at[length] == '=') {
            char *out = held[next = (next + 1) % 16];
            size_t n = strcspn(at + length + 1, " \n");
            if (n > 159) n = 159;
            memcpy(out, at + length + 1, n);
            out[n] = 0;
            for (char *c = out; *c; c++) if (*c == '_') *c = ' ';
            return out;
        }
        at = strchr(at, ' ');
    }
    return NULL;
}

static int load(void) {
    const char *path = getenv("NVML_STUB_PROFILE");
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file) return 0;
    for (known = 0; known < MOST && fgets(devices[known].words, WORDS, file);) {
        if (devices[known].words[0] < ' ' || devices[known].words[0] == '#') continue;
        devices[known].index = known;
        devices[known].part = -1;
        for (int p = 0; p < PARTS; p++) parts[known][p] = (struct device){.index = known, .part = p};
        known++;
    }
    fclose(file);
    return 1;
}

/* The first number after `command index` (0 when there is none), or -1 when the control file has no such line. */
static long command(const char *wanted, int index, const char *call) {
    const char *path = getenv("NVML_STUB_CONTROL");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[200], word[64], rest[64];
    long found = -1;
    int at;
    while (file && fgets(line, sizeof line, file)) {
        at = -1;
        rest[0] = 0;
        if (sscanf(line, "%63s %d %63s", word, &at, rest) < 1 || strcmp(word, wanted)) continue;
        if (index >= 0 && at != index) continue;
        if (call && strcmp(rest, call) && strcmp(rest, "any")) continue;
        found = strtol(rest, NULL, 10);
    }
    if (file) fclose(file);
    return found;
}

static int gone(int index) { return command("gone", index, NULL) >= 0; }

/* Every call on a device passes here: it may hang, crash the process, or find the device lost. */
static int enter(Device device, const char *call) {
    if (!ready) return UNINITIALIZED;
    if (!device) return INVALID;
    if (command("crash", device->index, call) >= 0) raise(SIGSEGV);
    while (command("hang", device->index, call) >= 0) usleep(50 * 1000);
    if (command("reset", device->index, NULL) >= 0) return RESET;
    return command("lost", device->index, NULL) >= 0 || gone(device->index) ? LOST : OK;
}

#define ENTER(device) do { int e_ = enter(device, __func__ + strlen(STRING(PREFIX))); if (e_) return e_; } while (0)
#define STRING2(x) #x
#define STRING(x) STRING2(x)

static int text(const char *value, char *out, u32 size) {
    if (!value) return NOT_SUPPORTED;
    snprintf(out, size, "%s", value);
    return OK;
}

static int number(Device device, const char *key, u64 *out) {
    const char *value = find(device->words, key);
    if (!value) return NOT_SUPPORTED;
    *out = strtoull(value, NULL, 0);
    return OK;
}

static int number32(Device device, const char *key, u32 *out) {
    u64 wide = 0;
    int code = number(device, key, &wide);
    *out = (u32)wide;
    return code;
}

F(Init_v2)(void) {
    while (command("hang_init", -1, NULL) >= 0) usleep(50 * 1000);
    ready = load();
    return ready ? OK : 9; /* the driver is not loaded */
}
F(InitWithFlags)(u32 flags) { (void)flags; return JOIN(PREFIX, Init_v2)(); }
F(Shutdown)(void) { ready = 0; return OK; }

__attribute__((visibility("default"))) const char *JOIN(PREFIX, ErrorString)(int code) {
    switch (code) {
    case OK: return "Success";
    case NOT_SUPPORTED: return "Not Supported";
    case 9: return "Driver Not Loaded";
    case TIMEOUT: return "Timeout";
    case LOST: return "GPU is lost";
    case RESET: return "GPU requires reset";
    default: return "Unknown Error";
    }
}

F(SystemGetDriverVersion)(char *out, u32 size) { return text("999.1", out, size); }
F(SystemGetProcessName)(u32 pid, char *out, u32 size) {
    char name[32];
    snprintf(name, sizeof name, "process-%u", pid);
    return text(name, out, size);
}

F(DeviceGetCount_v2)(u32 *count) {
    if (!ready) return UNINITIALIZED;
    if (command("fail_count", -1, NULL) >= 0) return UNKNOWN;
    *count = 0;
    for (int i = 0; i < known; i++) *count += !gone(i);
    return OK;
}

F(DeviceGetHandleByIndex_v2)(u32 index, Device *device) {
    if (!ready) return UNINITIALIZED;
    for (int i = 0; i < known; i++) {
        if (gone(i) || index--) continue;
        *device = &devices[i];
        ENTER(*device);
        return OK;
    }
    return INVALID;
}

F(DeviceGetName)(Device device, char *out, u32 size) {
    ENTER(device);
    const char *name = find(devices[device->index].words, "name");
    char whole[160];
    if (device->part < 0 || !name) return text(name, out, size);
    snprintf(whole, sizeof whole, "%s MIG 1g.10gb", name);
    return text(whole, out, size);
}

F(DeviceGetUUID)(Device device, char *out, u32 size) {
    ENTER(device);
    const char *uuid = find(devices[device->index].words, "uuid");
    char whole[160];
    if (device->part < 0 || !uuid) return text(uuid, out, size);
    snprintf(whole, sizeof whole, "MIG-%s-%d", uuid, device->part);
    return text(whole, out, size);
}

F(DeviceGetSerial)(Device device, char *out, u32 size) {
    ENTER(device);
    return text(find(device->words, "serial"), out, size);
}
F(DeviceGetVbiosVersion)(Device device, char *out, u32 size) {
    ENTER(device);
    return text(find(device->words, "vbios"), out, size);
}

#ifdef OWN_PCI
typedef struct { u32 domain, bus, device, function, id, subsystem; char bus_id[32]; u64 reserved[9]; } Pci;
#else
typedef struct { char legacy[16]; u32 domain, bus, device, id, subsystem; char bus_id[32]; } Pci;
#endif
static int pci(const char *bdf, u32 id, Pci *out) {
    memset(out, 0, sizeof *out);
    out->id = id;
    return text(bdf, out->bus_id, sizeof out->bus_id);
}
F(DeviceGetPciInfo_v3)(Device device, Pci *out) {
    ENTER(device);
    u32 id = 0;
    number32(device, "pciid", &id);
    return pci(find(device->words, "bdf"), id, out);
}
F(DeviceGetPciInfo)(Device device, Pci *out) { return JOIN(PREFIX, DeviceGetPciInfo_v3)(device, out); }

typedef struct { u64 total, free, used; } Memory;
typedef struct { u32 version; u64 total, reserved, free, used; } Memory2;
static int memory(Device device, Memory2 *out) {
    Device whole = &devices[device->index];
    u64 total = 0, used = 0;
    if (number(whole, "total", &total)) return NOT_SUPPORTED;
    if (device->part < 0) number(whole, "used", &used);
    out->total = device->part < 0 ? total : total / 8;
    out->reserved = 0;
    out->used = used;
    out->free = out->total - used;
    return OK;
}
F(DeviceGetMemoryInfo)(Device device, Memory *out) {
    ENTER(device);
    Memory2 read = {0};
    int code = memory(device, &read);
    *out = (Memory){read.total, read.free, read.used};
    return code;
}
F(DeviceGetMemoryInfo_v2)(Device device, Memory2 *out) {
    ENTER(device);
    return out->version == 0x2000028 ? memory(device, out) : 25; /* the argument's version */
}

typedef struct { u32 gpu, memory; } Rates;
F(DeviceGetUtilizationRates)(Device device, Rates *out) {
    ENTER(device);
    if (device->part >= 0) return NOT_SUPPORTED;
    number32(device, "memutil", &out->memory);
    return number32(device, "util", &out->gpu);
}

#define READ32(call, key) F(call)(Device device, u32 *out) { ENTER(device); return number32(device, key, out); }
#define READ64(call, key) F(call)(Device device, u64 *out) { ENTER(device); return number(device, key, out); }
READ32(DeviceGetPowerUsage, "power")
READ32(DeviceGetEnforcedPowerLimit, "limit")
READ32(DeviceGetPowerManagementLimit, "limit")
READ64(DeviceGetTotalEnergyConsumption, "energy")
READ64(DeviceGetCurrentClocksThrottleReasons, "throttle")
READ32(DeviceGetNumaNodeId, "numa")
READ32(DeviceGetRetiredPagesPendingStatus, "pending")

F(DeviceGetTemperature)(Device device, int sensor, u32 *out) {
    ENTER(device);
    return sensor == 0 ? number32(device, "temp", out) : NOT_SUPPORTED;
}
F(DeviceGetClockInfo)(Device device, int type, u32 *out) {
    ENTER(device);
    return number32(device, type == 2 ? "memclock" : "clock", out);
}
F(DeviceGetTotalEccErrors)(Device device, int kind, int counter, u64 *out) {
    ENTER(device);
    (void)counter;
    int code = number(&devices[device->index], kind ? "ecc_unc" : "ecc_corr", out);
    long growth = command("ecc", device->index, NULL);
    if (!code && kind && growth > 0) *out += (u64)growth;
    return code;
}
F(DeviceGetRemappedRows)(Device device, u32 *corrected, u32 *uncorrected, u32 *waiting, u32 *failed) {
    ENTER(device);
    *corrected = *waiting = *failed = 0;
    number32(device, "rows_pending", waiting);
    number32(device, "rows_failed", failed);
    return number32(device, "rows", uncorrected);
}

F(DeviceGetMigMode)(Device device, u32 *current, u32 *pending) {
    ENTER(device);
    u64 count = 0;
    if (number(device, "mig", &count)) return NOT_SUPPORTED;
    *current = *pending = count > 0;
    return OK;
}
F(DeviceGetMaxMigDeviceCount)(Device device, u32 *count) {
    ENTER(device);
    *count = 7; /* slots; not all of them hold a partition */
    return OK;
}
F(DeviceGetMigDeviceHandleByIndex)(Device device, u32 index, Device *part) {
    ENTER(device);
    u64 count = 0;
    number(device, "mig", &count);
    if (index >= count || index >= PARTS) return NOT_FOUND;
    *part = &parts[device->index][index];
    return OK;
}

typedef struct { u32 pid; u64 used; u32 gi, ci; } Process;
F(DeviceGetComputeRunningProcesses_v3)(Device device, u32 *count, Process *out) {
    ENTER(device);
    u64 pid = 0;
    if (number(device, "pid", &pid)) { *count = 0; return OK; }
    u32 room = *count;
    *count = 1;
    if (room < 1 || !out) return TOO_SMALL;
    out[0] = (Process){(u32)pid, 1ull << 30, 0xFFFFFFFF, 0xFFFFFFFF};
    return OK;
}
F(DeviceGetGraphicsRunningProcesses_v3)(Device device, u32 *count, Process *out) {
    ENTER(device);
    (void)out;
    *count = 0;
    return OK;
}

F(DeviceGetTopologyCommonAncestor)(Device a, Device b, int *level) {
    ENTER(a);
    *level = a->index / 4 == b->index / 4 ? 20 : 50;
    return OK;
}
F(DeviceGetNvLinkState)(Device device, u32 link, u32 *up) {
    ENTER(device);
    u64 count = 0;
    if (number(device, "links", &count) || link >= count) return INVALID;
    *up = 1;
    return OK;
}
F(DeviceGetNvLinkVersion)(Device device, u32 link, u32 *version) { ENTER(device); (void)link; *version = 4; return OK; }
F(DeviceGetNvLinkRemoteDeviceType)(Device device, u32 link, u32 *type) {
    ENTER(device);
    (void)link;
    *type = 2; /* a switch */
    return OK;
}
F(DeviceGetNvLinkRemotePciInfo_v2)(Device device, u32 link, Pci *out) {
    ENTER(device);
    (void)link;
    return pci("00000000:F0:00.0", 0, out);
}

typedef struct { u32 field, scope; long long at, latency; u32 type; int code; union { u32 small; u64 wide; } value; } Field;
F(DeviceGetFieldValues)(Device device, int count, Field *fields) {
    ENTER(device);
    for (int i = 0; i < count; i++) {
        u64 value = 0;
        const char *key = fields[i].field == 82 ? "memtemp" : fields[i].field == 38 ? "crc" : "none";
        fields[i].code = number(device, key, &value);
        fields[i].type = fields[i].field == 82 ? 1 : 3;
        fields[i].value.wide = value;
    }
    return OK;
}

F(EventSetCreate)(void **set) { static int one; memset(watched, 0, sizeof watched); *set = &one; return OK; }
F(EventSetFree)(void *set) { (void)set; return OK; }
F(DeviceGetSupportedEventTypes)(Device device, u64 *types) { ENTER(device); *types = 0x1F; return OK; }
F(DeviceRegisterEvents)(Device device, u64 types, void *set) {
    ENTER(device);
    (void)set;
    watched[device->index] = (types & 0x8) != 0;
    return OK;
}
typedef struct { Device device; u64 type, data; u32 gi, ci; } Event;
F(EventSetWait_v2)(void *set, Event *out, u32 wait_ms) {
    (void)set;
    for (u32 waited = 0;; waited += 10) {
        for (int i = 0; i < known; i++) {
            long xid = command("xid", i, NULL);
            if (xid > 0 && watched[i] && seen_xids[i] != xid) {
                seen_xids[i] = (int)xid;
                *out = (Event){&devices[i], 0x8, (u64)xid, 0xFFFFFFFF, 0xFFFFFFFF};
                return OK;
            }
        }
        if (waited >= wait_ms) return TIMEOUT;
        usleep(10 * 1000);
    }
}
