/* futex/doorbell.h and futex/futex.h: no wake-up is lost, between threads and between processes. */
#define _GNU_SOURCE
#include "futex/doorbell.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <time.h>

#include "check.h"
#include "shm/region.h"

enum { SLEEPERS = 3, SHARED_BYTES = 4096, SLEEP_MS = 20 };

#define ROUNDS UINT32_C(1000000)
#define ROUND_BUDGET_NS (UINT64_C(1000) * 1000000)
#define MS_NS INT64_C(1000000)

/* Lives in a memfd region, so that the same code runs over threads and over processes. */
struct shared {
    _Alignas(64) uint32_t news;
    _Alignas(64) uint32_t taken[SLEEPERS];
    _Alignas(64) uint32_t sleeping;
    _Alignas(64) uint32_t event;
    _Alignas(64) uint32_t waiting;
    _Alignas(64) uint32_t last; /* the news after which the sleepers end; 0: not known yet */
    uint32_t sleeps;
};

struct party {
    struct shared *shared;
    int eventfd;
    uint32_t index;
    bool apart;
};

typedef void (*role)(struct party *party);

static void dawdle(uint32_t below) {
    for (uint32_t pause = check_random(below); pause > 0; pause--) {
        pf_cpu_relax();
    }
}

/* On one core the two sides take turns, and the stores under test never meet: half of the runs put
 * them apart. There, a wake-up takes ten times as long; the other half has more rounds. */
static void place(uint32_t party, bool apart) {
    cpu_set_t all;
    cpu_set_t one;
    CPU_ZERO(&one);
    if (!apart || sched_getaffinity(0, sizeof(all), &all) != 0) {
        return;
    }
    uint32_t wanted = party % (uint32_t)CPU_COUNT(&all);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET(cpu, &all) && wanted-- == 0) {
            CPU_SET(cpu, &one);
            (void)sched_setaffinity(0, sizeof(one), &one);
            return;
        }
    }
}

static bool has_news(const struct party *party) {
    return pf_load_acquire(&party->shared->news) != party->shared->taken[party->index];
}

/* Takes the news. True: it was the last. */
static bool take_news(struct party *party) {
    uint32_t news = pf_load_acquire(&party->shared->news);
    uint32_t last = pf_load_acquire(&party->shared->last);
    pf_store_release(&party->shared->taken[party->index], news);
    return last != 0 && news == last;
}

/* ---- the backend's side: a flag and an eventfd ---- */

static void backend_sleeper(struct party *party) {
    struct shared *shared = party->shared;
    uint64_t random = 7;
    for (;;) {
        for (uint32_t spin = (uint32_t)(check_random_next(&random) % 64);
             spin > 0 && !has_news(party); spin--) {
            pf_cpu_relax();
        }
        if (!has_news(party)) {
            pf_doorbell_announce(&shared->sleeping, PF_PRIORITIES);
            if (!has_news(party)) {
                uint64_t rings = 0;
                shared->sleeps++;
                CHECK_EQ(read(party->eventfd, &rings, sizeof(rings)), sizeof(rings));
            }
            pf_doorbell_awake(&shared->sleeping);
        }
        if (has_news(party) && take_news(party)) {
            return;
        }
    }
}

static void backend_ringer(struct party *party) {
    if (pf_doorbell_must_ring(&party->shared->sleeping, PF_PRIORITY_LOW)) {
        uint64_t one = 1;
        CHECK_EQ(write(party->eventfd, &one, sizeof(one)), sizeof(one));
    }
}

/* ---- the client's side: a counter of sleepers and a futex ---- */

static void client_sleeper(struct party *party) {
    struct shared *shared = party->shared;
    uint64_t random = 11 + party->index;
    for (;;) {
        for (uint32_t spin = (uint32_t)(check_random_next(&random) % 64);
             spin > 0 && !has_news(party); spin--) {
            pf_cpu_relax();
        }
        uint32_t seen = pf_load_acquire(&shared->event);
        if (!has_news(party)) {
            if (party->index == 0) {
                shared->sleeps++;
            }
            CHECK_EQ(pf_event_sleep(&shared->event, seen, &shared->waiting, -1), 0);
            continue;
        }
        if (take_news(party)) {
            return;
        }
    }
}

static void client_ringer(struct party *party) {
    (void)pf_event_ring(&party->shared->event, &party->shared->waiting);
}

/* ---- rounds: publish, ring, wait until all have taken it; a lost ring is never taken ---- */

static uint32_t run_rounds(struct party *party, uint32_t sleepers, role ring) {
    struct shared *shared = party->shared;
    uint64_t end = pf_now_ns() + ROUND_BUDGET_NS;
    uint32_t round = 0;
    bool last = false;
    while (!last) {
        round++;
        last = round == ROUNDS || (round % 64 == 0 && pf_now_ns() > end);
        dawdle(64);
        if (last) {
            pf_store_release(&shared->last, round);
        }
        pf_store_release(&shared->news, round);
        ring(party);
        for (uint32_t i = 0; i < sleepers; i++) {
            unsigned idle = 0;
            while (pf_load_acquire(&shared->taken[i]) != round) {
                if (++idle % 128 == 0) {
                    (void)sched_yield();
                } else {
                    pf_cpu_relax();
                }
            }
        }
    }
    return round;
}

static void check_rounds(const char *name, const struct shared *shared, uint32_t rounds) {
    printf("    %s: %u rounds, %u sleeps\n", name, rounds, shared->sleeps);
    (void)fflush(stdout); /* a child must not print it again */
    CHECK(rounds >= 64);
    CHECK(shared->sleeps > 0); /* otherwise nothing was tested */
    CHECK_EQ(shared->waiting, 0);
    CHECK_EQ(shared->sleeping, 0);
}

static int shared_create(struct shared **shared) {
    void *reader = NULL;
    int fd = pf_region_create("pifus-test", SHARED_BYTES, 0, &reader);
    CHECK(fd >= 0);
    pf_region_unmap(reader, SHARED_BYTES);
    *shared = pf_region_map(fd, SHARED_BYTES, 1);
    CHECK(*shared);
    return fd;
}

struct thread_start {
    role run;
    struct party party;
};

static void *thread_main(void *argument) {
    struct thread_start *start = argument;
    place(start->party.index + 1, start->party.apart);
    start->run(&start->party);
    return NULL;
}

static void between_threads(const char *name, uint32_t sleepers, role sleep, role ring,
                            bool apart) {
    cpu_set_t before;
    CHECK_EQ(sched_getaffinity(0, sizeof(before), &before), 0);
    struct shared *shared = NULL;
    int fd = shared_create(&shared);
    int bell = eventfd(0, EFD_CLOEXEC);
    pthread_t threads[SLEEPERS];
    struct thread_start starts[SLEEPERS];
    for (uint32_t i = 0; i < sleepers; i++) {
        starts[i] = (struct thread_start){sleep, {shared, bell, i, apart}};
        CHECK_EQ(pthread_create(&threads[i], NULL, thread_main, &starts[i]), 0);
    }
    struct party party = {shared, bell, 0, apart};
    place(0, apart);
    uint32_t rounds = run_rounds(&party, sleepers, ring);
    (void)sched_setaffinity(0, sizeof(before), &before);
    for (uint32_t i = 0; i < sleepers; i++) {
        CHECK_EQ(pthread_join(threads[i], NULL), 0);
    }
    check_rounds(name, shared, rounds);
    pf_region_unmap(shared, SHARED_BYTES);
    (void)close(bell);
    (void)close(fd);
}

static void between_processes(const char *name, uint32_t sleepers, role sleep, role ring,
                              bool apart) {
    cpu_set_t before;
    CHECK_EQ(sched_getaffinity(0, sizeof(before), &before), 0);
    struct shared *shared = NULL;
    int fd = shared_create(&shared);
    int bell = eventfd(0, EFD_CLOEXEC);
    pid_t parent = getpid();
    pid_t children[SLEEPERS];
    for (uint32_t i = 0; i < sleepers; i++) {
        children[i] = fork();
        CHECK(children[i] >= 0);
        if (children[i] == 0) {
            check_child_begin(parent, 60);
            /* The parent's mapping is not inherited: this is another address, as in real life. */
            struct party party = {pf_region_map(fd, SHARED_BYTES, 1), bell, i, apart};
            CHECK(party.shared);
            place(i + 1, apart);
            sleep(&party);
            _exit(0);
        }
    }
    struct party party = {shared, bell, 0, apart};
    place(0, apart);
    uint32_t rounds = run_rounds(&party, sleepers, ring);
    (void)sched_setaffinity(0, sizeof(before), &before);
    for (uint32_t i = 0; i < sleepers; i++) {
        CHECK_CHILD(children[i]);
    }
    check_rounds(name, shared, rounds);
    pf_region_unmap(shared, SHARED_BYTES);
    (void)close(bell);
    (void)close(fd);
}

static void test_backend_between_processes(void) {
    between_processes("eventfd, apart", 1, backend_sleeper, backend_ringer, true);
    between_processes("eventfd", 1, backend_sleeper, backend_ringer, false);
}

static void test_client_between_processes(void) {
    between_processes("futex, apart", 1, client_sleeper, client_ringer, true);
    between_processes("futex", 1, client_sleeper, client_ringer, false);
    between_processes("futex, several", SLEEPERS, client_sleeper, client_ringer, false);
}

static void test_backend_between_threads(void) {
    between_threads("eventfd, apart", 1, backend_sleeper, backend_ringer, true);
    between_threads("eventfd", 1, backend_sleeper, backend_ringer, false);
}

static void test_client_between_threads(void) {
    between_threads("futex, apart", 1, client_sleeper, client_ringer, true);
    between_threads("futex", 1, client_sleeper, client_ringer, false);
    between_threads("futex, several", SLEEPERS, client_sleeper, client_ringer, false);
}

/* ---- the system calls themselves ---- */

static void test_flags(void) {
    uint32_t sleeping = 0;
    CHECK(!pf_doorbell_must_ring(&sleeping, PF_PRIORITY_HIGH));
    pf_doorbell_announce(&sleeping, PF_PRIORITIES);
    CHECK(pf_doorbell_must_ring(&sleeping, PF_PRIORITY_LOW));
    pf_doorbell_announce(&sleeping, PF_PRIORITY_HIGH + 1); /* resting */
    CHECK(pf_doorbell_must_ring(&sleeping, PF_PRIORITY_HIGH));
    CHECK(!pf_doorbell_must_ring(&sleeping, PF_PRIORITY_MEDIUM));
    pf_doorbell_awake(&sleeping);
    CHECK(!pf_doorbell_must_ring(&sleeping, PF_PRIORITY_HIGH));
    uint32_t event = UINT32_MAX;
    uint32_t waiting = 0;
    CHECK(!pf_event_ring(&event, &waiting));
    CHECK_EQ(event, 0);
    waiting = 1;
    CHECK(pf_event_ring(&event, &waiting));
    CHECK_EQ(event, 1);
    CHECK_EQ(pf_event_sleep(&event, 0, &waiting, -1), 0); /* changed already: does not sleep */
    CHECK_EQ(waiting, 1);
    CHECK_EQ(pf_event_sleep(&event, 1, &waiting, MS_NS), -ETIMEDOUT);
    CHECK_EQ(waiting, 1);
}

static void check_took(uint64_t start, int64_t at_least_ns) {
    int64_t took = (int64_t)(pf_now_ns() - start);
    CHECK(took >= at_least_ns);
    CHECK(took < at_least_ns + 5000 * MS_NS);
}

static void test_wait_time_outs(void) {
    uint32_t word = 5;
    CHECK_EQ(pf_futex_wait(&word, 4, -1), 0);
    CHECK_EQ(pf_futex_wait(&word, 4, 0), 0);
    uint64_t start = pf_now_ns();
    CHECK_EQ(pf_futex_wait(&word, 5, 0), -ETIMEDOUT);
    check_took(start, 0);
    start = pf_now_ns();
    CHECK_EQ(pf_futex_wait(&word, 5, SLEEP_MS * MS_NS), -ETIMEDOUT);
    check_took(start, SLEEP_MS * MS_NS);
    start = pf_now_ns();
    CHECK_EQ(pf_futex_wait(&word, 5, 1005 * MS_NS), -ETIMEDOUT); /* carries into the seconds */
    check_took(start, 1005 * MS_NS);
    CHECK_EQ(pf_futex_wake(&word, 1), 0);
}

static void on_signal(int number) { (void)number; }

/* A signal every few ms until told otherwise: one alone could come before the wait begins. */
static void signals(long every_us) {
    struct sigaction action = {.sa_handler = on_signal};
    CHECK_EQ(sigaction(SIGUSR1, &action, NULL), 0);
    static timer_t timer;
    if (every_us == 0) {
        CHECK_EQ(timer_delete(timer), 0);
        return;
    }
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    struct itimerspec interval = {{0, every_us * 1000}, {0, every_us * 1000}};
    CHECK_EQ(timer_create(CLOCK_MONOTONIC, &event, &timer), 0);
    CHECK_EQ(timer_settime(timer, 0, &interval, NULL), 0);
}

static void test_interrupted(void) {
    uint32_t word = 5;
    uint32_t waiting = 0;
    const uint32_t *words[] = {&word};
    signals(5000);
    CHECK_EQ(pf_futex_wait(&word, 5, -1), -EINTR);
    CHECK_EQ(pf_futex_wait(&word, 5, 60000 * MS_NS), -EINTR);
    CHECK_EQ(pf_event_sleep(&word, 5, &waiting, -1), -EINTR);
    CHECK_EQ(waiting, 0);
    int result = pf_futex_waitv(words, &word, 1, -1);
    CHECK(result == -EINTR || result == -ENOSYS);
    signals(0);
}

struct waker {
    uint32_t *word;
    uint32_t value;
};

/* Changes the word and wakes until somebody was there to be woken. */
static void *waker_thread(void *argument) {
    struct waker *waker = argument;
    if (waker->value) {
        pf_store_release(waker->word, waker->value);
    }
    while (pf_futex_wake(waker->word, 1) == 0) {
        (void)sched_yield();
    }
    return NULL;
}

static void test_waitv(void) {
    uint32_t values[128] = {0};
    uint32_t expected[129] = {0};
    const uint32_t *words[129];
    for (int i = 0; i < 129; i++) {
        words[i] = &values[i % 128];
    }
    expected[3] = 1;
    int result = pf_futex_waitv(words, expected, 128, -1);
    if (result == -ENOSYS) {
        printf("    this kernel has no futex_waitv\n");
        return;
    }
    CHECK_EQ(result, -EAGAIN);
    expected[3] = 0;
    CHECK_EQ(pf_futex_waitv(words, expected, 0, -1), -EINVAL);
    CHECK_EQ(pf_futex_waitv(words, expected, 129, -1), -EINVAL);
    uint64_t start = pf_now_ns();
    CHECK_EQ(pf_futex_waitv(words, expected, 128, SLEEP_MS * MS_NS), -ETIMEDOUT);
    check_took(start, SLEEP_MS * MS_NS);
    start = pf_now_ns();
    CHECK_EQ(pf_futex_waitv(words, expected, 2, 999 * MS_NS), -ETIMEDOUT);
    check_took(start, 999 * MS_NS);
    CHECK_EQ(pf_futex_waitv(words, expected, 1, 0), -ETIMEDOUT);

    /* Woken without a change: the index tells by whom, with a time limit and without. */
    for (int i = 0; i < 2; i++) {
        struct waker waker = {&values[100], 0};
        pthread_t thread;
        CHECK_EQ(pthread_create(&thread, NULL, waker_thread, &waker), 0);
        CHECK_EQ(pf_futex_waitv(words, expected, 128, i ? -1 : 30000 * MS_NS), 100);
        CHECK_EQ(pthread_join(thread, NULL), 0);
    }
}

/* A client sleeps on a word in a region that it cannot write: the seal must not hinder it. */
static void test_read_only_word(void) {
    void *writer = NULL;
    int fd = pf_region_create("pifus-test", SHARED_BYTES, 1, &writer);
    CHECK(fd >= 0);
    const uint32_t *word = pf_region_map(fd, SHARED_BYTES, 0);
    CHECK(word);
    CHECK_EQ(pf_futex_wait(word, 1, -1), 0);
    CHECK_EQ(pf_futex_wait(word, 0, MS_NS), -ETIMEDOUT);
    const uint32_t *words[] = {word};
    uint32_t expected = 0;
    for (int i = 0; i < 2; i++) {
        struct waker waker = {writer, 0};
        pthread_t thread;
        CHECK_EQ(pthread_create(&thread, NULL, waker_thread, &waker), 0);
        int result = i ? pf_futex_waitv(words, &expected, 1, -1) : pf_futex_wait(word, 0, -1);
        if (result == -ENOSYS) {
            CHECK_EQ(pf_futex_wait(word, 0, -1), 0);
            result = 0;
        }
        CHECK_EQ(result, 0);
        CHECK_EQ(pthread_join(thread, NULL), 0);
    }
    pf_region_unmap((void *)(uintptr_t)word, SHARED_BYTES);
    pf_region_unmap(writer, SHARED_BYTES);
    (void)close(fd);
}

int main(void) {
    check_random_init();
    _Static_assert(sizeof(struct shared) <= SHARED_BYTES, "fits");
    check_watchdog(60);
    RUN(test_flags);
    RUN(test_wait_time_outs);
    RUN(test_interrupted);
    RUN(test_waitv);
    RUN(test_read_only_word);
    /* Processes first: a process with several threads is better not forked. */
    check_watchdog(60);
    RUN(test_backend_between_processes);
    RUN(test_client_between_processes);
    check_watchdog(60);
    RUN(test_backend_between_threads);
    RUN(test_client_between_threads);
    return 0;
}
