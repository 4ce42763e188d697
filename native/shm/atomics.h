/* Every atomic access of the project: the only file with __atomic_ built-ins.
 *
 * Publishing is always store-release / load-acquire on the index word. The sequentially consistent
 * fence exists for the two places where each side writes one word and then reads the other's
 * (going to sleep against publishing): shm/hint_ring.h and futex/doorbell.h say why. */
#ifndef PF_SHM_ATOMICS_H
#define PF_SHM_ATOMICS_H

#include <stdint.h>

static inline uint32_t pf_load_relaxed(const uint32_t *word) {
    return __atomic_load_n(word, __ATOMIC_RELAXED);
}

static inline uint32_t pf_load_acquire(const uint32_t *word) {
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static inline uint16_t pf_load16_acquire(const uint16_t *word) {
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static inline void pf_store16_release(uint16_t *word, uint16_t value) {
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

static inline void pf_store_relaxed(uint32_t *word, uint32_t value) {
    __atomic_store_n(word, value, __ATOMIC_RELAXED);
}

static inline void pf_store_release(uint32_t *word, uint32_t value) {
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

static inline uint32_t pf_add_fetch(uint32_t *word, uint32_t value) {
    return __atomic_add_fetch(word, value, __ATOMIC_SEQ_CST);
}

static inline uint32_t pf_exchange(uint32_t *word, uint32_t value) {
    return __atomic_exchange_n(word, value, __ATOMIC_SEQ_CST);
}

static inline int pf_compare_exchange(uint32_t *word, uint32_t expected, uint32_t desired) {
    return __atomic_compare_exchange_n(word, &expected, desired, 0, __ATOMIC_SEQ_CST,
                                       __ATOMIC_SEQ_CST);
}

/* Store and full barrier in one: on x86 one xchg, cheaper than a store and an mfence. */
static inline void pf_store_fence(uint32_t *word, uint32_t value) {
    (void)__atomic_exchange_n(word, value, __ATOMIC_SEQ_CST);
}

static inline void pf_full_fence(void) {
#if defined(__x86_64__)
    /* A locked instruction is a full fence too, and cheaper than the mfence that gcc would emit. */
    __asm__ __volatile__("lock; orl $0, -8(%%rsp)" : : : "memory", "cc");
#else
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

static inline uint64_t pf_load64_relaxed(const uint64_t *word) {
    return __atomic_load_n(word, __ATOMIC_RELAXED);
}

static inline void pf_store64_relaxed(uint64_t *word, uint64_t value) {
    __atomic_store_n(word, value, __ATOMIC_RELAXED);
}

/* The line is going to be written: fetch it as this core's own. Lines that are fetched together
 * cost one trip between two cores; stores one after another would cost one each. (gcc's own
 * built-in is a fetch for reading unless told of a newer processor; this instruction is older than
 * 64 bits.) */
static inline void pf_prefetch_write(const void *line) {
#if defined(__x86_64__)
    __asm__ __volatile__("prefetchw %0" : : "m"(*(const char *)line));
#else
    __builtin_prefetch(line, 1);
#endif
}

/* Tells the core that this is a spin loop: saves power and the other hyper-thread's time. */
static inline void pf_cpu_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

#endif
