/* Floors: the same ping-pong twice, once with a spinning wait, once with a futex. */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/floors.h"
#include "futex/futex.h"
#include "shm/atomics.h"

enum { CHILD_FAILED = 3, SPINS_PER_LOOK = 1 << 14 };

#define WAIT_SLICE_NS INT64_C(100000000)
#define STALL_NS UINT64_C(10000000000)
#define CHILD_SECONDS 3600

/* Ping and pong on lines of their own: only the token itself travels. */
struct court {
    _Alignas(128) uint32_t ping;
    _Alignas(128) uint32_t pong;
};

/* Waits until the word is no longer `old`, at most about 100 ms. False: it still is. */
typedef bool (*wait_for)(const uint32_t *word, uint32_t old);
typedef void (*wake)(const uint32_t *word);

struct style {
    wait_for wait;
    wake wake;
};

static bool spin_wait(const uint32_t *word, uint32_t old) {
    for (unsigned i = 0; i < SPINS_PER_LOOK; i++) {
        if (pf_load_acquire(word) != old) {
            return true;
        }
        pf_cpu_relax();
    }
    return false;
}

static void spin_wake(const uint32_t *word) { (void)word; }

static bool futex_wait(const uint32_t *word, uint32_t old) {
    /* Straight into the kernel, without a look before: this is what blocking costs. */
    (void)pf_futex_wait(word, old, WAIT_SLICE_NS);
    return pf_load_acquire(word) != old;
}

static void futex_wake(const uint32_t *word) { (void)pf_futex_wake(word, 1); }

static int pin(int cpu) {
    if (cpu < 0) {
        return 0;
    }
    cpu_set_t set;
    CPU_ZERO(&set);
    if (cpu >= CPU_SETSIZE) {
        return -EINVAL;
    }
    CPU_SET(cpu, &set);
    return sched_setaffinity(0, sizeof(set), &set) == 0 ? 0 : -errno;
}

/* May be forked from a Python process with threads: only calls that are safe in a signal handler.
 */
static _Noreturn void child_main(struct court *court, const struct style *style, uint32_t count,
                                 int cpu, pid_t parent) {
    sigset_t none;
    (void)sigemptyset(&none);
    (void)signal(SIGALRM, SIG_DFL);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)alarm(CHILD_SECONDS);
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent || pin(cpu) != 0) {
        _exit(CHILD_FAILED);
    }
    for (uint32_t round = 1; round <= count; round++) {
        while (!style->wait(&court->ping, round - 1)) {
        }
        pf_store_release(&court->pong, round);
        style->wake(&court->pong);
    }
    _exit(0);
}

/* 0; -EINVAL: the child could not start; -EPIPE: it is gone; -ETIMEDOUT: nothing moved for long. */
static int check_child(pid_t *child, uint64_t start) {
    int status = 0;
    pid_t ended = waitpid(*child, &status, WNOHANG);
    if (ended == *child || (ended < 0 && errno == ECHILD)) {
        *child = -1;
        bool refused = WIFEXITED(status) && WEXITSTATUS(status) == CHILD_FAILED;
        return ended > 0 && refused ? -EINVAL : -EPIPE;
    }
    return pf_now_ns() - start > STALL_NS ? -ETIMEDOUT : 0;
}

static int play(struct court *court, const struct style *style, uint32_t *samples_ns,
                uint32_t count, pid_t *child) {
    for (uint32_t round = 1; round <= count; round++) {
        uint64_t start = pf_now_ns();
        pf_store_release(&court->ping, round);
        style->wake(&court->ping);
        while (!style->wait(&court->pong, round - 1)) {
            int failed = check_child(child, start);
            /* The last answer may have come just before the child ended. */
            if (failed && pf_load_acquire(&court->pong) != round) {
                return failed;
            }
        }
        uint64_t took = pf_now_ns() - start;
        samples_ns[round - 1] = took > UINT32_MAX ? UINT32_MAX : (uint32_t)took;
    }
    return 0;
}

static void reap(pid_t child) {
    if (child < 0) {
        return;
    }
    /* It has nothing to tidy up, and may be stuck in its wait. */
    (void)kill(child, SIGKILL);
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR) {
    }
}

static int measure(const struct style *style, uint32_t *samples_ns, uint32_t count, int cpu_a,
                   int cpu_b) {
    cpu_set_t before;
    if (count == 0 || !samples_ns) {
        return -EINVAL;
    }
    if (sched_getaffinity(0, sizeof(before), &before) != 0) {
        return -errno;
    }
    struct court *court =
        mmap(NULL, sizeof(*court), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (court == MAP_FAILED) {
        return -errno;
    }
    pid_t parent = getpid();
    /* The child first: it inherits the affinity that the caller had. */
    pid_t child = fork();
    if (child == 0) {
        child_main(court, style, count, cpu_b, parent);
    }
    int result = child < 0 ? -errno : pin(cpu_a);
    if (result == 0) {
        result = play(court, style, samples_ns, count, &child);
    }
    reap(child);
    (void)sched_setaffinity(0, sizeof(before), &before);
    (void)munmap(court, sizeof(*court));
    return result;
}

int pf_floor_spin(uint32_t *samples_ns, uint32_t count, int cpu_a, int cpu_b) {
    static const struct style style = {spin_wait, spin_wake};
    return measure(&style, samples_ns, count, cpu_a, cpu_b);
}

int pf_floor_futex(uint32_t *samples_ns, uint32_t count, int cpu_a, int cpu_b) {
    static const struct style style = {futex_wait, futex_wake};
    return measure(&style, samples_ns, count, cpu_a, cpu_b);
}
