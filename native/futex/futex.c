#define _GNU_SOURCE
#include "futex/futex.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S INT64_C(1000000000)

uint64_t pf_now_ns(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * (uint64_t)NS_PER_S + (uint64_t)now.tv_nsec;
}

int pf_futex_wait(const uint32_t *word, uint32_t expected, int64_t timeout_ns) {
    struct timespec timeout = {timeout_ns / NS_PER_S, timeout_ns % NS_PER_S};
    long result =
        syscall(SYS_futex, word, FUTEX_WAIT, expected, timeout_ns < 0 ? NULL : &timeout, NULL, 0);
    if (result == 0 || errno == EAGAIN) {
        return 0;
    }
    return -errno;
}

int pf_futex_wake(const uint32_t *word, int count) {
    long woken = syscall(SYS_futex, word, FUTEX_WAKE, count, NULL, NULL, 0);
    return woken < 0 ? 0 : (int)woken;
}

int pf_futex_waitv(const uint32_t *const *words, const uint32_t *expected, unsigned count,
                   int64_t timeout_ns) {
#ifdef SYS_futex_waitv
    struct futex_waitv waiters[FUTEX_WAITV_MAX];
    if (count < 1 || count > FUTEX_WAITV_MAX) {
        return -EINVAL;
    }
    for (unsigned i = 0; i < count; i++) {
        waiters[i] = (struct futex_waitv){
            .val = expected[i], .uaddr = (uintptr_t)words[i], .flags = FUTEX_32};
    }
    /* futex_waitv takes an absolute time. */
    struct timespec deadline;
    (void)clock_gettime(CLOCK_MONOTONIC, &deadline);
    if (timeout_ns >= 0) {
        deadline.tv_sec += timeout_ns / NS_PER_S;
        deadline.tv_nsec += timeout_ns % NS_PER_S;
        if (deadline.tv_nsec >= NS_PER_S) {
            deadline.tv_nsec -= NS_PER_S;
            deadline.tv_sec += 1;
        }
    }
    long result = syscall(SYS_futex_waitv, waiters, count, 0, timeout_ns < 0 ? NULL : &deadline,
                          CLOCK_MONOTONIC);
    return result < 0 ? -errno : (int)result;
#else
    (void)words, (void)expected, (void)count, (void)timeout_ns;
    return -ENOSYS;
#endif
}
