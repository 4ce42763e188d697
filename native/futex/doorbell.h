/* Sleeping and waking without lost wake-ups, and without system calls while both sides are busy.
 *
 * The sleeper writes "I sleep", and then looks for news once more; the ringer writes its news, and
 * then looks whether anybody sleeps. Between the write and the look both have a full fence, so at
 * least one of them sees the other's write:
 *   - the ringer sees "I sleep": it rings, and the sleeper's wait returns (an eventfd keeps the
 * ring until it is read; a futex wait compares the word that the ringer changed before waking);
 *   - or the sleeper sees the news and does not sleep.
 * Both may happen: a needless ring costs one spurious look. Checked exhaustively in
 * tests/native/models/doorbell.pml.
 *
 * Backend: pf_public.sleeping says that the stack thread sleeps, and for which news to ring; the
 * ring is a write to an eventfd. Clients: `waiting` counts the threads asleep on the futex word
 * `event`. */
#ifndef PF_FUTEX_DOORBELL_H
#define PF_FUTEX_DOORBELL_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "futex/futex.h"
#include "shm/atomics.h"

/* SLEEPER (backend): announces sleep, to be woken for news of the best `priorities` priorities.
 * Afterwards: look for such news; sleep only if there is none. */
static inline void pf_doorbell_announce(uint32_t *sleeping, uint32_t priorities) {
    pf_store_fence(sleeping, priorities);
}

static inline void pf_doorbell_awake(uint32_t *sleeping) { pf_store_relaxed(sleeping, 0); }

/* RINGER (client): after the news is published. True: ring. */
static inline bool pf_doorbell_must_ring(const uint32_t *sleeping, uint32_t priority) {
    pf_full_fence();
    return pf_load_relaxed(sleeping) > priority;
}

/* SLEEPER (client): take the word with acquire, look for news, then call this with the value taken
 * before the look. Several threads may sleep on one word. As pf_futex_wait. */
static inline int pf_event_sleep(const uint32_t *event, uint32_t seen, uint32_t *waiting,
                                 int64_t timeout_ns) {
    (void)pf_add_fetch(waiting, 1);
    int result = pf_futex_wait(event, seen, timeout_ns);
    (void)pf_add_fetch(waiting, UINT32_MAX);
    return result;
}

/* RINGER (backend): after the news is published. `event` is the ringer's own word; `waiting` is a
 * hint from the other side: a wrong one costs a system call or harms only its writer. */
static inline bool pf_event_ring(uint32_t *event, const uint32_t *waiting) {
    pf_store_fence(event, pf_load_relaxed(event) + 1);
    if (pf_load_relaxed(waiting) == 0) {
        return false;
    }
    (void)pf_futex_wake(event, INT_MAX);
    return true;
}

#endif
