/* A simulated nvidia-smi: prints what the simulated driver answers. */
#include "driver.c"

#include <stdarg.h>

static int header, units;

static int end(int rc, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    return rc;
}

static int failed(int rc, unsigned index)
{
    printf("Unable to determine the device handle for GPU%u: 0000:%02X:00.0: %s%s\n", index, index + 1,
           nvmlErrorString(rc), rc == GPU_IS_LOST ? ".  Reboot the system to recover this GPU" : "");
    return rc == GPU_IS_LOST ? rc : 255;
}

static int smi_memory(Device device, MemoryV2 *out)
{
    Memory old;
    out->version = MEMORY_V2;
    int rc = nvmlDeviceGetMemoryInfo_v2(device, out);
    if (rc != FUNCTION_NOT_FOUND)
        return rc;
    rc = nvmlDeviceGetMemoryInfo(device, &old);
    out->total = old.total;
    out->used = old.used;
    return rc;
}

static int list_gpus(unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        Device device, mig;
        char name[TEXT], uuid[TEXT];
        unsigned max = 0;
        int rc = nvmlDeviceGetHandleByIndex_v2(i, &device);
        if (rc == OK)
            rc = nvmlDeviceGetName(device, name, sizeof name);
        if (rc == OK)
            rc = nvmlDeviceGetUUID(device, uuid, sizeof uuid);
        if (rc != OK)
            return failed(rc, i);
        printf("GPU %u: %s (UUID: %s)\n", i, name, uuid);
        nvmlDeviceGetMaxMigDeviceCount(device, &max);
        for (unsigned m = 0; m < max; m++) {
            if (nvmlDeviceGetMigDeviceHandleByIndex(device, m, &mig) != OK ||
                nvmlDeviceGetName(mig, name, sizeof name) != OK || nvmlDeviceGetUUID(mig, uuid, sizeof uuid) != OK)
                continue;
            const char *profile = strstr(name, "MIG ");
            printf("  MIG %-12sDevice %2u: (UUID: %s)\n", profile ? profile + 4 : name, m, uuid);
        }
    }
    return 0;
}

static const char *unit_of(const char *field)
{
    if (strcmp(field, "memory.total") == 0 || strcmp(field, "memory.used") == 0 || strncmp(field, "used_", 5) == 0)
        return "MiB";
    return strcmp(field, "utilization.gpu") == 0 ? "%" : "";
}

static void print_unit(const char *field)
{
    if (units && *unit_of(field))
        printf(" %s", unit_of(field));
}

/* Splits a list of field names; returns their count, or 0 after saying which one is unknown. */
static int split(char *text, const char **field, const char *const *known)
{
    int count = 0;
    for (char *name; count < 32 && (name = strsep(&text, ","));) {
        int i = 0;
        name += strspn(name, " ");
        while (known[i] && strcmp(known[i], name) != 0)
            i++;
        if (!known[i])
            return end(0, "Field \"%s\" is not a valid field to query.\n\n", name);
        field[count++] = known[i];
    }
    for (int i = 0; header && i < count; i++)
        printf(units && *unit_of(field[i]) ? "%s%s [%s]" : "%s%s", i ? ", " : "", field[i], unit_of(field[i]));
    if (header)
        putchar('\n');
    return count;
}

static int query_gpu(char *text, unsigned count)
{
    static const char *const known[] = {"index", "uuid", "name", "memory.total", "memory.used", "utilization.gpu",
                                        "driver_version", "mig.mode.current", NULL};
    const char *field[32];
    int fields = split(text, field, known);
    if (!fields)
        return 2;
    for (unsigned i = 0; i < count; i++) {
        Device device;
        MemoryV2 mem;
        Utilization load;
        char name[TEXT], uuid[TEXT], version[TEXT];
        unsigned mode, pending;
        int rc = nvmlDeviceGetHandleByIndex_v2(i, &device);
        if (rc == OK)
            rc = smi_memory(device, &mem);
        if (rc == OK)
            rc = nvmlDeviceGetName(device, name, sizeof name);
        if (rc == OK)
            rc = nvmlDeviceGetUUID(device, uuid, sizeof uuid);
        if (rc == OK)
            rc = nvmlSystemGetDriverVersion(version, sizeof version);
        if (rc != OK)
            return failed(rc, i);
        int has_load = nvmlDeviceGetUtilizationRates(device, &load) == OK;
        int has_mode = nvmlDeviceGetMigMode(device, &mode, &pending) == OK;
        for (int f = 0; f < fields; f++) {
            const char *it = field[f];
            printf("%s", f ? ", " : "");
            if (it == known[0])
                printf("%u", i);
            else if (it == known[1])
                printf("%s", uuid);
            else if (it == known[2])
                printf("%s", name);
            else if (it == known[3] || it == known[4])
                printf("%llu", (it == known[3] ? mem.total : mem.used) / MIB);
            else if (it == known[5] && has_load)
                printf("%u", load.gpu);
            else if (it == known[6])
                printf("%s", version);
            else if (it == known[7] && has_mode)
                printf("%s", mode ? "Enabled" : "Disabled");
            else {
                printf("[N/A]");
                continue;
            }
            print_unit(it);
        }
        putchar('\n');
    }
    return 0;
}

static int query_apps(char *text, unsigned count)
{
    static const char *const known[] = {"gpu_uuid", "pid", "used_memory", "used_gpu_memory", NULL};
    const char *field[32];
    int fields = split(text, field, known);
    if (!fields)
        return 2;
    for (unsigned i = 0; i < count; i++) {
        static ProcessV2 found[MAX_PROCESSES];
        unsigned n = MAX_PROCESSES;
        char uuid[TEXT];
        Device device;
        int rc = nvmlDeviceGetHandleByIndex_v2(i, &device);
        if (rc == OK)
            rc = nvmlDeviceGetUUID(device, uuid, sizeof uuid);
        if (rc == OK)
            rc = nvmlDeviceGetComputeRunningProcesses_v2(device, &n, found);
        if (rc != OK)
            return failed(rc, i);
        for (unsigned p = 0; p < n; p++) {
            for (int f = 0; f < fields; f++) {
                printf("%s", f ? ", " : "");
                if (field[f] == known[0])
                    printf("%s", uuid);
                else if (field[f] == known[1])
                    printf("%u", found[p].pid);
                else
                    printf("%llu", found[p].used / MIB);
                print_unit(field[f]);
            }
            putchar('\n');
        }
    }
    return 0;
}

int main(int argc, char **argv)
{
    static const char gpu_flag[] = "--query-gpu=", apps_flag[] = "--query-compute-apps=", format_flag[] = "--format=";
    char *gpu_fields = NULL, *app_fields = NULL, *format = NULL, version[TEXT];
    int listing = 0, cuda = 0, rc;
    unsigned count = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "-L") == 0 || strcmp(argv[i], "--list-gpus") == 0)
            listing = 1;
        else if (strncmp(argv[i], gpu_flag, sizeof gpu_flag - 1) == 0)
            gpu_fields = argv[i] + sizeof gpu_flag - 1;
        else if (strncmp(argv[i], apps_flag, sizeof apps_flag - 1) == 0)
            app_fields = argv[i] + sizeof apps_flag - 1;
        else if (strncmp(argv[i], format_flag, sizeof format_flag - 1) == 0)
            format = argv[i] + sizeof format_flag - 1;
        else
            return end(2, "Option %s is not recognized. Please run 'nvidia-smi -h'.\n", argv[i]);
    }
    if ((gpu_fields || app_fields) && (!format || strncmp(format, "csv", 3) != 0))
        return end(2, "\"--format=\" switch is missing. Please run 'nvidia-smi -h' for help.\n");
    header = format && !strstr(format, "noheader");
    units = format && !strstr(format, "nounits");

    rc = nvmlInit_v2();
    if (rc == DRIVER_NOT_LOADED)
        return end(rc, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that "
                       "the latest NVIDIA driver is installed and running.\n\n");
    if (rc != OK)
        return end(rc == LIB_RM_VERSION_MISMATCH ? rc : 255, "Failed to initialize NVML: %s\n%s", nvmlErrorString(rc),
                   rc == LIB_RM_VERSION_MISMATCH ? "NVML library version: 550.54\n" : "");
    rc = nvmlDeviceGetCount_v2(&count);
    if (rc == OK)
        rc = nvmlSystemGetDriverVersion(version, sizeof version);
    if (rc == OK)
        rc = nvmlSystemGetCudaDriverVersion(&cuda);
    if (rc != OK)
        return failed(rc, 0);
    if (count == 0)
        return end(6, "No devices were found\n");
    if (listing)
        return list_gpus(count);
    if (gpu_fields)
        return query_gpu(gpu_fields, count);
    if (app_fields)
        return query_apps(app_fields, count);
    printf("| NVIDIA-SMI %-22s Driver Version: %-14s CUDA Version: %d.%-6d |\n", version, version, cuda / 1000,
           cuda % 1000 / 10);
    return 0;
}
