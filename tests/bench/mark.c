/* A job that does next to nothing and says when: `mark FILE [MS]` sleeps MS milliseconds and appends
   "start end\n" (nanoseconds of the monotonic clock) to FILE by one write, so that lines never mix. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static long long now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000000LL + at.tv_nsec;
}

int main(int argc, char **argv) {
    long long start = now();
    if (argc < 2) return 2;
    if (argc > 2) usleep(1000 * atoi(argv[2]));
    int file = open(argv[1], O_WRONLY | O_APPEND | O_CREAT, 0600);
    if (file < 0) return 1;
    char line[64];
    int size = snprintf(line, sizeof line, "%lld %lld\n", start, now());
    return write(file, line, size) == size ? 0 : 1;
}
