/* When to spin before sleeping, and how.
 *
 * A cross-core wake-up costs tens of microseconds, so spinning for a while pays where the answer
 * comes soon. It must not cost others: on a machine with few processors the answer may depend on a
 * process that wants this very processor. So after the first microseconds each look gives the
 * processor away once (sched_yield: free when nobody wants it); a yield that lasted long means that
 * somebody computes there, and the spin ends; and after spins that found nothing, the next waits go
 * without, for longer each time. */
#ifndef PF_FUTEX_SPIN_H
#define PF_FUTEX_SPIN_H

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>

#include "futex/futex.h"
#include "shm/atomics.h"

#define PF_SPIN_PURE_NS 2000U        /* before the first yield */
#define PF_SPIN_YIELD_LONG_NS 50000U /* a yield this long: the processor is wanted */
#define PF_SPIN_SCORE_MAX 8U
#define PF_SPIN_SKIP_FIRST 8U
#define PF_SPIN_SKIP_MAX 1024U
#define PF_SPIN_LOOKS 64 /* between two looks at the clock */
#define PF_SPIN_RELAX 4  /* looks for one pause: it lasts as long as several of them */

/* A budget that follows what a wake-up costs here: who spins for about as long as that never wastes
 * much more than sleeping would have, and gains where the answer comes sooner. PF_SPIN_ANSWER_NS is
 * for the answer itself; the rest for the wake-up of whoever is to give it, or both sides sleep in
 * turns for ever. */
#define PF_SPIN_ANSWER_NS 20000U
#define PF_SPIN_WAKE_MOST_NS 80000U
#define PF_SPIN_WAKE_WEIGHT 8

/* How well spinning did of late. A heuristic: racy between threads on purpose. */
struct pf_spin {
    uint32_t score;
    uint32_t skip;    /* waits to go without */
    uint32_t penalty; /* the next `skip` */
};

static inline void pf_spin_reset(struct pf_spin *spin) {
    *spin = (struct pf_spin){.score = PF_SPIN_SCORE_MAX, .penalty = PF_SPIN_SKIP_FIRST};
}

static inline bool pf_spin_worthwhile(struct pf_spin *spin) {
    if (spin->skip > 0) {
        spin->skip--;
        return spin->skip == 0;
    }
    return true;
}

static inline void pf_spin_result(struct pf_spin *spin, bool found) {
    if (found) {
        spin->score += spin->score < PF_SPIN_SCORE_MAX;
        spin->penalty = PF_SPIN_SKIP_FIRST;
    } else if (spin->score > 0) {
        spin->score--;
    } else {
        spin->skip = spin->penalty;
        spin->penalty = 2 * spin->penalty < PF_SPIN_SKIP_MAX ? 2 * spin->penalty : PF_SPIN_SKIP_MAX;
    }
}

/* The budget after a wake-up that took so long. A mean, of which each has an eighth: but none
 * counts for more than the most, so that neither a thread that waited for a processor nor a client
 * that lies about when it rang can do much. */
static inline uint32_t pf_spin_learn(uint32_t budget_ns, uint64_t took_ns) {
    uint32_t took = took_ns < PF_SPIN_WAKE_MOST_NS ? (uint32_t)took_ns : PF_SPIN_WAKE_MOST_NS;
    uint32_t wanted = PF_SPIN_ANSWER_NS + took;
    return budget_ns - budget_ns / PF_SPIN_WAKE_WEIGHT + wanted / PF_SPIN_WAKE_WEIGHT;
}

/* After look number `look`, one of PF_SPIN_LOOKS. */
static inline void pf_spin_relax(int look) {
    if (look % PF_SPIN_RELAX == PF_SPIN_RELAX - 1) {
        pf_cpu_relax();
    }
}

/* Between two looks at the clock, `elapsed_ns` into the spin. False: the processor is wanted, stop.
 */
static inline bool pf_spin_pause(uint64_t now_ns, uint64_t elapsed_ns) {
    if (elapsed_ns < PF_SPIN_PURE_NS) {
        pf_cpu_relax();
        return true;
    }
    (void)sched_yield();
    return pf_now_ns() - now_ns < PF_SPIN_YIELD_LONG_NS;
}

#endif
