/* The futex system calls, for words that processes share. */
#ifndef PF_FUTEX_FUTEX_H
#define PF_FUTEX_FUTEX_H

#include <stdint.h>

/* Sleeps while *word == expected, at most timeout_ns (negative: for ever).
 * 0: woken, or the word differs already; -ETIMEDOUT; -EINTR. Works on read-only mappings. */
int pf_futex_wait(const uint32_t *word, uint32_t expected, int64_t timeout_ns);

/* Wakes up to `count` waiters. Returns how many were woken. */
int pf_futex_wake(const uint32_t *word, int count);

/* Sleeps until one of `count` (1..128) words differs from its expected value.
 * Index of a woken word, or -EAGAIN when one differs already, -ETIMEDOUT, -EINTR, -ENOSYS. */
int pf_futex_waitv(const uint32_t *const *words, const uint32_t *expected, unsigned count,
                   int64_t timeout_ns);

uint64_t pf_now_ns(void);

#endif
