/* Faults of a host that the conductor cannot make from outside: a wall clock that is set, a disk that is full.
 *
 * Preloaded (LD_PRELOAD) into the processes of one node. The file named by CHAOS_FAULTS holds two int64 in the
 * order of the host: nanoseconds that are added to CLOCK_REALTIME, and whether writing to files fails with
 * ENOSPC. It is mapped, so that what the conductor writes there holds from the next call on. Clocks that are
 * never set (monotonic, boot time) pass through. Only tests use this; the product knows nothing of it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *faults;
static int64_t none[2];

__attribute__((constructor)) static void map_faults(void) {
    const char *path = getenv("CHAOS_FAULTS");
    faults = none;
    if (path == NULL) return;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return;
    void *mapped = mmap(NULL, sizeof none, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED) faults = mapped;
}

static int64_t offset(void) { return faults != NULL ? faults[0] : 0; }

static int full(int file) {
    struct stat status;
    return faults != NULL && faults[1] && fstat(file, &status) == 0 && S_ISREG(status.st_mode);
}

int clock_gettime(clockid_t clock, struct timespec *out) {
    static int (*next)(clockid_t, struct timespec *);
    if (next == NULL) next = dlsym(RTLD_NEXT, "clock_gettime");
    int result = next(clock, out);
    int64_t by = offset();
    if (result == 0 && clock == CLOCK_REALTIME && by != 0) {
        int64_t ns = (int64_t)out->tv_sec * 1000000000 + out->tv_nsec + by;
        out->tv_sec = ns / 1000000000;
        out->tv_nsec = ns % 1000000000;
    }
    return result;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    struct timespec now;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &now) != 0) return -1;
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out != NULL) *out = now.tv_sec;
    return now.tv_sec;
}

#define WRITER(name, parameters, arguments)                                   \
    ssize_t name parameters {                                                 \
        static ssize_t(*next) parameters;                                     \
        if (next == NULL) next = dlsym(RTLD_NEXT, #name);                     \
        if (full(file)) {                                                     \
            errno = ENOSPC;                                                   \
            return -1;                                                        \
        }                                                                     \
        return next arguments;                                                \
    }

WRITER(write, (int file, const void *data, size_t size), (file, data, size))
WRITER(pwrite, (int file, const void *data, size_t size, off_t at), (file, data, size, at))
WRITER(pwrite64, (int file, const void *data, size_t size, off64_t at), (file, data, size, at))
