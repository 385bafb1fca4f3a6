/* A libnvidia-ml.so.1 without a GPU: it answers from a text file that a test edits while gpud runs.
 *
 * The file, named by $FAKENVML_CONFIG, is read anew at every call, so there is nothing to reload and nothing stale
 * (write it by rename). A line is one of these; those after a `gpu` line are that GPU's, those before the first any's:
 *
 *     driver 550.54.15                   what nvmlSystemGetDriverVersion says
 *     log FILE                           append the name of every call to FILE
 *     gpu UUID                           the next GPU, in the order of their indices
 *     name NVIDIA H100 80GB HBM3         pci 00000000:01:00.0
 *     total_mib N   used_mib N   utilization N   temperature N   power_mw N   mig 1
 *     process PID MIB KIND               a process, dead or alive; KIND is compute, graphics or mps; MIB - for unknown
 *     live PID MIB KIND                  the same, while that process lives
 *     pids DIR                           a `live` process for each file DIR/PID that holds "MIB KIND"
 *     lost                               the GPU fell off the bus
 *     error CALL CODE                    CALL (nvmlDeviceGetPowerUsage) answers this nvmlReturn_t
 *     delay CALL MILLISECONDS            CALL, or * for all, takes this long, or until the line is gone
 *
 * Compiled with -DOLD_DRIVER it lacks the symbols that drivers before R510 lack. Layouts and numbers are nvml.h's.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, INSUFFICIENT_SIZE = 7, NOT_LOADED = 9, LOST = 15, VERSION = 25 };
enum { GPUS = 64, PROCESSES = 256, RULES = 64, TEXT = 256 };

typedef struct { char uuid[96]; } *Handle; /* stays valid for ever, whatever becomes of its GPU */
typedef struct { unsigned pid; unsigned long long used; unsigned instance, compute_instance; } Process;
typedef struct { char call[64]; int gpu, code; long delay_ms; } Rule;
typedef struct {
    char uuid[96], name[96], pci[32];
    unsigned long long total, used;
    unsigned utilization, temperature, power_mw, mig;
    int lost, count;
    Process processes[PROCESSES];
    char kinds[PROCESSES];
} Gpu;
typedef struct {
    char driver[80], log[TEXT];
    int count, rules;
    Gpu gpus[GPUS];
    Rule rule[RULES];
} Config;

static int alive(unsigned pid) {
    char path[64], text[512], *state;
    snprintf(path, sizeof path, "/proc/%u/stat", pid);
    FILE *file = fopen(path, "re");
    if (!file) return 0;
    size_t size = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[size] = 0;
    state = strrchr(text, ')');
    return state && !strchr("ZX", state[2]);
}

static void add_process(Gpu *gpu, unsigned pid, const char *mib, const char *kind) {
    if (gpu->count == PROCESSES) return;
    gpu->kinds[gpu->count] = kind[0];
    gpu->processes[gpu->count++] = (Process){
        pid, mib[0] == '-' ? ~0ULL : strtoull(mib, 0, 10) << 20, 0xFFFFFFFF, 0xFFFFFFFF};
}

static void add_pids(Gpu *gpu, const char *folder) {
    DIR *dir = opendir(folder);
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        char path[2 * TEXT + 8], mib[32] = "-", kind[32] = "compute";
        unsigned pid = strtoul(entry->d_name, 0, 10);
        if (!pid || !alive(pid)) continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        FILE *file = fopen(path, "re");
        if (!file) continue;
        if (fscanf(file, "%31s %31s", mib, kind) < 0) mib[0] = '-';
        fclose(file);
        add_process(gpu, pid, mib, kind);
    }
    if (dir) closedir(dir);
}

static void add_rule(Config *config, const char *call, int code, long delay_ms) {
    if (config->rules == RULES) return;
    Rule *rule = &config->rule[config->rules++];
    *rule = (Rule){.gpu = config->count - 1, .code = code, .delay_ms = delay_ms};
    snprintf(rule->call, sizeof rule->call, "%s", call);
}

static void parse(Config *config, char *line) {
    char key[32] = "", rest[TEXT] = "", first[TEXT] = "", second[64] = "", third[32] = "";
    Gpu *gpu = config->count ? &config->gpus[config->count - 1] : NULL;
    line[strcspn(line, "\n#")] = 0;
    if (sscanf(line, " %31s %255[^\n]", key, rest) < 1) return;
    sscanf(rest, "%255s %63s %31s", first, second, third);
    if (!strcmp(key, "driver")) snprintf(config->driver, sizeof config->driver, "%.79s", first);
    else if (!strcmp(key, "log")) snprintf(config->log, sizeof config->log, "%s", first);
    else if (!strcmp(key, "error")) add_rule(config, first, atoi(second), 0);
    else if (!strcmp(key, "delay")) add_rule(config, first, -1, atol(second));
    else if (!strcmp(key, "gpu") && config->count < GPUS) {
        gpu = &config->gpus[config->count++];
        snprintf(gpu->uuid, sizeof gpu->uuid, "%.95s", first);
        snprintf(gpu->name, sizeof gpu->name, "NVIDIA Fake");
        snprintf(gpu->pci, sizeof gpu->pci, "00000000:%02X:00.0", config->count);
        gpu->total = 24564ULL << 20;
        gpu->used = 4ULL << 20;
        gpu->temperature = 30;
        gpu->power_mw = 20000;
    } else if (!gpu) return;
    else if (!strcmp(key, "name")) snprintf(gpu->name, sizeof gpu->name, "%.95s", rest);
    else if (!strcmp(key, "pci")) snprintf(gpu->pci, sizeof gpu->pci, "%.31s", first);
    else if (!strcmp(key, "total_mib")) gpu->total = strtoull(first, 0, 10) << 20;
    else if (!strcmp(key, "used_mib")) gpu->used = strtoull(first, 0, 10) << 20;
    else if (!strcmp(key, "utilization")) gpu->utilization = atoi(first);
    else if (!strcmp(key, "temperature")) gpu->temperature = atoi(first);
    else if (!strcmp(key, "power_mw")) gpu->power_mw = atoi(first);
    else if (!strcmp(key, "mig")) gpu->mig = atoi(first);
    else if (!strcmp(key, "lost")) gpu->lost = 1;
    else if (!strcmp(key, "pids")) add_pids(gpu, first);
    else if (!strcmp(key, "process") || (!strcmp(key, "live") && alive(strtoul(first, 0, 10))))
        add_process(gpu, strtoul(first, 0, 10), second, third);
}

static Config *read_config(void) {
    const char *path = getenv("FAKENVML_CONFIG");
    FILE *file = path ? fopen(path, "re") : NULL;
    Config *config = calloc(1, sizeof *config);
    char line[2 * TEXT];
    snprintf(config->driver, sizeof config->driver, "550.54.15");
    while (file && fgets(line, sizeof line, file)) parse(config, line);
    if (file) fclose(file);
    else add_rule(config, "nvmlInitWithFlags", NOT_LOADED, 0);
    return config;
}

static int index_of(const Config *config, Handle handle) {
    for (int at = 0; handle && at < config->count; at++)
        if (!strcmp(config->gpus[at].uuid, handle->uuid)) return at;
    return -1;
}

static int concerns(const Rule *rule, const char *call, int gpu) {
    return (rule->gpu < 0 || rule->gpu == gpu) && (!strcmp(rule->call, "*") || !strcmp(rule->call, call));
}

/* Begin a call: log it, take its time, and return what it must answer if it may not succeed. `*gpu` is set on success. */
static int enter(const char *call, Handle handle, int at, Config **out, Gpu **gpu) {
    struct timespec step = {0, 5000000};
    Config *config = read_config();
    if (config->log[0]) {
        int fd = open(config->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        char line[80];
        int size = snprintf(line, sizeof line, "%s\n", call);
        if (fd >= 0 && write(fd, line, size) < 0) perror("fakenvml log");
        if (fd >= 0) close(fd);
    }
    for (long waited_ms = 0;; waited_ms += 5) {
        long delay_ms = 0;
        if (handle) at = index_of(config, handle);
        for (int rule = 0; rule < config->rules; rule++)
            if (concerns(&config->rule[rule], call, at) && config->rule[rule].delay_ms > delay_ms)
                delay_ms = config->rule[rule].delay_ms;
        if (waited_ms >= delay_ms) break;
        nanosleep(&step, NULL);
        free(config);
        config = read_config();
    }
    *out = config;
    for (int rule = 0; rule < config->rules; rule++)
        if (config->rule[rule].code >= 0 && concerns(&config->rule[rule], call, at)) return config->rule[rule].code;
    if (!gpu) return SUCCESS;
    if (at < 0 || at >= config->count) return handle ? LOST : INVALID_ARGUMENT;
    *gpu = &config->gpus[at];
    return (*gpu)->lost ? LOST : SUCCESS;
}

static Handle handle_of(const char *uuid) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static Handle known[1024];
    Handle found = NULL;
    pthread_mutex_lock(&lock);
    for (int at = 0; at < 1024 && !found; at++) {
        if (!known[at]) {
            known[at] = calloc(1, sizeof *known[at]);
            snprintf(known[at]->uuid, sizeof known[at]->uuid, "%.95s", uuid);
        }
        if (!strcmp(known[at]->uuid, uuid)) found = known[at];
    }
    pthread_mutex_unlock(&lock);
    return found;
}

static int processes(const char *call, Handle handle, unsigned *count, Process *out, char kind) {
    Config *config;
    Gpu *gpu;
    int result = enter(call, handle, -1, &config, &gpu);
    unsigned found = 0;
    for (int at = 0; !result && at < gpu->count; at++) {
        if (gpu->kinds[at] != kind) continue;
        if (out && found < *count) out[found] = gpu->processes[at];
        found++;
    }
    if (!result) {
        if (found > (out ? *count : 0)) result = INSUFFICIENT_SIZE;
        *count = found;
    }
    free(config);
    return result;
}

#define SYSTEM(name, parameters, statement)                    \
    int name parameters {                                      \
        Config *config;                                        \
        int result = enter(#name, NULL, -1, &config, NULL);    \
        if (!result) { statement; }                            \
        free(config);                                          \
        return result;                                         \
    }
#define DEVICE(name, parameters, statement)                    \
    int name parameters {                                      \
        Config *config;                                        \
        Gpu *gpu;                                              \
        int result = enter(#name, handle, -1, &config, &gpu);  \
        if (!result) { statement; }                            \
        free(config);                                          \
        return result;                                         \
    }
#define PROCESS_LIST(name, kind) \
    int name(Handle handle, unsigned *count, Process *out) { return processes(#name, handle, count, out, kind); }

typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory2;
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { unsigned version, sensor; int temperature; } Temperature;
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } Pci;

SYSTEM(nvmlInitWithFlags, (unsigned flags), (void)flags)
SYSTEM(nvmlInit_v2, (void), )
SYSTEM(nvmlShutdown, (void), )
SYSTEM(nvmlSystemGetDriverVersion, (char *out, unsigned size), snprintf(out, size, "%s", config->driver))
SYSTEM(nvmlDeviceGetCount_v2, (unsigned *count), *count = config->count)

const char *nvmlErrorString(int code) {
    switch (code) {
    case INVALID_ARGUMENT: return "Invalid Argument";
    case 3: return "Not Supported";
    case 4: return "Insufficient Permissions";
    case NOT_LOADED: return "Driver Not Loaded";
    case LOST: return "GPU is lost";
    case 18: return "Driver/library version mismatch";
    default: return "Unknown Error";
    }
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Handle *out) {
    Config *config;
    Gpu *gpu;
    int result = enter("nvmlDeviceGetHandleByIndex_v2", NULL, index, &config, &gpu);
    if (!result) *out = handle_of(gpu->uuid);
    free(config);
    return result;
}

DEVICE(nvmlDeviceGetUUID, (Handle handle, char *out, unsigned size), snprintf(out, size, "%s", gpu->uuid))
DEVICE(nvmlDeviceGetName, (Handle handle, char *out, unsigned size), snprintf(out, size, "%s", gpu->name))
DEVICE(nvmlDeviceGetIndex, (Handle handle, unsigned *out), *out = gpu - config->gpus)
DEVICE(nvmlDeviceGetPciInfo_v3, (Handle handle, Pci *out), snprintf(out->bus_id, sizeof out->bus_id, "%s", gpu->pci))
DEVICE(nvmlDeviceGetMemoryInfo, (Handle handle, Memory *out),
       *out = ((Memory){gpu->total, gpu->total - gpu->used, gpu->used}))
DEVICE(nvmlDeviceGetUtilizationRates, (Handle handle, Utilization *out), *out = ((Utilization){gpu->utilization, 0}))
DEVICE(nvmlDeviceGetPowerUsage, (Handle handle, unsigned *out), *out = gpu->power_mw)
DEVICE(nvmlDeviceGetTemperature, (Handle handle, unsigned sensor, unsigned *out), *out = gpu->temperature; (void)sensor)
PROCESS_LIST(nvmlDeviceGetComputeRunningProcesses_v2, 'c')
PROCESS_LIST(nvmlDeviceGetGraphicsRunningProcesses_v2, 'g')
PROCESS_LIST(nvmlDeviceGetMPSComputeRunningProcesses_v2, 'm')

#ifndef OLD_DRIVER
PROCESS_LIST(nvmlDeviceGetComputeRunningProcesses_v3, 'c')
PROCESS_LIST(nvmlDeviceGetGraphicsRunningProcesses_v3, 'g')
PROCESS_LIST(nvmlDeviceGetMPSComputeRunningProcesses_v3, 'm')
DEVICE(nvmlDeviceGetMigMode, (Handle handle, unsigned *now, unsigned *next), *now = *next = gpu->mig)
DEVICE(nvmlDeviceGetTemperatureV, (Handle handle, Temperature *out), out->temperature = gpu->temperature)
DEVICE(nvmlDeviceGetMemoryInfo_v2, (Handle handle, Memory2 *out),
       if (out->version != (sizeof *out | 2 << 24)) result = VERSION;
       else *out = ((Memory2){out->version, gpu->total, 0, gpu->total - gpu->used, gpu->used}))
#endif
