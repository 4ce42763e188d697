/* Registered blocks: parts of the send arena that stay with the program, for what it sends every
 * period. Whether one is under way stands in the arena's own book-keeping. */
#include <errno.h>

#include "client/internal.h"

int64_t pf_block_register(struct pf_client *client, uint32_t bytes) {
    if (bytes == 0 || bytes > PF_MAX_WRITE_BYTES) {
        return -EINVAL;
    }
    pf_lock(client);
    uint32_t block = pf_arena_alloc(&client->arena, bytes);
    pf_unlock(client);
    return block == PF_ARENA_NONE ? -ENOBUFS : (int64_t)block;
}

uint8_t *pf_block_data(struct pf_client *client, uint32_t block) {
    return client->c2b + client->layout.c2b_arena + block;
}

int pf_block_busy(struct pf_client *client, uint32_t block) {
    pf_lock(client);
    int busy = (pf_arena_marks(&client->arena, block) & PF_ARENA_BUSY) != 0;
    pf_unlock(client);
    return busy;
}

int pf_block_release(struct pf_client *client, uint32_t block) {
    int result = 0;
    pf_lock(client);
    if (pf_arena_marks(&client->arena, block) & PF_ARENA_BUSY) {
        pf_arena_mark(&client->arena, block, PF_ARENA_BUSY | PF_ARENA_LET_GO);
    } else {
        result = pf_arena_free(&client->arena, block);
    }
    pf_unlock(client);
    return result;
}

void pf_block_landed(struct pf_client *client, uint32_t block) {
    uint8_t marks = pf_arena_marks(&client->arena, block);
    pf_arena_mark(&client->arena, block, 0);
    if (marks & PF_ARENA_LET_GO) {
        (void)pf_arena_free(&client->arena, block);
    }
}

int64_t pf_block_write(struct pf_client *client, uint32_t slot, uint32_t block, uint32_t length,
                       int general, uint64_t deadline_ns, int delivery) {
    if (pf_client_ended(client)) {
        return -EPIPE;
    }
    bool ring = false;
    struct pf_sqe sqe = {.opcode = PF_OP_WRITE,
                         .general = (uint16_t)general,
                         .offset = block,
                         .length = length,
                         .deadline_ns = deadline_ns};
    pf_lock(client);
    struct pf_sock *sock = pf_sock_get(client, slot);
    int64_t result = -EBADF;
    if (sock && sock->phase == PF_SLOT_OPEN) {
        if (pf_arena_marks(&client->arena, block) & PF_ARENA_BUSY) {
            pf_reap(client, sock); /* it may be over, and nobody have looked */
        }
        result = pf_arena_marks(&client->arena, block) & PF_ARENA_BUSY ? -EBUSY : 0;
    }
    if (result == 0) {
        result = pf_submit_locked(client, sock, &sqe, delivery, PF_BLOCK_STAYS, &ring);
        if (result > 0 || result == -ESTALE) { /* which is completed, too */
            pf_arena_mark(&client->arena, block, PF_ARENA_BUSY);
        }
    }
    pf_unlock(client);
    if (ring) {
        pf_ring(client);
    }
    return result;
}
