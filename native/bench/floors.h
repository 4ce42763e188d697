/* The floors under every figure: what two processes cost each other on this machine without pifus.
 *
 * Read verbatim by cffi: no include guards, no #include, only prototypes.
 *
 * Each function forks, passes a token to and fro over a shared page `count` times, and writes the
 * round-trip times in nanoseconds (one reading of the clock included) to `samples_ns`. The caller's
 * thread runs on `cpu_a` and the child on `cpu_b`; -1: wherever the scheduler likes. The child is
 * reaped and the caller's affinity is put back in any case. 0, or -errno: -EINVAL (count,
 * processor), -EPIPE (the child died), -ETIMEDOUT (no round for ten seconds). */

/* Both sides look at the word all the time. */
int pf_floor_spin(uint32_t *samples_ns, uint32_t count, int cpu_a, int cpu_b);

/* Both sides wait in the kernel for each token: FUTEX_WAIT and FUTEX_WAKE. */
int pf_floor_futex(uint32_t *samples_ns, uint32_t count, int cpu_a, int cpu_b);
