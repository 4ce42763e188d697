/* What the files of the client core share. */
#ifndef PF_CLIENT_INTERNAL_H
#define PF_CLIENT_INTERNAL_H

#include <stdbool.h>

#include "client/client_api.h"
#include "futex/doorbell.h"
#include "futex/pi_lock.h"
#include "futex/spin.h"
#include "shm/arena.h"
#include "shm/hint_ring.h"
#include "shm/region.h"
#include "shm/ring.h"

/* A wait looks at the backend's pulse at least this often. */
#define PF_PULSE_NS INT64_C(200000000)
#define PF_SEND_CHUNK (64U * 1024U)
#define PF_SEND_LEAST (1U << PF_ARENA_MIN_ORDER)
#define PF_NO_SLOT UINT32_MAX
/* In the place of a block's size: it is registered, and stays. */
#define PF_BLOCK_STAYS UINT32_MAX
/* Closing slots looked at by the way, when there is no need. */
#define PF_SWEEP_SOME 8U
/* Operations that no send takes: for the close, and for what ends the writing. */
#define PF_KEPT_BY_SENDS 2U
/* Of so many closes that nobody waits for, one rings. */
#define PF_QUIET_CLOSES 16U

enum pf_slot_phase {
    PF_SLOT_FREE = 0,
    PF_SLOT_OPEN,
    PF_SLOT_CLOSING, /* a close is under way */
    PF_SLOT_CLOSED,  /* the close completed; the owner has not released the slot yet */
};

enum pf_pending_state { PF_PENDING_FREE = 0, PF_PENDING_FLYING, PF_PENDING_DONE };

struct pf_pending {
    uint64_t op_id;
    uint64_t submitted_ns;
    uint32_t offset; /* of the arena block, or PF_ARENA_NONE */
    uint32_t block_bytes;
    uint32_t comes_back; /* pf_send_block() */
    uint8_t opcode;
    uint8_t delivery;
    uint8_t state;
    bool counted;        /* one of the user's operations, of which there are at most queue_depth */
    struct pf_done done; /* of a PF_DELIVER_CALL operation */
};

struct pf_sock {
    /* Read without the lock by the spin loops. */
    struct pf_socket_c2b *c2b;
    const struct pf_socket_b2c *b2c;
    const struct pf_cqe *cq;
    uint32_t cq_head;
    uint32_t rx_tail;
    /* Under the client's lock. */
    struct pf_sqe *sq;
    const uint8_t *rx;
    uint32_t sq_tail;
    uint32_t sq_head;      /* as last seen */
    uint32_t cq_published; /* what c2b->cq_head says */
    uint32_t generation;
    uint32_t slot;
    int priority;
    enum pf_slot_phase phase;
    bool adopted;
    bool released;
    uint8_t close_flags;
    bool in_ready;
    bool staged;           /* submissions are kept back */
    bool unrung;           /* the latest hint went without a ring: it may find the backend asleep */
    uint64_t wake_op;      /* the latest operation by which a batch taken back wakes, or 0 */
    uint64_t multishot_op; /* the latest multishot receive, or 0 */
    bool linked;           /* the latest submission is a link to the next one */
    int open_error;
    int send_error; /* errno of a datagram that nobody waited for */
    pf_hint_mark hint_mark[PF_PRIORITIES];
    struct pf_pending *pending; /* cq_depth entries, made at the first open */
    uint32_t *pending_free;
    uint32_t pending_free_count;
    uint64_t op_counter;
    struct pf_done *fifo; /* completions reaped and not yet taken; grows for multishot */
    uint32_t fifo_capacity;
    uint32_t fifo_head;
    uint32_t fifo_count;
    uint32_t user_ops; /* under way */
    uint32_t user_limit;
    uint32_t send_used;
    uint32_t send_limit;
    uint32_t blocks_out;  /* pf_send_block() of what is in the SQ, or was, since the open */
    uint32_t blocks_back; /* and of those that have ended: see pf_socket_c2b.write_room */
    int mirror_fd;
    bool mirror_armed;
    bool mirror_unsure; /* a token may come for what has been read already */
    bool room_unsure;   /* it may be drained for room that has been used already */
    bool sends_datagrams;
    bool tx_ended;   /* a SHUTDOWN of its writing is under way, or done */
    bool watched;    /* pf_watch: what can be read is to be told of */
    bool identified; /* others may hold the socket, and have it moved away */
    uint32_t interrupts;
    uint32_t next; /* in the list of free, closing or ready slots */
    uint32_t next_ready;
};

/* A submission that is kept back. */
struct pf_staged {
    uint32_t slot;
    uint32_t block_bytes; /* as of pf_submit_locked */
    int priority;         /* of the socket, before it */
    struct pf_sqe sqe;
};

struct pf_client {
    struct pf_pi_lock lock;
    uint32_t batch_owner; /* the thread whose submissions are kept back; 0: none */
    int control_fd;
    int doorbell_fd;
    struct pf_b2c_header layout; /* checked copy */
    uint8_t *c2b;
    const uint8_t *b2c;
    const struct pf_public *public_region;
    struct pf_c2b_control *c2b_control;
    const struct pf_b2c_control *b2c_control;
    struct pf_hint_producer hints[PF_PRIORITIES];
    struct pf_hint_consumer events[PF_PRIORITIES];
    struct pf_arena arena;
    struct pf_sock *socks;
    uint32_t slots_made; /* those below are there; the others were never used, and cost nothing */
    uint32_t free_slots; /* list heads */
    uint32_t closing_first;
    uint32_t closing_last;
    uint32_t quiet_closes; /* since the last one that rang */
    uint32_t reap_next;    /* where to look next for memory to be had back */
    uint32_t ready_first[PF_PRIORITIES];
    uint32_t ready_last[PF_PRIORITIES];
    int64_t spin_ns; /* negative: as the backend says */
    struct pf_spin spin;
    struct pf_spin bell_spin;
    uint32_t abandoned;
    uint32_t wake_any; /* bumped by pf_wake_any */
    uint32_t bell_arm; /* what c2b_control says */
    bool stamp_reaped;
    struct pf_staged *batch; /* PF_BATCH_MAX of them, made by the first batch */
    uint32_t batch_count;
};

/* For how long a wait may spin. */
static inline int64_t pf_spin_budget(const struct pf_client *client) {
    int64_t spin_ns = client->spin_ns;
    return spin_ns < 0 ? (int64_t)pf_load_relaxed(&client->public_region->spin_ns) : spin_ns;
}

static inline void pf_lock(struct pf_client *client) { pf_pi_acquire(&client->lock); }
static inline void pf_unlock(struct pf_client *client) { pf_pi_release(&client->lock); }

/* There has been a socket in `slot`. */
static inline bool pf_slot_known(const struct pf_client *client, uint32_t slot) {
    return slot < pf_load_acquire(&client->slots_made);
}

/* The socket in `slot`, or NULL when none is open there. Caller holds the lock. */
static inline struct pf_sock *pf_sock_get(struct pf_client *client, uint32_t slot) {
    if (slot >= client->slots_made || client->socks[slot].phase == PF_SLOT_FREE) {
        return NULL;
    }
    return &client->socks[slot];
}

/* The backend has taken up this generation of the socket: its words in B2C are about it. */
static inline bool pf_sock_known(const struct pf_sock *sock) {
    return pf_load_acquire(&sock->b2c->generation) == sock->generation;
}

/* There is a byte, a datagram, a connection, an end or an error. Caller holds the lock. */
static inline bool pf_sock_readable(const struct pf_sock *sock) {
    if (!pf_sock_known(sock)) {
        return false;
    }
    uint32_t state = pf_load_acquire(&sock->b2c->state);
    if (state & PF_STATE_SHARED) {
        return pf_load_acquire(&sock->b2c->accepts) != 0;
    }
    return (pf_load_acquire(&sock->b2c->accepts) != sock->c2b->accepts_taken ||
            pf_load_acquire(&sock->b2c->rx_head) != sock->rx_tail ||
            (pf_load_acquire(&sock->b2c->state) & (PF_STATE_EOF | PF_STATE_ERROR)));
}

/* A completion waits in the CQ. Without the lock: a glance, which may be out of date. */
static inline bool pf_cq_waiting(const struct pf_client *client, const struct pf_sock *sock) {
    return pf_cq_ready(sock->cq, client->layout.cq_depth, pf_load_relaxed(&sock->cq_head));
}

/* session.c */
/* Makes one more slot, which is the only free one. Caller holds the lock; false: all are made. */
bool pf_slot_make(struct pf_client *client);

/* reap.c */
/* Moves every completion of the CQ to where it is to be delivered. Caller holds the lock. */
void pf_reap(struct pf_client *client, struct pf_sock *sock);
/* The same for a socket that an event ring names, with what a pf_watch waits for. */
void pf_reap_news(struct pf_client *client, struct pf_sock *sock);
/* Tells the backend how far the CQ has been reaped. Caller holds the lock. */
void pf_publish_reaped(struct pf_sock *sock);
/* Tells the backend to look at the socket. True: ring the doorbell, after unlocking. */
bool pf_hint(struct pf_client *client, struct pf_sock *sock);
/* The same for what has time until the backend is awake for another reason. */
void pf_hint_quietly(struct pf_client *client, struct pf_sock *sock);
void pf_ring(struct pf_client *client);
/* Frees a slot whose close completed, whose owner let go, and that is on no list. Caller holds the
 * lock. */
void pf_slot_recycle(struct pf_client *client, struct pf_sock *sock);
/* Puts a released slot behind those that wait for the end of their close. Caller holds the lock. */
void pf_closing_add(struct pf_client *client, struct pf_sock *sock);
/* Looks at up to `limit` of them, and frees those that are done. Caller holds the lock; true: ring
 * the doorbell after unlocking. */
bool pf_sweep_closing(struct pf_client *client, uint32_t limit);

/* Puts a submission into the SQ, where what was reaped made room. Caller holds the lock. */
static inline bool pf_sq_put(struct pf_client *client, struct pf_sock *sock,
                             const struct pf_sqe *sqe) {
    pf_publish_reaped(sock); /* before it: the completion's slot is reserved by this count */
    if (!pf_sq_push(sock->sq, client->layout.sq_depth, &sock->sq_tail, &sock->c2b->sq_tail,
                    &sock->sq_head, &sock->b2c->sq_head, sqe)) {
        return false;
    }
    sock->blocks_out += pf_send_block(sqe->opcode, sqe->length);
    return true;
}

/* batch.c */
/* Keeps the submission back. Caller holds the lock; false: no room. */
bool pf_batch_add(struct pf_client *client, struct pf_sock *sock, const struct pf_sqe *sqe,
                  uint32_t block_bytes);
/* Submits what is kept back for the socket, which is about to be closed. Caller holds the lock and
 * makes the hint. */
void pf_batch_flush(struct pf_client *client, struct pf_sock *sock);
/* This thread is about to wait for a completion of the socket, of any (NULL), and all that are to
 * come are of operations that its own batch keeps back. */
bool pf_batch_has_all(struct pf_client *client, const struct pf_sock *sock);

/* block.c */
/* The write of a registered block has ended. Caller holds the lock. */
void pf_block_landed(struct pf_client *client, uint32_t block);

/* stream.c */
/* How much of what the socket has sent must come back until one more byte, or of a datagram socket
 * any datagram, can be sent; 0: nothing, now. Caller holds the lock. */
uint32_t pf_send_shortage(struct pf_client *client, struct pf_sock *sock);

/* wait.c */
struct pf_waiter {
    struct pf_client *client;
    uint64_t started_ns;
    uint64_t deadline_ns; /* UINT64_MAX: none */
    uint64_t spun_ns;     /* before that */
};
void pf_waiter_start(struct pf_waiter *waiter, struct pf_client *client, int64_t timeout_ns);
/* Spins while `word` is `seen`, within the budget. True: it changed. */
bool pf_waiter_spin(struct pf_waiter *waiter, const uint32_t *word, uint32_t seen);
/* The same until a completion waits in the CQ. */
bool pf_waiter_spin_cq(struct pf_waiter *waiter, const struct pf_sock *sock);
/* Sleeps until `event` is no longer `seen`. 0: look again; -ETIMEDOUT, -EINTR, -EPIPE. */
int pf_waiter_sleep(struct pf_waiter *waiter, const uint32_t *event, uint32_t seen,
                    uint32_t *waiting);

/* move.c. `state` has MOVING or MOVED; waits until it is known. True: the socket is gone from here.
 */
bool pf_moved(struct pf_client *client, const struct pf_sock *sock);

/* After consuming what was received up to `rx_tail`. True: it went with the socket instead. */
bool pf_consumed_too_late(struct pf_client *client, const struct pf_sock *sock);

/* Submits the close of a released slot, if there is room. Caller holds the lock; true: ring. */
bool pf_close_locked(struct pf_client *client, struct pf_sock *sock);

/* submit.c */
int pf_open_slot(struct pf_client *client, struct pf_sqe *sqe, int priority, int delivery,
                 uint64_t *op);
/* Caller holds the lock; *ring tells whether to ring the doorbell after unlocking. */
int64_t pf_submit_locked(struct pf_client *client, struct pf_sock *sock, struct pf_sqe *sqe,
                         int delivery, uint32_t block_bytes, bool *ring);

#endif
