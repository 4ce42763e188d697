/* Floors: the same ping-pong twice, once with a spinning wait, once with a futex.
 *
 * Neither wait has a time limit: arming a timer for each would add a fifth to what is measured
 * (seen: 6.2 us became 7.8 on one core). A thread that sleeps beside the measurement ends it
 * instead, when the child dies or nothing moves. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/floors.h"
#include "futex/futex.h"
#include "shm/atomics.h"

enum { CHILD_FAILED = 3, LOOK_MS = 1000, LOOKS_UNTIL_STALLED = 10, CHILD_SECONDS = 3600 };

/* In `pong`: the child plays no more. */
#define OVER UINT32_C(0x80000000)

/* Ping and pong on lines of their own: only the token itself travels. */
struct court {
    _Alignas(128) uint32_t ping;
    _Alignas(128) uint32_t pong;
};

struct style {
    /* Returns when the word is no longer `old`; perhaps earlier. */
    void (*wait)(const uint32_t *word, uint32_t old);
    void (*wake)(const uint32_t *word);
};

struct watch {
    struct court *court;
    int child_fd; /* readable when the child has ended */
    pid_t child;
    bool stalled;
    pthread_t thread;
};

static void spin_wait(const uint32_t *word, uint32_t old) {
    while (pf_load_relaxed(word) == old) {
        pf_cpu_relax();
    }
}

static void spin_wake(const uint32_t *word) { (void)word; }

/* Straight into the kernel, without a look before: this is what blocking costs. */
static void futex_wait(const uint32_t *word, uint32_t old) { (void)pf_futex_wait(word, old, -1); }

static void futex_wake(const uint32_t *word) { (void)pf_futex_wake(word, 1); }

static const struct style spinning = {spin_wait, spin_wake};
static const struct style blocking = {futex_wait, futex_wake};

static uint32_t wait_for_token(const struct style *style, const uint32_t *word, uint32_t old) {
    uint32_t token = old;
    while (token == old) {
        style->wait(word, old);
        token = pf_load_acquire(word);
    }
    return token;
}

static int pin(int cpu) {
    if (cpu < 0) {
        return 0;
    }
    if (cpu >= CPU_SETSIZE) {
        return -EINVAL;
    }
    cpu_set_t set;
    CPU_ZERO(&set);
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
        (void)wait_for_token(style, &court->ping, round - 1);
        pf_store_release(&court->pong, round);
        style->wake(&court->pong);
    }
    _exit(0);
}

static void *watch_main(void *argument) {
    struct watch *watch = argument;
    struct pollfd ended = {.fd = watch->child_fd, .events = POLLIN};
    uint32_t last = 0;
    int looks = 0;
    while (poll(&ended, 1, LOOK_MS) <= 0) {
        uint32_t pong = pf_load_relaxed(&watch->court->pong);
        looks = pong == last ? looks + 1 : 0;
        last = pong;
        if (looks == LOOKS_UNTIL_STALLED) {
            watch->stalled = true;
            (void)syscall(SYS_pidfd_send_signal, watch->child_fd, SIGKILL, NULL, 0);
        }
    }
    /* The child writes no more, so this thread may. */
    pf_store_release(&watch->court->pong, pf_load_relaxed(&watch->court->pong) | OVER);
    (void)pf_futex_wake(&watch->court->pong, 1);
    return NULL;
}

static int watch_start(struct watch *watch) {
    watch->child_fd = (int)syscall(SYS_pidfd_open, watch->child, 0);
    if (watch->child_fd < 0) {
        /* Nobody waited for it yet; it is gone only if the kernel reaps by itself (SIGCHLD). */
        return errno == ESRCH ? -EPIPE : -errno;
    }
    /* Signals are for the threads of the program. */
    sigset_t all;
    sigset_t before;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&watch->thread, NULL, watch_main, watch);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) {
        (void)close(watch->child_fd);
    }
    return -failed;
}

static int play(struct court *court, const struct style *style, uint32_t *samples_ns,
                uint32_t count) {
    for (uint32_t round = 1; round <= count; round++) {
        uint64_t start = pf_now_ns();
        pf_store_release(&court->ping, round);
        style->wake(&court->ping);
        uint32_t token = wait_for_token(style, &court->pong, round - 1);
        uint64_t took = pf_now_ns() - start;
        if ((token & ~OVER) != round) {
            return -EPIPE;
        }
        samples_ns[round - 1] = took > UINT32_MAX ? UINT32_MAX : (uint32_t)took;
    }
    return 0;
}

/* The child has nothing to tidy up, and may be stuck in its wait. True: it could not start. */
static bool end_child(pid_t child) {
    int status = 0;
    pid_t ended;
    do {
        ended = waitpid(child, &status, 0);
    } while (ended < 0 && errno == EINTR);
    return ended == child && WIFEXITED(status) && WEXITSTATUS(status) == CHILD_FAILED;
}

static int play_with_child(struct court *court, const struct style *style, uint32_t *samples_ns,
                           uint32_t count, const int cpus[2]) {
    pid_t parent = getpid();
    /* The child before the pinning: it inherits the affinity that the caller had. */
    pid_t child = fork();
    if (child == 0) {
        child_main(court, style, count, cpus[1], parent);
    }
    if (child < 0) {
        return -errno;
    }
    struct watch watch = {.court = court, .child = child};
    int result = watch_start(&watch);
    bool watched = result == 0;
    if (!watched && result != -EPIPE) {
        (void)kill(child, SIGKILL);
    }
    result = result ? result : pin(cpus[0]);
    result = result ? result : play(court, style, samples_ns, count);
    if (watched) {
        /* By descriptor: a number that the kernel reaped already might be somebody else's. */
        (void)syscall(SYS_pidfd_send_signal, watch.child_fd, SIGKILL, NULL, 0);
        (void)pthread_join(watch.thread, NULL);
        (void)close(watch.child_fd);
    }
    bool refused = end_child(child);
    if (result == -EPIPE) {
        result = watch.stalled ? -ETIMEDOUT : refused ? -EINVAL : -EPIPE;
    }
    return result;
}

static int measure(const struct style *style, uint32_t *samples_ns, uint32_t count, int cpu_a,
                   int cpu_b) {
    cpu_set_t before;
    if (count == 0 || count >= OVER || !samples_ns) {
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
    const int cpus[2] = {cpu_a, cpu_b};
    int result = play_with_child(court, style, samples_ns, count, cpus);
    (void)sched_setaffinity(0, sizeof(before), &before);
    (void)munmap(court, sizeof(*court));
    return result;
}

int pf_floor_spin(uint32_t *samples_ns, uint32_t count, int cpu_a, int cpu_b) {
    return measure(&spinning, samples_ns, count, cpu_a, cpu_b);
}

int pf_floor_futex(uint32_t *samples_ns, uint32_t count, int cpu_a, int cpu_b) {
    return measure(&blocking, samples_ns, count, cpu_a, cpu_b);
}
