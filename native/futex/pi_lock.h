/* A lock between the threads of one process, with priority inheritance: a low-priority thread that
 * holds it is lent the priority of a real-time thread that waits for it. One atomic operation each
 * way while nobody waits; glibc's own lock of this kind costs more than twice as much, which shows
 * in a round trip of 300 ns. */
#ifndef PF_FUTEX_PI_LOCK_H
#define PF_FUTEX_PI_LOCK_H

#include <stdint.h>

#include "shm/atomics.h"

struct pf_pi_lock {
    uint32_t owner; /* thread id, as the kernel wants it; 0: free */
};

/* This thread's id; 0: not asked for yet. Made anew in a forked child. */
extern __thread uint32_t pf_thread_id_cached __attribute__((tls_model("initial-exec")));

uint32_t pf_thread_id_fetch(void);
void pf_pi_wait(struct pf_pi_lock *lock);
void pf_pi_pass_on(struct pf_pi_lock *lock);

static inline uint32_t pf_thread_id(void) {
    return pf_thread_id_cached ? pf_thread_id_cached : pf_thread_id_fetch();
}

static inline void pf_pi_acquire(struct pf_pi_lock *lock) {
    if (!pf_compare_exchange(&lock->owner, 0, pf_thread_id())) {
        pf_pi_wait(lock);
    }
}

static inline void pf_pi_release(struct pf_pi_lock *lock) {
    if (!pf_compare_exchange(&lock->owner, pf_thread_id(), 0)) {
        pf_pi_pass_on(lock);
    }
}

#endif
