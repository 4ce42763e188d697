/* Rests of a stack thread with a real-time priority.
 *
 * The kernel gives the real-time threads of a processor 950 ms of each second
 * (sched_rt_runtime_us), and newer ones give ordinary threads that starve there up to 50 ms of it.
 * A stack thread that bulk traffic keeps busy would be stopped for those 50 ms in one piece,
 * whatever comes with HIGH priority. So it stops before, in small pieces, and HIGH work ends each
 * of them: it wakes a sleeping stack thread as ever.
 *
 * What the thread owes grows while it runs and shrinks while it sleeps. Lower priorities, and
 * spinning, stop for it from PF_REST_FROM_NS on, until nothing is owed; HIGH only when it owes so
 * much that the kernel would stop it. */
#ifndef PF_BACKEND_REST_H
#define PF_BACKEND_REST_H

#include <stdbool.h>
#include <stdint.h>

/* Of the time: more than the kernel wants, which counts the switches as well. */
#define PF_REST_PERCENT 8U
#define PF_REST_FROM_NS UINT64_C(100000)
#define PF_REST_HIGH_FROM_NS UINT64_C(10000000)
#define PF_REST_MOST_NS UINT64_C(100000000)

struct pf_rest {
    bool needed;  /* the thread has a real-time priority */
    bool resting; /* for all but HIGH: begun, a rest is taken whole, because each costs a wake-up */
    uint64_t owed_ns;  /* at awake_ns */
    uint64_t awake_ns; /* since when the thread runs */
};

static inline uint64_t pf_rest_owed(const struct pf_rest *rest, uint64_t now_ns) {
    return rest->owed_ns + (now_ns - rest->awake_ns) * PF_REST_PERCENT / 100;
}

/* The thread slept. Time asleep is not saved up for later. */
static inline void pf_rest_slept(struct pf_rest *rest, uint64_t from_ns, uint64_t until_ns) {
    uint64_t owed = pf_rest_owed(rest, from_ns);
    uint64_t slept = until_ns - from_ns;
    rest->owed_ns = owed > slept ? owed - slept : 0;
    rest->awake_ns = until_ns;
    rest->resting &= rest->owed_ns > 0;
}

/* Whether to sleep, although there may be work: of HIGH priority, or of lower ones at best. */
static inline bool pf_rest_due(struct pf_rest *rest, uint64_t now_ns, bool high) {
    if (!rest->needed) {
        return false;
    }
    uint64_t owed = pf_rest_owed(rest, now_ns);
    rest->resting |= owed > PF_REST_FROM_NS;
    return high ? owed > PF_REST_HIGH_FROM_NS : rest->resting;
}

/* How long to sleep, if it is due. */
static inline uint64_t pf_rest_piece(const struct pf_rest *rest, uint64_t now_ns) {
    uint64_t owed = pf_rest_owed(rest, now_ns);
    if (owed > PF_REST_HIGH_FROM_NS) {
        owed += PF_REST_FROM_NS - PF_REST_HIGH_FROM_NS;
    }
    return owed < PF_REST_MOST_NS ? owed : PF_REST_MOST_NS;
}

#endif
