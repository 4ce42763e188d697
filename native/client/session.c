/* Attaching to a backend and letting go. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/internal.h"

bool pf_slot_make(struct pf_client *client) {
    const struct pf_b2c_header *layout = &client->layout;
    uint32_t slot = client->slots_made;
    if (slot == layout->max_sockets) {
        return false;
    }
    struct pf_sock *sock = &client->socks[slot];
    sock->slot = slot;
    sock->mirror_fd = -1;
    sock->c2b = (struct pf_socket_c2b *)(client->c2b + layout->c2b_sockets) + slot;
    sock->b2c = (const struct pf_socket_b2c *)(client->b2c + layout->b2c_sockets) + slot;
    sock->sq = (struct pf_sqe *)(client->c2b + layout->c2b_sq) + (size_t)slot * layout->sq_depth;
    sock->cq =
        (const struct pf_cqe *)(client->b2c + layout->b2c_cq) + (size_t)slot * layout->cq_depth;
    sock->rx = client->b2c + layout->b2c_rx + (size_t)slot * layout->rx_bytes;
    sock->next = PF_NO_SLOT;
    client->free_slots = slot;
    /* Before its first submission: the backend, when it looks through all slots, looks so far. */
    pf_store_release(&client->c2b_control->slots_used, slot + 1);
    pf_store_release(&client->slots_made, slot + 1);
    return true;
}

static void wire(struct pf_client *client) {
    const struct pf_b2c_header *layout = &client->layout;
    client->free_slots = PF_NO_SLOT;
    client->closing_first = PF_NO_SLOT;
    client->closing_last = PF_NO_SLOT;
    for (int p = 0; p < PF_PRIORITIES; p++) {
        size_t ring = (size_t)p * layout->hint_entries;
        client->hints[p] = (struct pf_hint_producer){
            .entries = layout->hint_entries,
            .ring = (uint32_t *)(client->c2b + layout->c2b_hints) + ring,
            .recent = &client->c2b_control->hint_recent[p * PF_HINT_RECENT],
            .shared_tail = &client->c2b_control->hint_tail[p],
            .shared_head = &client->b2c_control->hint_head[p],
        };
        client->events[p] = (struct pf_hint_consumer){
            .entries = layout->hint_entries,
            .ring = (const uint32_t *)(client->b2c + layout->b2c_hints) + ring,
            .recent = &client->b2c_control->event_recent[p * PF_HINT_RECENT],
            .shared_tail = &client->b2c_control->event_tail[p],
            .shared_head = &client->c2b_control->event_head[p],
        };
        client->ready_first[p] = PF_NO_SLOT;
        client->ready_last[p] = PF_NO_SLOT;
    }
}

static uint64_t socks_bytes(const struct pf_client *client) {
    return client->layout.max_sockets * sizeof(*client->socks);
}

static uint64_t fd_bytes(int fd) {
    struct stat info;
    return fstat(fd, &info) == 0 && info.st_size > 0 ? (uint64_t)info.st_size : 0;
}

static int map_regions(struct pf_client *client, int c2b_fd, int b2c_fd, int public_fd, char *error,
                       size_t error_bytes) {
    uint64_t c2b_bytes = fd_bytes(c2b_fd);
    uint64_t b2c_bytes = fd_bytes(b2c_fd);
    if (b2c_bytes < sizeof(struct pf_b2c_header) || c2b_bytes == 0 ||
        fd_bytes(public_fd) < sizeof(struct pf_public)) {
        (void)snprintf(error, error_bytes, "the regions are smaller than their headers");
        return -EPROTO;
    }
    client->b2c = pf_region_map(b2c_fd, b2c_bytes, 0);
    if (!client->b2c) {
        (void)snprintf(error, error_bytes, "cannot map the region: %s", strerror(errno));
        return -errno;
    }
    /* From here on the header is only read from this copy. */
    memcpy(&client->layout, client->b2c, sizeof(client->layout));
    client->layout.b2c_bytes = b2c_bytes; /* what detach unmaps, should the check below fail */
    int bad = pf_region_check((const struct pf_b2c_header *)client->b2c, c2b_bytes, b2c_bytes,
                              error, error_bytes);
    if (bad) {
        return bad;
    }
    client->c2b = pf_region_map(c2b_fd, c2b_bytes, 1);
    client->public_region = pf_region_map(public_fd, sizeof(struct pf_public), 0);
    if (!client->c2b || !client->public_region) {
        (void)snprintf(error, error_bytes, "cannot map the region: %s", strerror(errno));
        return -errno;
    }
    return 0;
}

static bool one_processor(void) {
    cpu_set_t allowed;
    return sched_getaffinity(0, sizeof(allowed), &allowed) == 0 && CPU_COUNT(&allowed) == 1;
}

struct pf_client *pf_client_attach(int control_fd, int c2b_fd, int b2c_fd, int public_fd,
                                   int doorbell_fd, char *error, size_t error_bytes) {
    struct pf_client *client = calloc(1, sizeof(*client));
    if (!client) {
        (void)snprintf(error, error_bytes, "out of memory");
        return NULL;
    }
    client->control_fd = control_fd;
    client->doorbell_fd = -1;
    int bad = map_regions(client, c2b_fd, b2c_fd, public_fd, error, error_bytes);
    if (!bad && client->layout.max_sockets > 0) { /* as pf_region_check has made sure */
        client->socks = pf_region_private(socks_bytes(client));
        bad = client->socks ? pf_arena_init(&client->arena, client->layout.arena_bytes) : -ENOMEM;
        if (bad) {
            (void)snprintf(error, error_bytes, "out of memory");
        }
    }
    if (bad) {
        pf_client_detach(client);
        errno = -bad;
        return NULL;
    }
    client->c2b_control = (struct pf_c2b_control *)client->c2b;
    client->b2c_control = (const struct pf_b2c_control *)(client->b2c + client->layout.b2c_control);
    wire(client);
    pf_client_set_spin(client, -1);
    client->doorbell_fd = doorbell_fd;
    (void)close(c2b_fd);
    (void)close(b2c_fd);
    (void)close(public_fd);
    return client;
}

void pf_client_detach(struct pf_client *client) {
    if (client->socks) {
        for (uint32_t slot = 0; slot < client->slots_made; slot++) {
            free(client->socks[slot].pending);
            free(client->socks[slot].pending_free);
            free(client->socks[slot].fifo);
        }
        pf_region_unmap(client->socks, socks_bytes(client));
    }
    free(client->batch);
    pf_arena_destroy(&client->arena);
    if (client->c2b) {
        pf_region_unmap(client->c2b, client->layout.c2b_bytes);
    }
    if (client->b2c) {
        pf_region_unmap((void *)(uintptr_t)client->b2c, client->layout.b2c_bytes);
    }
    if (client->public_region) {
        pf_region_unmap((void *)(uintptr_t)client->public_region, sizeof(struct pf_public));
    }
    if (client->doorbell_fd >= 0) {
        (void)close(client->doorbell_fd);
    }
    free(client);
}

void pf_client_abandon(struct pf_client *client) {
    pf_store_release(&client->abandoned, PF_ENDED_CLOSED);
    uint32_t made = pf_load_acquire(&client->slots_made);
    for (uint32_t slot = 0; slot < made; slot++) {
        if (pf_load_relaxed(&client->socks[slot].c2b->waiting)) {
            (void)pf_futex_wake(&client->socks[slot].b2c->event, INT_MAX);
        }
    }
    pf_wake_any(client);
}

int pf_client_ended(struct pf_client *client) {
    uint32_t ended = pf_load_acquire(&client->b2c_control->ended);
    return (int)(ended ? ended : pf_load_acquire(&client->abandoned));
}

void pf_client_set_spin(struct pf_client *client, int64_t spin_ns) {
    /* On a single processor spinning only keeps the other side from running. */
    client->spin_ns = spin_ns < 0 && one_processor() ? 0 : spin_ns;
    pf_spin_reset(&client->spin);
    pf_spin_reset(&client->bell_spin);
}

void pf_client_stamp_reaped(struct pf_client *client, int on) {
    pf_lock(client);
    client->stamp_reaped = on != 0;
    pf_unlock(client);
}

uint32_t pf_client_max_sockets(const struct pf_client *client) {
    return client->layout.max_sockets;
}

uint32_t pf_client_queue_depth(const struct pf_client *client) {
    return client->layout.sq_depth / 2;
}

uint64_t pf_client_arena_free(struct pf_client *client) {
    pf_lock(client);
    uint64_t bytes = client->arena.free_bytes;
    pf_unlock(client);
    return bytes;
}

const struct pf_public *pf_client_public(const struct pf_client *client) {
    return client->public_region;
}
