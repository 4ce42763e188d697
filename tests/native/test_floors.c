/* bench/floors.c: it measures, it ends, it leaves nothing behind. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>

#include "bench/floors.h"
#include "check.h"
#include "futex/futex.h"

typedef int (*floor_function)(uint32_t *samples_ns, uint32_t count, int cpu_a, int cpu_b);

enum { COUNT = 300 };

static int first_cpu(bool last) {
    cpu_set_t set;
    CHECK_EQ(sched_getaffinity(0, sizeof(set), &set), 0);
    int found = -1;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET(cpu, &set) && (last || found < 0)) {
            found = cpu;
        }
    }
    return found;
}

static void check_no_child(void) { CHECK(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD); }

static void check_measures(floor_function floor, uint32_t count, int cpu_a, int cpu_b) {
    uint32_t samples[COUNT + 1];
    cpu_set_t before;
    cpu_set_t after;
    memset(samples, 0, sizeof(samples));
    CHECK_EQ(sched_getaffinity(0, sizeof(before), &before), 0);
    uint64_t start = pf_now_ns();
    CHECK_EQ(floor(samples, count, cpu_a, cpu_b), 0);
    uint64_t took = pf_now_ns() - start;
    uint64_t sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        CHECK(samples[i] > 0);
        sum += samples[i];
    }
    CHECK(sum <= took);
    CHECK_EQ(samples[count], 0);
    CHECK_EQ(sched_getaffinity(0, sizeof(after), &after), 0);
    CHECK(CPU_EQUAL(&before, &after));
    check_no_child();
}

static void test_measures(void) {
    static const floor_function floors[] = {pf_floor_spin, pf_floor_futex};
    for (int i = 0; i < 2; i++) {
        check_measures(floors[i], COUNT, -1, -1);
        check_measures(floors[i], COUNT, first_cpu(false), first_cpu(true));
        check_measures(floors[i], COUNT, first_cpu(true), -1);
        check_measures(floors[i], 1, -1, -1);
    }
    /* Spinning on one core waits for time slices: a few rounds are enough. */
    check_measures(pf_floor_futex, COUNT, first_cpu(false), first_cpu(false));
    check_measures(pf_floor_spin, 5, first_cpu(false), first_cpu(false));
}

static void test_refuses(void) {
    uint32_t sample = 7;
    CHECK_EQ(pf_floor_spin(&sample, 0, -1, -1), -EINVAL);
    CHECK_EQ(pf_floor_futex(NULL, 1, -1, -1), -EINVAL);
    CHECK_EQ(pf_floor_futex(&sample, 1, CPU_SETSIZE, -1), -EINVAL);
    CHECK_EQ(pf_floor_spin(&sample, 1, CPU_SETSIZE - 1, -1), -EINVAL); /* no such processor */
    check_no_child();
    CHECK_EQ(pf_floor_spin(&sample, 1, -1, CPU_SETSIZE), -EINVAL); /* the child cannot go there */
    CHECK_EQ(pf_floor_futex(&sample, 1, -1, CPU_SETSIZE), -EINVAL);
    CHECK_EQ(sample, 7);
    check_no_child();
}

/* With SIGCHLD ignored the kernel reaps children by itself, and waitpid has nothing to tell. */
static void test_ignored_sigchld(void) {
    uint32_t samples[10];
    (void)signal(SIGCHLD, SIG_IGN);
    CHECK_EQ(pf_floor_futex(samples, 10, -1, -1), 0);
    CHECK_EQ(pf_floor_spin(samples, 10, -1, CPU_SETSIZE), -EPIPE);
    (void)signal(SIGCHLD, SIG_DFL);
    check_no_child();
}

/* The whole of /proc/PID/stat's parent field is more than this needs: the children file names them.
 */
static pid_t only_child_of(pid_t pid) {
    char path[64];
    char text[64] = "";
    (void)snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return -1;
    }
    ssize_t length = read(fd, text, sizeof(text) - 1);
    (void)close(fd);
    return length > 0 ? (pid_t)strtol(text, NULL, 10) : 0;
}

/* A process measures for ever; returns its own id and that of its player. */
static pid_t start_endless(floor_function floor, pid_t *player) {
    pid_t parent = getpid();
    pid_t measurer = fork();
    CHECK(measurer >= 0);
    if (measurer == 0) {
        check_child_begin(parent, 60);
        enum { ENDLESS = 200000000 };
        uint32_t *samples = mmap(NULL, ENDLESS * sizeof(*samples), PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        CHECK(samples != MAP_FAILED);
        _exit(-floor(samples, ENDLESS, -1, -1));
    }
    for (*player = 0; *player == 0; *player = only_child_of(measurer)) {
        (void)sched_yield();
    }
    return measurer;
}

static void test_player_dies(floor_function floor) {
    pid_t player;
    pid_t measurer = start_endless(floor, &player);
    int status = 0;
    if (player > 0) {
        CHECK_EQ(kill(player, SIGKILL), 0);
        CHECK_EQ(waitpid(measurer, &status, 0), measurer);
        CHECK(WIFEXITED(status));
        CHECK_EQ(WEXITSTATUS(status), EPIPE);
    } else {
        printf("    this kernel does not name children: not tried\n");
        (void)kill(measurer, SIGKILL);
        CHECK_EQ(waitpid(measurer, &status, 0), measurer);
    }
}

static void test_measurer_dies(floor_function floor) {
    pid_t player;
    pid_t measurer = start_endless(floor, &player);
    CHECK_EQ(kill(measurer, SIGKILL), 0);
    CHECK_EQ(waitpid(measurer, NULL, 0), measurer);
    /* It is ours now (see main): it must end without our doing. The watchdog waits with us. */
    if (player > 0) {
        CHECK_EQ(waitpid(player, NULL, 0), player);
    }
    while (waitpid(-1, NULL, 0) > 0) {
    }
    check_no_child();
}

static void test_deaths(void) {
    test_player_dies(pf_floor_spin);
    test_player_dies(pf_floor_futex);
    test_measurer_dies(pf_floor_spin);
    test_measurer_dies(pf_floor_futex);
}

int main(void) {
    check_random_init();
    check_watchdog(60);
    CHECK_EQ(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
    RUN(test_measures);
    RUN(test_refuses);
    RUN(test_ignored_sigchld);
    RUN(test_deaths);
    return 0;
}
