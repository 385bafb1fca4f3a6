/* A libnvidia-ml.so.1 without a GPU: it answers from a text file that a test edits while gpud runs.
 *
 * The file, named by $FAKENVML_CONFIG, is read anew at every call, so there is nothing to reload and nothing stale
 * (write it by rename). A line is one of these; those after a `gpu` line are that GPU's, those before the first any's:
 *
 *     driver 550.54.15                   what nvmlSystemGetDriverVersion says
 *     log FILE                           append the name of every call to FILE
 *     gpu UUID                           the next GPU, in the order of their indices
 *     name NVIDIA H100 80GB HBM3         pci 00000000:01:00.0
 *     total_mib N   used_mib N   utilization N   temperature N   power_mw N
 *     nvlink N N ...                     it reaches the GPUs of these indices over NVLink; said of one of two, or both
 *     level N LEVEL                      where its PCIe path meets that of GPU N: 10 a switch, 20 switches, ... 50
 *     numa N                             the NUMA node next to it; else the driver does not tell
 *     minor N                            its node is /dev/nvidiaN; else the driver does not tell
 *     mig 0                              MIG could split it (1: is on); else the driver does not know of MIG
 *     instance UUID PROFILE MIB          a MIG instance of it, which the lines that follow are about
 *     process PID MIB KIND               a process, dead or alive; KIND is compute, graphics or mps; MIB - for unknown
 *     live PID MIB KIND                  the same, while that process lives
 *     pids DIR                           a `live` process for each file DIR/PID that holds "MIB KIND"
 *     throttle BITS                      what keeps its clocks down, as nvmlClocksEventReasons
 *     ecc N                              memory errors that could not be corrected; else its memory has no ECC
 *     remap CORRECTABLE NOT PENDING FAILED   rows of its memory that were remapped; else it remaps none
 *     pcie_width NOW MOST                lanes of its link; else the driver does not tell
 *     power_limit MW USUAL_MW            likewise
 *     recovery N                         what the driver wants done: 0 nothing, 1 a reset, 2 a reboot
 *     xid SEQUENCE NUMBER                an event, told once to who registered before it stood here; SEQUENCE grows
 *     lost                               the GPU fell off the bus
 *     error CALL CODE                    CALL (nvmlDeviceGetPowerUsage) answers this nvmlReturn_t
 *     delay CALL MILLISECONDS            CALL, or * for all, takes this long, or until the line is gone
 *
 * Compiled with -DOLD_DRIVER it lacks the symbols that drivers before R455 lack. Layouts and numbers are nvml.h's.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <time.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, NOT_LOADED = 9 };
enum { TIMEOUT = 10, LOST = 15, VERSION = 25 };
enum { EVENTS = 16 };
enum { GPUS = 64, PROCESSES = 256, RULES = 64, TEXT = 256, NO_MIG = 2 };

typedef struct { char uuid[96]; } *Handle; /* stays valid for ever, whatever becomes of its GPU */
typedef struct { unsigned pid; unsigned long long used; unsigned instance, compute_instance; } Process;
typedef struct { char call[64]; int gpu, code; long delay_ms; } Rule;
typedef struct {
    char uuid[96], name[96], pci[32];
    unsigned long long total, used;
    unsigned utilization, temperature, power_mw, mig, slices;
    int lost, count, parent, numa, minor, instance, level[GPUS];
    long ecc, remap[4], width[2], limit[2], recovery, throttle, xid[EVENTS][2]; /* -1: it does not tell */
    int xids;
    unsigned long long nvlinks;
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
    int read;
    line[strcspn(line, "\n#")] = 0;
    if (sscanf(line, " %31s %255[^\n]", key, rest) < 1) return;
    sscanf(rest, "%255s %63s %31s", first, second, third);
    if (!strcmp(key, "driver")) snprintf(config->driver, sizeof config->driver, "%.79s", first);
    else if (!strcmp(key, "log")) snprintf(config->log, sizeof config->log, "%s", first);
    else if (!strcmp(key, "error")) add_rule(config, first, atoi(second), 0);
    else if (!strcmp(key, "delay")) add_rule(config, first, -1, atol(second));
    else if (!strcmp(key, "gpu") && config->count < GPUS) {
        gpu = &config->gpus[config->count++];
        gpu->parent = gpu->numa = gpu->minor = -1;
        gpu->ecc = gpu->remap[0] = gpu->width[0] = gpu->limit[0] = gpu->recovery = -1;
        gpu->mig = NO_MIG;
        snprintf(gpu->uuid, sizeof gpu->uuid, "%.95s", first);
        snprintf(gpu->name, sizeof gpu->name, "NVIDIA Fake");
        snprintf(gpu->pci, sizeof gpu->pci, "00000000:%02X:00.0", config->count);
        gpu->total = 24564ULL << 20;
        gpu->used = 4ULL << 20;
        gpu->temperature = 30;
        gpu->power_mw = 20000;
    } else if (!gpu) return;
    else if (!strcmp(key, "instance") && config->count < GPUS) {
        int parent = gpu->parent < 0 ? config->count - 1 : gpu->parent;
        gpu = &config->gpus[config->count++];
        *gpu = (Gpu){.parent = parent, .numa = -1, .minor = -1, .mig = NO_MIG, .slices = atoi(second), .used = 1ULL << 20};
        gpu->ecc = gpu->remap[0] = gpu->width[0] = gpu->limit[0] = gpu->recovery = -1;
        gpu->instance = config->count - 1 - parent; /* the first of a GPU is 1 */
        gpu->total = strtoull(third, 0, 10) << 20;
        snprintf(gpu->uuid, sizeof gpu->uuid, "%.95s", first);
        snprintf(first, sizeof first, "%.60s MIG %.30s", config->gpus[parent].name, second);
        memcpy(gpu->name, first, sizeof gpu->name);
    }
    else if (!strcmp(key, "name")) snprintf(gpu->name, sizeof gpu->name, "%.95s", rest);
    else if (!strcmp(key, "pci")) snprintf(gpu->pci, sizeof gpu->pci, "%.31s", first);
    else if (!strcmp(key, "total_mib")) gpu->total = strtoull(first, 0, 10) << 20;
    else if (!strcmp(key, "used_mib")) gpu->used = strtoull(first, 0, 10) << 20;
    else if (!strcmp(key, "utilization")) gpu->utilization = atoi(first);
    else if (!strcmp(key, "temperature")) gpu->temperature = atoi(first);
    else if (!strcmp(key, "power_mw")) gpu->power_mw = atoi(first);
    else if (!strcmp(key, "mig")) gpu->mig = atoi(first);
    else if (!strcmp(key, "numa")) gpu->numa = atoi(first);
    else if (!strcmp(key, "minor")) gpu->minor = atoi(first);
    else if (!strcmp(key, "level")) gpu->level[atoi(first) % GPUS] = atoi(second);
    else if (!strcmp(key, "nvlink"))
        for (char *at = rest; sscanf(at, "%31s%n", third, &read) == 1; at += read) gpu->nvlinks |= 1ULL << atoi(third);
    else if (!strcmp(key, "throttle")) gpu->throttle = strtol(first, 0, 0);
    else if (!strcmp(key, "ecc")) gpu->ecc = atol(first);
    else if (!strcmp(key, "recovery")) gpu->recovery = atol(first);
    else if (!strcmp(key, "remap"))
        sscanf(rest, "%ld %ld %ld %ld", gpu->remap, gpu->remap + 1, gpu->remap + 2, gpu->remap + 3);
    else if (!strcmp(key, "pcie_width")) sscanf(rest, "%ld %ld", gpu->width, gpu->width + 1);
    else if (!strcmp(key, "power_limit")) sscanf(rest, "%ld %ld", gpu->limit, gpu->limit + 1);
    else if (!strcmp(key, "xid") && gpu->xids < EVENTS) {
        gpu->xid[gpu->xids][0] = atol(first);
        gpu->xid[gpu->xids++][1] = atol(second);
    }
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

/* The slot of the GPU of an index: instances are in between. */
static int slot_of(const Config *config, int index) {
    for (int at = 0; at < config->count; at++)
        if (config->gpus[at].parent < 0 && !index--) return at;
    return -1;
}

static int number_of(const Config *config, int slot) {
    int number = 0;
    for (int at = 0; at < slot; at++) number += config->gpus[at].parent < 0;
    return number;
}

static int concerns(const Rule *rule, const char *call, int gpu) {
    return (rule->gpu < 0 || rule->gpu == gpu) && (!strcmp(rule->call, "*") || !strcmp(rule->call, call));
}

/* Begin a call: log it, take its time, and return what it must answer if it may not succeed. `*gpu` is set on success. */
static int enter(const char *call, Handle handle, int index, Config **out, Gpu **gpu) {
    int at = -1;
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
        at = handle ? index_of(config, handle) : index < 0 ? -1 : slot_of(config, index);
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
    return (*gpu)->lost || ((*gpu)->parent >= 0 && config->gpus[(*gpu)->parent].lost) ? LOST : SUCCESS;
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
    if (!result && gpu->parent >= 0 && kind != 'c') result = INVALID_ARGUMENT;
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
#define GPU_ONLY(name, parameters, statement) \
    DEVICE(name, parameters, if (gpu->parent >= 0) result = NOT_SUPPORTED; else { statement; })
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
SYSTEM(nvmlDeviceGetCount_v2, (unsigned *count), *count = number_of(config, config->count))

const char *nvmlErrorString(int code) {
    switch (code) {
    case INVALID_ARGUMENT: return "Invalid Argument";
    case 3: return "Not Supported";
    case 4: return "Insufficient Permissions";
    case NOT_LOADED: return "Driver Not Loaded";
    case TIMEOUT: return "Timeout";
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
DEVICE(nvmlDeviceGetMinorNumber, (Handle handle, unsigned *out),
       if (gpu->minor < 0) result = NOT_SUPPORTED;
       else *out = gpu->minor)
DEVICE(nvmlDeviceGetName, (Handle handle, char *out, unsigned size), snprintf(out, size, "%s", gpu->name))
DEVICE(nvmlDeviceGetIndex, (Handle handle, unsigned *out), *out = number_of(config, gpu - config->gpus))
DEVICE(nvmlDeviceGetPciInfo_v3, (Handle handle, Pci *out), snprintf(out->bus_id, sizeof out->bus_id, "%s", gpu->pci))
DEVICE(nvmlDeviceGetMemoryInfo, (Handle handle, Memory *out),
       *out = ((Memory){gpu->total, gpu->total - gpu->used, gpu->used}))
GPU_ONLY(nvmlDeviceGetUtilizationRates, (Handle handle, Utilization *out), *out = ((Utilization){gpu->utilization, 0}))
GPU_ONLY(nvmlDeviceGetPowerUsage, (Handle handle, unsigned *out), *out = gpu->power_mw)
GPU_ONLY(nvmlDeviceGetTemperature, (Handle handle, unsigned sensor, unsigned *out), *out = gpu->temperature; (void)sensor)
#define TOLD(name, type, value) \
    GPU_ONLY(name, (Handle handle, type *out), if ((value) < 0) result = NOT_SUPPORTED; else *out = (value))
GPU_ONLY(nvmlDeviceGetCurrentClocksThrottleReasons, (Handle handle, unsigned long long *out), *out = gpu->throttle)
TOLD(nvmlDeviceGetCurrPcieLinkWidth, unsigned, gpu->width[0])
TOLD(nvmlDeviceGetMaxPcieLinkWidth, unsigned, gpu->width[0] < 0 ? -1 : gpu->width[1])
TOLD(nvmlDeviceGetEnforcedPowerLimit, unsigned, gpu->limit[0])
TOLD(nvmlDeviceGetPowerManagementDefaultLimit, unsigned, gpu->limit[0] < 0 ? -1 : gpu->limit[1])
GPU_ONLY(nvmlDeviceGetTotalEccErrors, (Handle handle, int kind, int since, unsigned long long *out),
         if (gpu->ecc < 0) result = NOT_SUPPORTED;
         else *out = kind == 1 ? gpu->ecc : 0)

/* Events: who is registered since which of a GPU's. The wait looks when a file beside the configuration changes. */
typedef struct { Handle handle[GPUS]; long told[GPUS]; int count, watch; pthread_mutex_t lock; } Events;
typedef struct { Handle device; unsigned long long kind, data; unsigned instance, compute_instance; } Event;

static long newest(const Gpu *gpu) {
    long found = 0;
    for (int at = 0; at < gpu->xids; at++) found = gpu->xid[at][0] > found ? gpu->xid[at][0] : found;
    return found;
}

int nvmlEventSetCreate(Events **out) {
    const char *path = getenv("FAKENVML_CONFIG");
    char folder[4096];
    Events *made = *out = calloc(1, sizeof **out);
    pthread_mutex_init(&made->lock, NULL);
    made->watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    snprintf(folder, sizeof folder, "%s", path ? path : "/nowhere/at-all");
    inotify_add_watch(made->watch, dirname(folder), IN_MOVED_TO | IN_CLOSE_WRITE);
    return SUCCESS;
}

GPU_ONLY(nvmlDeviceGetSupportedEventTypes, (Handle handle, unsigned long long *out), *out = 8 | 2 | 1)
GPU_ONLY(nvmlDeviceRegisterEvents, (Handle handle, unsigned long long kinds, Events *set),
         pthread_mutex_lock(&set->lock);
         set->handle[set->count] = handle; set->told[set->count++] = newest(gpu);
         pthread_mutex_unlock(&set->lock))

static int take_event(Events *set, Event *out) {
    Config *config;
    int result = enter("nvmlEventSetWait_v2", NULL, -1, &config, NULL);
    pthread_mutex_lock(&set->lock);
    for (int one = 0; !result && one < set->count && !out->device; one++) {
        int slot = index_of(config, set->handle[one]);
        Gpu *gpu = slot < 0 ? NULL : &config->gpus[slot];
        for (int at = 0; gpu && at < gpu->xids && !out->device; at++)
            if (gpu->xid[at][0] > set->told[one]) {
                *out = (Event){set->handle[one], 8, gpu->xid[at][1], 0xFFFFFFFF, 0xFFFFFFFF};
                set->told[one] = gpu->xid[at][0];
            }
    }
    pthread_mutex_unlock(&set->lock);
    free(config);
    return result;
}

int nvmlEventSetWait_v2(Events *set, Event *out, unsigned timeout_ms) {
    char ignored[4096];
    struct pollfd changes = {set->watch, POLLIN, 0};
    *out = (Event){NULL};
    int result = take_event(set, out);
    if (result || out->device) return result;
    if (poll(&changes, 1, timeout_ms) <= 0) return TIMEOUT;
    while (read(set->watch, ignored, sizeof ignored) > 0) continue;
    result = take_event(set, out);
    return result || out->device ? result : TIMEOUT;
}
#ifdef OLD_DRIVER
typedef struct { unsigned pid; unsigned long long used; } OldProcess;
#define OLD_PROCESS_LIST(name, kind)                                             \
    int name(Handle handle, unsigned *count, OldProcess *out) {                  \
        Process found[PROCESSES];                                                \
        int result = processes(#name, handle, count, out ? found : NULL, kind);  \
        for (unsigned at = 0; !result && out && at < *count; at++)               \
            out[at] = (OldProcess){found[at].pid, found[at].used};               \
        return result;                                                           \
    }
OLD_PROCESS_LIST(nvmlDeviceGetComputeRunningProcesses, 'c')
OLD_PROCESS_LIST(nvmlDeviceGetGraphicsRunningProcesses, 'g')
#else
PROCESS_LIST(nvmlDeviceGetComputeRunningProcesses_v2, 'c')
PROCESS_LIST(nvmlDeviceGetGraphicsRunningProcesses_v2, 'g')
PROCESS_LIST(nvmlDeviceGetMPSComputeRunningProcesses_v2, 'm')
PROCESS_LIST(nvmlDeviceGetComputeRunningProcesses_v3, 'c')
PROCESS_LIST(nvmlDeviceGetGraphicsRunningProcesses_v3, 'g')
PROCESS_LIST(nvmlDeviceGetMPSComputeRunningProcesses_v3, 'm')
DEVICE(nvmlDeviceGetMigMode, (Handle handle, unsigned *now, unsigned *next),
       if (gpu->mig == NO_MIG) result = NOT_SUPPORTED;
       else *now = *next = gpu->mig)
DEVICE(nvmlDeviceGetGpuInstanceId, (Handle handle, unsigned *out), *out = gpu->instance)
DEVICE(nvmlDeviceGetComputeInstanceId, (Handle handle, unsigned *out), *out = 0)
GPU_ONLY(nvmlDeviceGetCurrentClocksEventReasons, (Handle handle, unsigned long long *out), *out = gpu->throttle)
GPU_ONLY(nvmlDeviceGetRemappedRows, (Handle handle, unsigned *one, unsigned *two, unsigned *pending, unsigned *failed),
         if (gpu->remap[0] < 0) result = NOT_SUPPORTED;
         else { *one = gpu->remap[0]; *two = gpu->remap[1]; *pending = gpu->remap[2]; *failed = gpu->remap[3]; })
typedef struct {
    unsigned id, scope;
    long long at, took;
    int kind, result;
    union { unsigned number; double real; } value;
} Field;
GPU_ONLY(nvmlDeviceGetFieldValues, (Handle handle, int count, Field *out),
         for (int at = 0; at < count; at++) {
             out[at].result = out[at].id == 230 && gpu->recovery >= 0 ? SUCCESS : NOT_SUPPORTED;
             out[at].value.number = gpu->recovery;
         })
GPU_ONLY(nvmlDeviceGetMaxMigDeviceCount, (Handle handle, unsigned *count), *count = gpu->mig == 1 ? 14 : 0)
GPU_ONLY(nvmlDeviceGetTemperatureV, (Handle handle, Temperature *out), out->temperature = gpu->temperature)
DEVICE(nvmlDeviceGetMemoryInfo_v2, (Handle handle, Memory2 *out),
       if (out->version != (sizeof *out | 2 << 24)) result = VERSION;
       else *out = ((Memory2){out->version, gpu->total, 0, gpu->total - gpu->used, gpu->used}))

/* Every second place is empty: the indices of real instances have gaps as well. */
int nvmlDeviceGetMigDeviceHandleByIndex(Handle handle, unsigned index, Handle *out) {
    Config *config;
    Gpu *gpu;
    int result = enter("nvmlDeviceGetMigDeviceHandleByIndex", handle, -1, &config, &gpu);
    if (!result) {
        int left = index / 2;
        result = NOT_FOUND;
        for (Gpu *one = gpu + 1; index % 2 && one < config->gpus + config->count && one->parent >= 0; one++)
            if (!left--) {
                *out = handle_of(one->uuid);
                result = SUCCESS;
            }
    }
    free(config);
    return result;
}

typedef struct { unsigned processors, engines[5], slices, compute_slices; unsigned long long mib; } Attributes;
DEVICE(nvmlDeviceGetAttributes_v2, (Handle handle, Attributes *out),
       if (gpu->parent < 0) result = NOT_SUPPORTED;
       else *out = ((Attributes){.slices = gpu->slices, .compute_slices = gpu->slices, .mib = gpu->total >> 20}))
DEVICE(nvmlDeviceGetMemoryAffinity, (Handle handle, unsigned size, unsigned long *out, unsigned scope),
       if (gpu->numa < 0) result = NOT_SUPPORTED;
       else for (unsigned at = 0; at < size; at++) out[at] = gpu->numa / 64 == (int)at ? 1UL << gpu->numa % 64 : 0)

/* Begin a call about two GPUs: which of them can make it fail or wait. */
static int enter_both(const char *call, Handle one, Handle other, Config **config, Gpu **first, Gpu **second) {
    int result = enter(call, other, -1, config, second);
    free(*config);
    if (!result) result = enter(call, one, -1, config, first);
    else *config = NULL;
    if (!result) *second = &(*config)->gpus[index_of(*config, other)];
    return result;
}

int nvmlDeviceGetTopologyCommonAncestor(Handle one, Handle other, unsigned *out) {
    Config *config;
    Gpu *first, *second;
    int result = enter_both("nvmlDeviceGetTopologyCommonAncestor", one, other, &config, &first, &second);
    if (!result) {
        int level = first->level[number_of(config, second - config->gpus)];
        if (!level) level = second->level[number_of(config, first - config->gpus)];
        *out = level ? level : 50;
    }
    free(config);
    return result;
}

int nvmlDeviceGetP2PStatus(Handle one, Handle other, unsigned capability, unsigned *out) {
    Config *config;
    Gpu *first, *second;
    int result = enter_both("nvmlDeviceGetP2PStatus", one, other, &config, &first, &second);
    if (!result) {
        int mine = first->nvlinks >> number_of(config, second - config->gpus) & 1;
        int its = second->nvlinks >> number_of(config, first - config->gpus) & 1;
        *out = capability == 2 && (mine || its) ? 0 : 5;
    }
    free(config);
    return result;
}
#endif
