/* LD_PRELOAD: a disk that needs SLOWSYNC_US more for each fsync and fdatasync, and counts them in the 8 bytes of
   the file SLOWSYNC_COUNT. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static long long *count;
static unsigned delay_us;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("SLOWSYNC_COUNT"), *delay = getenv("SLOWSYNC_US");
    delay_us = delay ? strtoul(delay, NULL, 10) : 0;
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *shared = mmap(NULL, sizeof *count, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (shared != MAP_FAILED) count = shared;
    close(file);
}

static int synced(const char *name, int file) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    if (count) __atomic_add_fetch(count, 1, __ATOMIC_RELAXED);
    if (delay_us) usleep(delay_us);
    return real(file);
}

int fsync(int file) { return synced("fsync", file); }
int fdatasync(int file) { return synced("fdatasync", file); }
