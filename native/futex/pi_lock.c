#define _GNU_SOURCE
#include "futex/pi_lock.h"

#include <linux/futex.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

__thread uint32_t pf_thread_id_cached;

/* The child's only thread has another id than the one it is a copy of. */
static void forget_thread_id(void) { pf_thread_id_cached = 0; }

__attribute__((constructor)) static void watch_forks(void) {
    (void)pthread_atfork(NULL, NULL, forget_thread_id);
}

uint32_t pf_thread_id_fetch(void) {
    pf_thread_id_cached = (uint32_t)syscall(SYS_gettid);
    return pf_thread_id_cached;
}

void pf_pi_wait(struct pf_pi_lock *lock) {
    /* 0: the kernel has made us the owner. EINTR, EAGAIN: once more. */
    while (syscall(SYS_futex, &lock->owner, FUTEX_LOCK_PI | FUTEX_PRIVATE_FLAG, 0, NULL, NULL, 0) !=
           0) {
    }
    /* The kernel orders us behind whoever let go; this tells the compiler and the race detector. */
    (void)pf_load_acquire(&lock->owner);
}

void pf_pi_pass_on(struct pf_pi_lock *lock) {
    (void)pf_add_fetch(&lock->owner, 0); /* a release that changes nothing: see above */
    (void)syscall(SYS_futex, &lock->owner, FUTEX_UNLOCK_PI | FUTEX_PRIVATE_FLAG, 0, NULL, NULL, 0);
}
