/* What the native tests share: checks that say what was wrong, a watchdog, a seeded generator. */
#ifndef PF_TESTS_CHECK_H
#define PF_TESTS_CHECK_H

#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Set by check_random_init, and printed by every failure, so that a run can be repeated. */
static uint64_t check_seed;
static uint64_t check_state = 1;

static inline void check_failed(const char *file, int line, const char *what) {
    fprintf(stderr, "%s:%d: FAILED: %s (PF_TEST_SEED=%llu)\n", file, line, what,
            (unsigned long long)check_seed);
    fflush(stderr);
    _exit(1);
}

static inline void check_equal(const char *file, int line, const char *what, long long got,
                               long long expected) {
    if (got != expected) {
        char text[512];
        (void)snprintf(text, sizeof(text), "%s: got %lld (0x%llx), expected %lld (0x%llx)", what,
                       got, (unsigned long long)got, expected, (unsigned long long)expected);
        check_failed(file, line, text);
    }
}

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            check_failed(__FILE__, __LINE__, #condition);                                          \
        }                                                                                          \
    } while (0)

#define CHECK_EQ(got, expected)                                                                    \
    check_equal(__FILE__, __LINE__, #got " == " #expected, (long long)(got), (long long)(expected))

/* Runs one test function and says so; a failure ends the program inside it. */
#define RUN(test)                                                                                  \
    do {                                                                                           \
        printf("  %s\n", #test);                                                                   \
        fflush(stdout);                                                                            \
        test();                                                                                    \
    } while (0)

static inline void check_watchdog_fired(int signal_number) {
    (void)signal_number;
    static const char text[] = "FAILED: watchdog: no progress (a lost wake-up, or a step that is "
                               "not bounded)\n";
    ssize_t ignored = write(STDERR_FILENO, text, sizeof(text) - 1);
    (void)ignored;
    _exit(1);
}

/* What may hang is bounded by this, never by hope. 0 takes the watchdog away. */
static inline void check_watchdog(unsigned seconds) {
    (void)signal(SIGALRM, check_watchdog_fired);
    (void)alarm(seconds);
}

static inline void check_random_init(void) {
    const char *text = getenv("PF_TEST_SEED");
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    check_seed = text ? strtoull(text, NULL, 10) : (uint64_t)now.tv_nsec * 1000003u + 1u;
    check_state = check_seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
}

static inline uint64_t check_random_next(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state * UINT64_C(0x2545f4914f6cdd1d) >> 16;
}

static inline uint32_t check_random(uint32_t below) {
    return (uint32_t)(check_random_next(&check_state) % below);
}

/* A child may not outlive the test, and has a watchdog of its own: alarms are not inherited. */
static inline void check_child_begin(pid_t parent, unsigned seconds) {
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) {
        _exit(1);
    }
    check_watchdog(seconds);
}

static inline void check_child_ended(const char *file, int line, pid_t child) {
    int status = 0;
    if (waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        check_failed(file, line, "the child process failed");
    }
}

#define CHECK_CHILD(child) check_child_ended(__FILE__, __LINE__, (child))

#endif
