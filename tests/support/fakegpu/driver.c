/* A simulated NVIDIA driver: the part of NVML's ABI that pynvml calls, answered from files.
 *
 * $FAKE_GPU_STATE/gpus                    one line a device, tab-separated:
 *                                         index uuid name total_mib used_mib utilization [parent's uuid: MIG]
 * $FAKE_GPU_STATE/processes/<uuid>/<pid>  "kind memory_mib [ghost]"; empty: "compute 100"
 * $FAKE_GPU_STATE/fault                   the name of a fault; absent: none
 *
 * Every call reads the files again.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9, FUNCTION_NOT_FOUND = 13, GPU_IS_LOST = 15, LIB_RM_VERSION_MISMATCH = 18,
    ARGUMENT_VERSION_MISMATCH = 25, UNKNOWN = 999
};

#define MAX_GPUS 64
#define MAX_PROCESSES 1024
#define MAX_MIG 7
#define TEXT 96
#define MIB 1048576ULL
#define RESERVED_MIB 552ULL
#define NO_INSTANCE 0xFFFFFFFFu
#define MEMORY_V2 0x02000028u

typedef struct { char uuid[TEXT]; } Handle; /* a device as callers hold it: its uuid, at a lasting address */
typedef Handle *Device;

typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } MemoryV2;
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { unsigned pid; unsigned long long used; } ProcessV1;
typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } ProcessV2;
typedef struct {
    char bus_id_legacy[16];
    unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
    char bus_id[32];
} PciInfo;

typedef struct {
    unsigned index, utilization;
    unsigned long long total_mib, used_mib;
    char uuid[TEXT], name[TEXT], parent[TEXT];
} Gpu;
typedef struct { int count; Gpu gpu[MAX_GPUS]; } State;
typedef enum { COMPUTE, GRAPHICS, ANY } Kind;

static Handle handles[4 * MAX_GPUS];
static int handle_count;
static pthread_mutex_t handle_lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_int references;

/* ---- the state's files ---- */

static FILE *open_state(const char *name)
{
    char path[PATH_MAX];
    const char *folder = getenv("FAKE_GPU_STATE");
    if (!folder || snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path)
        return NULL;
    return fopen(path, "re");
}

static int fault_is(const char *name)
{
    char word[32] = "";
    FILE *file = open_state("fault");
    if (!file)
        return 0;
    int found = fscanf(file, "%31s", word);
    fclose(file);
    return found == 1 && strcmp(word, name) == 0;
}

static void copy(char *to, const char *from)
{
    strncpy(to, from, TEXT - 1);
    to[TEXT - 1] = 0;
}

static void load(State *state)
{
    char *line = NULL;
    size_t size = 0;
    FILE *file = open_state("gpus");
    state->count = 0;
    if (!file)
        return;
    while (state->count < MAX_GPUS && getline(&line, &size, file) > 0) {
        char *rest = line, *field[7] = {"0", "", "", "0", "0", "0", ""};
        line[strcspn(line, "\n")] = 0;
        for (int i = 0; i < 7 && rest; i++)
            field[i] = strsep(&rest, "\t");
        if (!*field[1])
            continue;
        Gpu *gpu = &state->gpu[state->count++];
        gpu->index = strtoul(field[0], NULL, 10);
        copy(gpu->uuid, field[1]);
        copy(gpu->name, field[2]);
        gpu->total_mib = strtoull(field[3], NULL, 10);
        gpu->used_mib = strtoull(field[4], NULL, 10);
        gpu->utilization = strtoul(field[5], NULL, 10);
        copy(gpu->parent, field[6]);
    }
    free(line);
    fclose(file);
}

static Gpu *by_uuid(State *state, const char *uuid)
{
    for (int i = 0; i < state->count; i++)
        if (strcmp(state->gpu[i].uuid, uuid) == 0)
            return &state->gpu[i];
    return NULL;
}

/* The device with this index among the physical ones (parent "") or among a parent's MIG devices. */
static Gpu *by_index(State *state, const char *parent, unsigned index)
{
    for (int i = 0; i < state->count; i++)
        if (strcmp(state->gpu[i].parent, parent) == 0 && state->gpu[i].index == index)
            return &state->gpu[i];
    return NULL;
}

static int children(const State *state, const char *parent)
{
    int count = 0;
    for (int i = 0; i < state->count; i++)
        count += strcmp(state->gpu[i].parent, parent) == 0;
    return count;
}

static int mig_capable(const Gpu *gpu)
{
    static const char *models[] = {"A100", "A30", "H100", "H200", "B200", NULL};
    for (const char **model = models; *model; model++) {
        const char *at = strstr(gpu->name, *model);
        if (at && !isdigit((unsigned char)at[strlen(*model)]))
            return 1;
    }
    return 0;
}

static int alive(long pid)
{
    char path[64], line[512];
    snprintf(path, sizeof path, "/proc/%ld/stat", pid);
    FILE *file = fopen(path, "re");
    if (!file)
        return errno != ENOENT;
    char *end = fgets(line, sizeof line, file) ? strrchr(line, ')') : NULL;
    fclose(file);
    return end && end[1] == ' ' && end[2] != 'Z' && end[2] != 'X'; /* a zombie has closed its GPU */
}

static int by_pid(const void *a, const void *b)
{
    unsigned x = ((const ProcessV2 *)a)->pid, y = ((const ProcessV2 *)b)->pid;
    return (x > y) - (x < y);
}

/* Adds the processes of one device to `out`; returns the new count. */
static int list_one(const Gpu *gpu, Kind kind, ProcessV2 *out, int count)
{
    char name[PATH_MAX];
    const char *folder = getenv("FAKE_GPU_STATE");
    int first = count;
    if (!folder || snprintf(name, sizeof name, "%s/processes/%s", folder, gpu->uuid) >= (int)sizeof name)
        return count;
    DIR *dir = opendir(name);
    if (!dir)
        return count;
    for (struct dirent *entry; count < MAX_PROCESSES && (entry = readdir(dir));) {
        char *end, word[16] = "compute", ghost[16] = "";
        unsigned long long mib = 100;
        long pid = isdigit((unsigned char)entry->d_name[0]) ? strtol(entry->d_name, &end, 10) : 0;
        if (pid <= 0 || *end)
            continue;
        if (snprintf(name, sizeof name, "processes/%s/%ld", gpu->uuid, pid) >= (int)sizeof name)
            continue;
        FILE *file = open_state(name);
        if (!file)
            continue;
        int words = fscanf(file, "%15s %llu %15s", word, &mib, ghost); /* missing words: the defaults stay */
        fclose(file);
        if ((words < 3 || strcmp(ghost, "ghost") != 0) && !alive(pid))
            continue;
        if (kind != ANY && kind != (strcmp(word, "graphics") == 0 ? GRAPHICS : COMPUTE))
            continue;
        out[count++] = (ProcessV2){(unsigned)pid, mib * MIB, *gpu->parent ? gpu->index + 1 : NO_INSTANCE,
                                   *gpu->parent ? 0 : NO_INSTANCE};
    }
    closedir(dir);
    qsort(out + first, count - first, sizeof *out, by_pid);
    return count;
}

/* A device's processes; a MIG parent's are those of its MIG devices too. */
static int list(const State *state, const Gpu *gpu, Kind kind, ProcessV2 *out)
{
    int count = list_one(gpu, kind, out, 0);
    for (int i = 0; i < state->count; i++)
        if (strcmp(state->gpu[i].parent, gpu->uuid) == 0)
            count = list_one(&state->gpu[i], kind, out, count);
    return count;
}

static void memory(const State *state, const Gpu *gpu, MemoryV2 *out)
{
    ProcessV2 found[MAX_PROCESSES];
    unsigned long long used = gpu->used_mib * MIB, reserved = *gpu->parent ? 0 : RESERVED_MIB * MIB;
    for (int i = 0, n = list(state, gpu, ANY, found); i < n; i++)
        used += found[i].used;
    for (int i = 0; i < state->count; i++)
        if (strcmp(state->gpu[i].parent, gpu->uuid) == 0)
            used += state->gpu[i].used_mib * MIB;
    out->total = gpu->total_mib * MIB;
    out->reserved = reserved < out->total ? reserved : out->total;
    out->used = used < out->total - out->reserved ? used : out->total - out->reserved;
    out->free = out->total - out->reserved - out->used;
}

/* ---- what every call passes ---- */

static void hang(void)
{
    struct timespec left = {3600, 0};
    while (nanosleep(&left, &left) != 0)
        ;
}

static int enter(void)
{
    if (references <= 0)
        return UNINITIALIZED;
    if (fault_is("hang"))
        hang();
    return fault_is("unknown") ? UNKNOWN : OK;
}

static int give(const Gpu *gpu, Device *out)
{
    int rc = OK, i = 0;
    pthread_mutex_lock(&handle_lock);
    while (i < handle_count && strcmp(handles[i].uuid, gpu->uuid) != 0)
        i++;
    if (i == (int)(sizeof handles / sizeof *handles))
        rc = UNKNOWN;
    else if (i == handle_count)
        copy(handles[handle_count++].uuid, gpu->uuid);
    pthread_mutex_unlock(&handle_lock);
    if (rc == OK)
        *out = &handles[i];
    return rc;
}

static int enter_devices(State *state)
{
    int rc = enter();
    if (rc == OK && fault_is("lost"))
        rc = GPU_IS_LOST;
    if (rc == OK)
        load(state);
    return rc;
}

static int enter_device(Device device, State *state, Gpu **gpu)
{
    int rc = enter_devices(state);
    if (rc != OK)
        return rc;
    if (device < handles || device >= handles + sizeof handles / sizeof *handles || !*device->uuid)
        return INVALID_ARGUMENT;
    *gpu = by_uuid(state, device->uuid);
    return *gpu ? OK : GPU_IS_LOST;
}

#define ENTER_DEVICE(device) \
    State state; \
    Gpu *gpu = NULL; \
    int rc = enter_device(device, &state, &gpu); \
    if (rc != OK) \
    return rc

static int put(char *to, unsigned size, const char *text)
{
    if (!to)
        return INVALID_ARGUMENT;
    if (strlen(text) >= size)
        return INSUFFICIENT_SIZE;
    strcpy(to, text);
    return OK;
}

/* ---- NVML ---- */

int nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    if (fault_is("crash"))
        abort();
    if (fault_is("hang-init"))
        hang();
    if (fault_is("not-loaded") || !getenv("FAKE_GPU_STATE"))
        return DRIVER_NOT_LOADED;
    if (fault_is("mismatch"))
        return LIB_RM_VERSION_MISMATCH;
    references++;
    return OK;
}

int nvmlInit(void) { return nvmlInitWithFlags(0); }
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

int nvmlShutdown(void)
{
    if (references <= 0)
        return UNINITIALIZED;
    if (fault_is("hang"))
        hang();
    references--;
    return OK;
}

const char *nvmlErrorString(int code)
{
    switch (code) {
    case OK: return "Success";
    case UNINITIALIZED: return "Uninitialized";
    case INVALID_ARGUMENT: return "Invalid Argument";
    case NOT_SUPPORTED: return "Not Supported";
    case NOT_FOUND: return "Not Found";
    case INSUFFICIENT_SIZE: return "Insufficient Size";
    case DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case FUNCTION_NOT_FOUND: return "Function Not Found";
    case GPU_IS_LOST: return "GPU is lost";
    case LIB_RM_VERSION_MISMATCH: return "Driver/library version mismatch";
    case ARGUMENT_VERSION_MISMATCH: return "Argument version mismatch";
    default: return "Unknown Error";
    }
}

static const char *driver_version(void) { return fault_is("old-driver") ? "470.57.02" : "550.54.15"; }

int nvmlSystemGetDriverVersion(char *version, unsigned length)
{
    int rc = enter();
    return rc != OK ? rc : put(version, length, driver_version());
}

int nvmlSystemGetNVMLVersion(char *version, unsigned length)
{
    int rc = enter();
    return rc != OK ? rc : put(version, length, fault_is("old-driver") ? "11.470.57.02" : "12.550.54.15");
}

int nvmlSystemGetCudaDriverVersion(int *version)
{
    int rc = enter();
    if (rc == OK)
        *version = fault_is("old-driver") ? 11040 : 12040;
    return rc;
}

int nvmlSystemGetCudaDriverVersion_v2(int *version) { return nvmlSystemGetCudaDriverVersion(version); }

int nvmlDeviceGetCount_v2(unsigned *count)
{
    State state;
    int rc = enter();
    if (rc != OK)
        return rc;
    load(&state);
    *count = children(&state, "");
    return OK;
}

int nvmlDeviceGetCount(unsigned *count) { return nvmlDeviceGetCount_v2(count); }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device *device)
{
    State state;
    int rc = enter_devices(&state);
    if (rc != OK)
        return rc;
    Gpu *gpu = by_index(&state, "", index);
    return gpu ? give(gpu, device) : INVALID_ARGUMENT;
}

int nvmlDeviceGetHandleByIndex(unsigned index, Device *device)
{
    return nvmlDeviceGetHandleByIndex_v2(index, device);
}

int nvmlDeviceGetHandleByUUID(const char *uuid, Device *device)
{
    State state;
    int rc = enter_devices(&state);
    if (rc != OK)
        return rc;
    if (!uuid)
        return INVALID_ARGUMENT;
    Gpu *gpu = by_uuid(&state, uuid);
    return gpu ? give(gpu, device) : NOT_FOUND;
}

int nvmlDeviceGetUUID(Device device, char *uuid, unsigned length)
{
    ENTER_DEVICE(device);
    return put(uuid, length, gpu->uuid);
}

int nvmlDeviceGetName(Device device, char *name, unsigned length)
{
    ENTER_DEVICE(device);
    return put(name, length, gpu->name);
}

int nvmlDeviceGetIndex(Device device, unsigned *index)
{
    ENTER_DEVICE(device);
    *index = gpu->index;
    return OK;
}

int nvmlDeviceGetMinorNumber(Device device, unsigned *minor)
{
    ENTER_DEVICE(device);
    if (*gpu->parent)
        return NOT_SUPPORTED;
    *minor = gpu->index;
    return OK;
}

int nvmlDeviceGetMemoryInfo(Device device, Memory *out)
{
    MemoryV2 found;
    ENTER_DEVICE(device);
    memory(&state, gpu, &found);
    *out = (Memory){found.total, found.free, found.used + found.reserved};
    return OK;
}

int nvmlDeviceGetMemoryInfo_v2(Device device, MemoryV2 *out)
{
    ENTER_DEVICE(device);
    if (fault_is("old-driver"))
        return FUNCTION_NOT_FOUND;
    if (out->version != MEMORY_V2)
        return ARGUMENT_VERSION_MISMATCH;
    memory(&state, gpu, out);
    return OK;
}

int nvmlDeviceGetUtilizationRates(Device device, Utilization *out)
{
    ENTER_DEVICE(device);
    if (*gpu->parent || children(&state, gpu->uuid))
        return NOT_SUPPORTED;
    *out = (Utilization){gpu->utilization, 0};
    return OK;
}

static int running(Device device, Kind kind, int version, unsigned *count, void *out)
{
    ProcessV2 found[MAX_PROCESSES];
    ENTER_DEVICE(device);
    if (version == 3 && fault_is("old-driver"))
        return FUNCTION_NOT_FOUND;
    if (!count || (*count && !out))
        return INVALID_ARGUMENT;
    unsigned room = *count, n = list(&state, gpu, kind, found);
    *count = n;
    if (room < n)
        return INSUFFICIENT_SIZE;
    for (unsigned i = 0; i < n; i++)
        if (version == 1)
            ((ProcessV1 *)out)[i] = (ProcessV1){found[i].pid, found[i].used};
        else
            ((ProcessV2 *)out)[i] = found[i];
    return OK;
}

#define RUNNING(symbol, kind, version) \
    int symbol(Device device, unsigned *count, void *out) { return running(device, kind, version, count, out); }
RUNNING(nvmlDeviceGetComputeRunningProcesses, COMPUTE, 1)
RUNNING(nvmlDeviceGetComputeRunningProcesses_v2, COMPUTE, 2)
RUNNING(nvmlDeviceGetComputeRunningProcesses_v3, COMPUTE, 3)
RUNNING(nvmlDeviceGetGraphicsRunningProcesses, GRAPHICS, 1)
RUNNING(nvmlDeviceGetGraphicsRunningProcesses_v2, GRAPHICS, 2)
RUNNING(nvmlDeviceGetGraphicsRunningProcesses_v3, GRAPHICS, 3)

int nvmlDeviceGetMigMode(Device device, unsigned *current, unsigned *pending)
{
    ENTER_DEVICE(device);
    int enabled = children(&state, gpu->uuid) > 0;
    if (*gpu->parent || (!enabled && !mig_capable(gpu)))
        return NOT_SUPPORTED;
    *current = *pending = enabled;
    return OK;
}

int nvmlDeviceGetMaxMigDeviceCount(Device device, unsigned *count)
{
    ENTER_DEVICE(device);
    *count = children(&state, gpu->uuid) ? MAX_MIG : 0;
    return OK;
}

int nvmlDeviceGetMigDeviceHandleByIndex(Device device, unsigned index, Device *mig)
{
    ENTER_DEVICE(device);
    if (!children(&state, gpu->uuid))
        return NOT_SUPPORTED;
    if (index >= MAX_MIG)
        return INVALID_ARGUMENT;
    Gpu *child = by_index(&state, gpu->uuid, index);
    return child ? give(child, mig) : NOT_FOUND;
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(Device mig, Device *device)
{
    ENTER_DEVICE(mig);
    if (!*gpu->parent)
        return INVALID_ARGUMENT;
    gpu = by_uuid(&state, gpu->parent);
    return gpu ? give(gpu, device) : GPU_IS_LOST;
}

int nvmlDeviceIsMigDeviceHandle(Device device, unsigned *is_mig)
{
    ENTER_DEVICE(device);
    *is_mig = *gpu->parent != 0;
    return OK;
}

int nvmlDeviceGetGpuInstanceId(Device device, unsigned *id)
{
    ENTER_DEVICE(device);
    if (!*gpu->parent)
        return NOT_SUPPORTED;
    *id = gpu->index + 1;
    return OK;
}

int nvmlDeviceGetComputeInstanceId(Device device, unsigned *id)
{
    ENTER_DEVICE(device);
    if (!*gpu->parent)
        return NOT_SUPPORTED;
    *id = 0;
    return OK;
}

int nvmlDeviceGetPciInfo_v3(Device device, PciInfo *out)
{
    ENTER_DEVICE(device);
    if (*gpu->parent && !(gpu = by_uuid(&state, gpu->parent)))
        return GPU_IS_LOST;
    memset(out, 0, sizeof *out);
    out->bus = (gpu->index + 1) & 0xFF;
    out->pci_device_id = 0x20B210DE;
    out->pci_subsystem_id = 0x146310DE;
    snprintf(out->bus_id_legacy, sizeof out->bus_id_legacy, "0000:%02X:00.0", out->bus & 0xFF);
    snprintf(out->bus_id, sizeof out->bus_id, "00000000:%02X:00.0", out->bus & 0xFF);
    return OK;
}

int nvmlDeviceGetComputeMode(Device device, unsigned *mode)
{
    ENTER_DEVICE(device);
    *mode = 0;
    return OK;
}
