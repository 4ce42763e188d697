/* shm/region.h: limits and messages of the plan, the seals, and the check at attach. */
#define _GNU_SOURCE
#include "shm/region.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "check.h"

static const struct pf_region_request SMALL = {3, 8, 8192, 131072};

struct span {
    uint64_t start;
    uint64_t bytes;
};

static void check_refused(struct pf_region_request request, const char *name) {
    struct pf_b2c_header header;
    char error[200] = "";
    CHECK_EQ(pf_region_plan(&request, &header, error, sizeof(error)), -EINVAL);
    if (!strstr(error, name) || !strstr(error, "allowed")) {
        fprintf(stderr, "message: \"%s\"\n", error);
        CHECK(!"the message names the field and what is allowed");
    }
    /* A small buffer is respected. */
    char tiny[8] = "xxxxxxx";
    CHECK_EQ(pf_region_plan(&request, &header, tiny, 4), -EINVAL);
    CHECK_EQ(tiny[3], 0);
    CHECK_EQ(tiny[4], 'x');
}

static void test_plan_refuses(void) {
    struct pf_region_request r;
#define REFUSED(field, value)                                                                      \
    do {                                                                                           \
        r = SMALL;                                                                                 \
        r.field = (value);                                                                         \
        check_refused(r, #field);                                                                  \
    } while (0)
    REFUSED(max_sockets, 0);
    REFUSED(max_sockets, PF_MAX_SOCKETS_LIMIT + 1);
    REFUSED(max_sockets, UINT32_MAX);
    REFUSED(queue_depth, 0);
    REFUSED(queue_depth, PF_MIN_QUEUE_DEPTH / 2);
    REFUSED(queue_depth, PF_MIN_QUEUE_DEPTH + 1);
    REFUSED(queue_depth, PF_MAX_QUEUE_DEPTH * 2);
    REFUSED(queue_depth, UINT32_C(1) << 31);
    REFUSED(rx_bytes, 0);
    REFUSED(rx_bytes, PF_MIN_RX_BYTES / 2);
    REFUSED(rx_bytes, PF_MIN_RX_BYTES + 1);
    REFUSED(rx_bytes, PF_MAX_RX_BYTES * 2);
    REFUSED(arena_bytes, 0);
    REFUSED(arena_bytes, PF_MIN_ARENA_BYTES - 1);
    REFUSED(arena_bytes, PF_MIN_ARENA_BYTES + 4096);
    REFUSED(arena_bytes, (uint64_t)PF_MAX_ARENA_BYTES + 65536);
    REFUSED(arena_bytes, UINT64_C(1) << 32);
#undef REFUSED
}

/* Parts lie in order, do not overlap, are aligned, and end within the region. */
static void check_spans(const struct span *spans, size_t count, uint64_t total) {
    uint64_t end = 0;
    for (size_t i = 0; i < count; i++) {
        CHECK(spans[i].start >= end);
        CHECK_EQ(spans[i].start % PF_CACHE_LINE, 0);
        CHECK(spans[i].start - end < 4096); /* and nothing is wasted */
        end = spans[i].start + spans[i].bytes;
    }
    CHECK(end <= total);
    CHECK(total - end < 4096);
    CHECK_EQ(total % 4096, 0);
}

static void check_layout(const struct pf_b2c_header *h, const struct pf_region_request *request) {
    uint64_t n = request->max_sockets;
    uint64_t hints = UINT64_C(4) * PF_PRIORITIES * h->hint_entries;
    CHECK_EQ(h->magic, PF_MAGIC);
    CHECK_EQ(h->abi_version, PF_ABI_VERSION);
    CHECK_EQ(h->max_sockets, request->max_sockets);
    CHECK_EQ(h->sq_depth, 2 * request->queue_depth);
    CHECK(h->cq_depth >= h->sq_depth);
    CHECK_EQ(h->cq_depth & (h->cq_depth - 1), 0);
    CHECK_EQ(h->rx_bytes, request->rx_bytes);
    CHECK_EQ(h->arena_bytes, request->arena_bytes);
    CHECK(h->hint_entries >= 2 * n);
    CHECK_EQ(h->hint_entries & (h->hint_entries - 1), 0);
    const struct span c2b[] = {
        {0, sizeof(struct pf_c2b_control)},
        {h->c2b_hints, hints},
        {h->c2b_sockets, n * sizeof(struct pf_socket_c2b)},
        {h->c2b_sq, n * h->sq_depth * sizeof(struct pf_sqe)},
        {h->c2b_arena, h->arena_bytes},
    };
    check_spans(c2b, sizeof(c2b) / sizeof(c2b[0]), h->c2b_bytes);
    const struct span b2c[] = {
        {0, sizeof(struct pf_b2c_header)},
        {h->b2c_control, sizeof(struct pf_b2c_control)},
        {h->b2c_hints, hints},
        {h->b2c_sockets, n * sizeof(struct pf_socket_b2c)},
        {h->b2c_cq, n * h->cq_depth * sizeof(struct pf_cqe)},
        {h->b2c_rx, n * h->rx_bytes},
    };
    check_spans(b2c, sizeof(b2c) / sizeof(b2c[0]), h->b2c_bytes);
    /* What the backend grants must be what the client accepts. */
    char error[200] = "";
    CHECK_EQ(pf_region_check(h, h->c2b_bytes, h->b2c_bytes, error, sizeof(error)), 0);
    CHECK_EQ(error[0], 0);
}

static void test_plan_limits(void) {
    static const uint32_t sockets[] = {1, 2, 3, 64, 1000, 1024, PF_MAX_SOCKETS_LIMIT};
    static const uint32_t depths[] = {PF_MIN_QUEUE_DEPTH, 64, PF_MAX_QUEUE_DEPTH};
    static const uint32_t rx[] = {PF_MIN_RX_BYTES, 65536, PF_MAX_RX_BYTES};
    static const uint64_t arenas[] = {PF_MIN_ARENA_BYTES, 196608, PF_MAX_ARENA_BYTES};
    for (size_t s = 0; s < sizeof(sockets) / sizeof(sockets[0]); s++) {
        for (size_t i = 0; i < 27; i++) {
            struct pf_region_request request = {sockets[s], depths[i % 3], rx[i / 3 % 3],
                                                arenas[i / 9]};
            struct pf_b2c_header header;
            char error[200] = "";
            CHECK_EQ(pf_region_plan(&request, &header, error, sizeof(error)), 0);
            check_layout(&header, &request);
        }
    }
}

/* What every holder of the descriptor can try, whichever region it is. */
static void check_size_is_sealed(int fd, uint64_t bytes) {
    struct stat status;
    CHECK_EQ(fstat(fd, &status), 0);
    CHECK_EQ(status.st_size, bytes);
    CHECK(ftruncate(fd, (off_t)bytes - 4096) == -1 && errno == EPERM);
    CHECK(ftruncate(fd, 0) == -1 && errno == EPERM);
    CHECK(ftruncate(fd, (off_t)bytes + 4096) == -1 && errno == EPERM);
    CHECK(fallocate(fd, 0, (off_t)bytes, 4096) == -1 && errno == EPERM);
    int seals = fcntl(fd, F_GET_SEALS);
    CHECK((seals & (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) ==
          (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL));
    CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) == -1 && errno == EPERM);
    CHECK_EQ(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
}

static void test_sealed_against_writers(void) {
    enum { BYTES = 65536 };
    void *own = NULL;
    int fd = pf_region_create("pifus-test", BYTES, 1, &own);
    CHECK(fd >= 0);
    CHECK(own);
    memset(own, 0x11, BYTES); /* the maker writes */
    check_size_is_sealed(fd, BYTES);

    CHECK(pf_region_map(fd, BYTES, 1) == NULL && errno == EPERM);
    CHECK(mmap(NULL, 4096, PROT_WRITE, MAP_SHARED, fd, 4096) == MAP_FAILED && errno == EPERM);
    CHECK(pwrite(fd, "x", 1, 0) == -1 && errno == EPERM);
    CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) == -1 &&
          errno == EPERM);

    uint8_t *reader = pf_region_map(fd, BYTES, 0);
    CHECK(reader);
    CHECK_EQ(reader[BYTES - 1], 0x11);
    /* The kernel's answer to raising a mapping that may never be writable is EACCES. */
    CHECK(mprotect(reader, BYTES, PROT_READ | PROT_WRITE) == -1 &&
          (errno == EACCES || errno == EPERM));
    /* By way of /proc a descriptor can be opened anew: the seals belong to the file. */
    char path[64];
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    int again = open(path, O_RDWR | O_CLOEXEC);
    if (again >= 0) {
        CHECK(pf_region_map(again, BYTES, 1) == NULL && errno == EPERM);
        CHECK(ftruncate(again, 0) == -1);
        (void)close(again);
    }
    ((uint8_t *)own)[5] = 0x22;
    CHECK_EQ(reader[5], 0x22);
    pf_region_unmap(reader, BYTES);
    pf_region_unmap(own, BYTES);
    (void)close(fd);
}

static void test_client_writable_region(void) {
    enum { BYTES = 65536 };
    void *backend = NULL;
    int fd = pf_region_create("pifus-test", BYTES, 0, &backend);
    CHECK(fd >= 0);
    CHECK(backend);
    check_size_is_sealed(fd, BYTES);
    uint8_t *client = pf_region_map(fd, BYTES, 1);
    CHECK(client);
    client[4097] = 0x33;
    CHECK_EQ(((const uint8_t *)backend)[4097], 0x33);
    /* The backend's own mapping is read-only: writing there must be a fault, not a change. */
    pid_t parent = getpid();
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        check_child_begin(parent, 20);
        (void)signal(SIGSEGV, SIG_DFL); /* a sanitizer's report is not wanted */
        void *mine = NULL;
        CHECK(pf_region_create("pifus-test", BYTES, 0, &mine) >= 0);
        *(uint8_t *)mine = 1;
        _exit(0);
    }
    int status = 0;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    pf_region_unmap(client, BYTES);
    pf_region_unmap(backend, BYTES);
    (void)close(fd);
}

/* A forked child of a client must not hold the mapping: there is one writer per word. */
static void test_not_inherited_by_fork(void) {
    void *own = NULL;
    int fd = pf_region_create("pifus-test", 8192, 1, &own);
    CHECK(fd >= 0);
    pid_t parent = getpid();
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        check_child_begin(parent, 20);
        unsigned char resident[2];
        _exit(mincore(own, 8192, resident) == -1 && errno == ENOMEM ? 0 : 1);
    }
    CHECK_CHILD(child);
    pf_region_unmap(own, 8192);
    (void)close(fd);
}

static void test_create_and_map_failures(void) {
    void *mapping = &mapping;
    int before = dup(STDERR_FILENO);
    CHECK(pf_region_create("pifus-test", 0, 1, &mapping) < 0);
    CHECK(mapping == NULL);
    CHECK(pf_region_create("pifus-test", UINT64_MAX, 1, &mapping) < 0);
    CHECK(mapping == NULL);
    CHECK(pf_region_map(-1, 4096, 0) == NULL && errno == EBADF);
    /* No descriptor leaked on the way. */
    int after = dup(STDERR_FILENO);
    CHECK_EQ(after, before + 1);
    (void)close(before);
    (void)close(after);
}

static void check_bad(struct pf_b2c_header header, const char *word) {
    struct pf_b2c_header good;
    char error[300] = "";
    CHECK_EQ(pf_region_plan(&SMALL, &good, error, sizeof(error)), 0);
    int result = pf_region_check(&header, good.c2b_bytes, good.b2c_bytes, error, sizeof(error));
    CHECK_EQ(result, -EPROTO);
    if (!strstr(error, word)) {
        fprintf(stderr, "message: \"%s\", expected in it: \"%s\"\n", error, word);
        CHECK(!"the message says what is wrong");
    }
}

static void test_check_refuses(void) {
    struct pf_b2c_header good;
    struct pf_b2c_header bad;
    char error[300] = "";
    CHECK_EQ(pf_region_plan(&SMALL, &good, error, sizeof(error)), 0);
    /* What the plan does not decide may be anything. */
    good.session_id = 77;
    good.allowed_priority = PF_PRIORITY_LOW;
    CHECK_EQ(pf_region_check(&good, good.c2b_bytes, good.b2c_bytes, error, sizeof(error)), 0);
#define BAD(field, value, word)                                                                    \
    do {                                                                                           \
        bad = good;                                                                                \
        bad.field = (value);                                                                       \
        check_bad(bad, word);                                                                      \
    } while (0)
    BAD(magic, PF_MAGIC + 1, "version");
    BAD(magic, 0, "version");
    BAD(abi_version, PF_ABI_VERSION + 1, "version");
    BAD(abi_version, 0, "version");
    BAD(max_sockets, 0, "max_sockets");
    BAD(max_sockets, good.max_sockets + 1, "layout");
    BAD(max_sockets, UINT32_MAX, "max_sockets");
    BAD(hint_entries, good.hint_entries * 2, "layout");
    BAD(hint_entries, 0, "layout");
    BAD(sq_depth, 3, "queue_depth");
    BAD(sq_depth, good.sq_depth * 2, "layout");
    BAD(cq_depth, good.cq_depth * 2, "layout");
    BAD(rx_bytes, 5000, "rx_bytes");
    BAD(rx_bytes, good.rx_bytes * 2, "layout");
    BAD(arena_bytes, good.arena_bytes + 1, "arena_bytes");
    BAD(arena_bytes, good.arena_bytes * 2, "layout");
    BAD(c2b_bytes, good.c2b_bytes + 4096, "layout");
    BAD(b2c_bytes, good.b2c_bytes - 4096, "layout");
    BAD(c2b_hints, good.c2b_hints + 64, "layout");
    BAD(c2b_sockets, UINT64_MAX, "layout");
    BAD(c2b_sq, 0, "layout");
    BAD(c2b_arena, good.c2b_arena + 64, "layout");
    BAD(b2c_control, 0, "layout");
    BAD(b2c_hints, 0, "layout");
    BAD(b2c_sockets, good.b2c_sockets + 128, "layout");
    BAD(b2c_cq, UINT64_C(1) << 40, "layout");
    BAD(b2c_rx, 0, "layout");
#undef BAD
    /* The header may be right and the descriptors of another size. */
    CHECK_EQ(pf_region_check(&good, good.c2b_bytes - 4096, good.b2c_bytes, error, sizeof(error)),
             -EPROTO);
    CHECK_EQ(pf_region_check(&good, good.c2b_bytes, good.b2c_bytes + 4096, error, sizeof(error)),
             -EPROTO);
}

int main(void) {
    check_random_init();
    check_watchdog(60);
    RUN(test_plan_refuses);
    RUN(test_plan_limits);
    RUN(test_sealed_against_writers);
    RUN(test_client_writable_region);
    RUN(test_not_inherited_by_fork);
    RUN(test_create_and_map_failures);
    RUN(test_check_refuses);
    return 0;
}
