#define _GNU_SOURCE
#include "shm/region.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "shm/ring.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

enum { PAGE_BYTES = 4096 };

static uint64_t page_up(uint64_t bytes) {
    return (bytes + PAGE_BYTES - 1) & ~(uint64_t)(PAGE_BYTES - 1);
}

static int check_request(const struct pf_region_request *request, char *error, size_t error_bytes) {
    if (request->max_sockets < 1 || request->max_sockets > PF_MAX_SOCKETS_LIMIT) {
        (void)snprintf(error, error_bytes, "max_sockets is %u; allowed is 1 to %d",
                       request->max_sockets, PF_MAX_SOCKETS_LIMIT);
        return -EINVAL;
    }
    if (!pf_is_power_of_two(request->queue_depth) || request->queue_depth < PF_MIN_QUEUE_DEPTH ||
        request->queue_depth > PF_MAX_QUEUE_DEPTH) {
        (void)snprintf(error, error_bytes, "queue_depth is %u; allowed is a power of two, %d to %d",
                       request->queue_depth, PF_MIN_QUEUE_DEPTH, PF_MAX_QUEUE_DEPTH);
        return -EINVAL;
    }
    if (!pf_is_power_of_two(request->rx_bytes) || request->rx_bytes < PF_MIN_RX_BYTES ||
        request->rx_bytes > PF_MAX_RX_BYTES) {
        (void)snprintf(error, error_bytes, "rx_bytes is %u; allowed is a power of two, %d to %d",
                       request->rx_bytes, PF_MIN_RX_BYTES, PF_MAX_RX_BYTES);
        return -EINVAL;
    }
    if (request->arena_bytes < PF_MIN_ARENA_BYTES || request->arena_bytes > PF_MAX_ARENA_BYTES ||
        request->arena_bytes % 65536 != 0) {
        (void)snprintf(error, error_bytes,
                       "arena_bytes is %" PRIu64 "; allowed is a multiple of 65536, %d to %d",
                       request->arena_bytes, PF_MIN_ARENA_BYTES, PF_MAX_ARENA_BYTES);
        return -EINVAL;
    }
    return 0;
}

int pf_region_plan(const struct pf_region_request *request, struct pf_b2c_header *header,
                   char *error, size_t error_bytes) {
    int bad = check_request(request, error, error_bytes);
    if (bad) {
        return bad;
    }
    memset(header, 0, sizeof(*header));
    uint64_t sockets = request->max_sockets;
    uint32_t hints = 2;
    while (hints < 2 * request->max_sockets) {
        hints *= 2;
    }
    header->magic = PF_MAGIC;
    header->abi_version = PF_ABI_VERSION;
    header->max_sockets = request->max_sockets;
    header->hint_entries = hints;
    /* Twice: beside the user's operations there are our own (open, mirror, close), and a submission
     * queue as deep as the completion queue can never be full of operations that have a completion
     * slot. */
    header->sq_depth = 2 * request->queue_depth;
    header->cq_depth = 2 * request->queue_depth;
    header->rx_bytes = request->rx_bytes;
    header->arena_bytes = request->arena_bytes;
    uint64_t hint_bytes = (uint64_t)PF_PRIORITIES * hints * sizeof(uint32_t);

    header->c2b_hints = sizeof(struct pf_c2b_control);
    header->c2b_sockets = page_up(header->c2b_hints + hint_bytes);
    header->c2b_sq = page_up(header->c2b_sockets + sockets * sizeof(struct pf_socket_c2b));
    header->c2b_arena =
        page_up(header->c2b_sq + sockets * header->sq_depth * sizeof(struct pf_sqe));
    header->c2b_bytes = page_up(header->c2b_arena + header->arena_bytes);

    header->b2c_control = page_up(sizeof(*header));
    header->b2c_hints = header->b2c_control + sizeof(struct pf_b2c_control);
    header->b2c_sockets = page_up(header->b2c_hints + hint_bytes);
    header->b2c_cq = page_up(header->b2c_sockets + sockets * sizeof(struct pf_socket_b2c));
    header->b2c_rx = page_up(header->b2c_cq + sockets * header->cq_depth * sizeof(struct pf_cqe));
    header->b2c_bytes = page_up(header->b2c_rx + sockets * header->rx_bytes);
    return 0;
}

int pf_region_create(const char *label, uint64_t bytes, int seal_writes, void **mapping) {
    /* Some systems refuse memory that might be executed (vm.memfd_noexec); old kernels do not know
     * the flag. */
    int fd = memfd_create(label, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL) {
        fd = memfd_create(label, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    }
    if (fd < 0) {
        return -errno;
    }
    int failure = 0;
    *mapping = NULL;
    if (ftruncate(fd, (off_t)bytes) != 0) {
        failure = -errno;
    } else {
        /* The backend writes what is sealed against later writers, and only reads what clients
         * write: this mapping is made before the seal. */
        *mapping = pf_region_map(fd, bytes, seal_writes);
        if (!*mapping) {
            failure = -errno;
        }
    }
    int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL | (seal_writes ? F_SEAL_FUTURE_WRITE : 0);
    if (!failure && fcntl(fd, F_ADD_SEALS, seals) != 0) {
        failure = -errno;
    }
    if (failure) {
        if (*mapping) {
            pf_region_unmap(*mapping, bytes);
            *mapping = NULL;
        }
        (void)close(fd);
        return failure;
    }
    return fd;
}

void *pf_region_map(int fd, uint64_t bytes, int writable) {
    void *mapping =
        mmap(NULL, bytes, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
    if (mapping == MAP_FAILED) {
        return NULL;
    }
    /* A forked child must not become a second writer of single-writer words. */
    (void)madvise(mapping, bytes, MADV_DONTFORK);
    return mapping;
}

void *pf_region_private(uint64_t bytes) {
    void *mapping = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return mapping == MAP_FAILED ? NULL : mapping;
}

void pf_region_unmap(void *mapping, uint64_t bytes) { (void)munmap(mapping, bytes); }

int pf_region_check(const struct pf_b2c_header *header, uint64_t c2b_bytes, uint64_t b2c_bytes,
                    char *error, size_t error_bytes) {
    if (header->magic != PF_MAGIC || header->abi_version != PF_ABI_VERSION) {
        (void)snprintf(
            error, error_bytes,
            "the backend speaks version %u (magic %08x) of the shared-memory layout; this "
            "program speaks version %d (magic %08x): use the same pifus on both sides",
            header->abi_version, header->magic, PF_ABI_VERSION, PF_MAGIC);
        return -EPROTO;
    }
    struct pf_region_request request = {header->max_sockets, header->sq_depth / 2, header->rx_bytes,
                                        header->arena_bytes};
    struct pf_b2c_header expected;
    if (pf_region_plan(&request, &expected, error, error_bytes) != 0) {
        return -EPROTO;
    }
    expected.session_id = header->session_id;
    expected.allowed_priority = header->allowed_priority;
    if (memcmp(&expected, header, sizeof(expected)) != 0 || expected.c2b_bytes != c2b_bytes ||
        expected.b2c_bytes != b2c_bytes) {
        (void)snprintf(error, error_bytes,
                       "the regions do not have the layout that their header says");
        return -EPROTO;
    }
    return 0;
}
