/* Taking a sample; inline, because it is beside what is measured. */
#ifndef PF_BENCH_SAMPLES_H
#define PF_BENCH_SAMPLES_H

#include "bench/bench_api.h"

/* Every second one, beginning with the first. */
void pf_bench_samples_halve(struct pf_bench_samples *samples);

static inline void pf_bench_add(struct pf_bench_samples *samples, uint64_t took_ns) {
    if ((samples->total & (samples->stride - 1)) == 0) {
        if (samples->count == samples->capacity) {
            pf_bench_samples_halve(samples);
        }
        if ((samples->total & (samples->stride - 1)) == 0) {
            samples->stored_ns[samples->count++] =
                took_ns > UINT32_MAX ? UINT32_MAX : (uint32_t)took_ns;
        }
    }
    samples->total++;
    samples->sum_ns += took_ns;
    samples->squares += (double)took_ns * (double)took_ns;
    samples->min_ns = took_ns < samples->min_ns ? took_ns : samples->min_ns;
    samples->max_ns = took_ns > samples->max_ns ? took_ns : samples->max_ns;
}

#endif
