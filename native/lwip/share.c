/* What one application may have in the stack that others need as well: received bytes that it has
 * not read, connections that it has not taken, and segments: those that wait to be acknowledged,
 * and those that came out of order.
 *
 * Until a connection is adopted its window is small, and its bytes are in memory of their own (see
 * rx_queue.h); then they have a ring to go to, and the window is as large as its owner wants it.
 * So what is announced can always be kept, nothing that was acknowledged is ever lost, and what is
 * not read takes neither a driver's buffers nor memory without end.
 *
 * Of what can be queued to send, one application has at most as much as it leaves free for all
 * others, and one of its connections as much as the rest of that. */
#include <stdlib.h>

#include "lwip/conn.h"
#include "lwip/frame_pool.h"
#include "lwip/priv/tcp_priv.h"
#include "lwip/stats.h"
#include "lwip_hooks.h"

/* Buffers with bytes to send: lwIP's pools have one more for each connection (pf_share_may_queue),
 * and some for what comes out of order. */
#define QUEUED_MAX 40000U
_Static_assert(QUEUED_MAX + MEMP_NUM_TCP_PCB < MEMP_NUM_PBUF, "a buffer for every connection");
/* Segments that came out of order. */
#define KEPT_MAX 16384U
_Static_assert(QUEUED_MAX / 2 + KEPT_MAX + MEMP_NUM_TCP_PCB < MEMP_NUM_TCP_SEG,
               "a segment for every connection");

struct stk_account {
    uint64_t held;
    uint32_t queued;
    uint32_t waiting; /* connections that came in and have no owner yet */
    uint32_t holders; /* connections, and whoever made it */
};

static uint64_t held_by_all;
static uint32_t queued_by_all;

struct stk_account *stk_account_new(void) {
    struct stk_account *account = calloc(1, sizeof(*account));
    if (account) {
        account->holders = 1;
    }
    return account;
}

void stk_account_free(struct stk_account *account) {
    if (account && --account->holders == 0) {
        free(account);
    }
}

uint64_t pf_share_held(void) { return held_by_all; }

void pf_share_recount(struct stk_conn *conn) {
    uint64_t more = (uint64_t)conn->rx.bytes - conn->counted;
    held_by_all += more;
    conn->counted = conn->rx.bytes;
    if (conn->account) {
        conn->account->held += more;
    }
}

void pf_share_requeue(struct stk_conn *conn) {
    uint32_t queued = conn->pcb && !conn->listening ? conn->pcb->snd_queuelen : 0;
    uint32_t more = queued - conn->queued_counted;
    queued_by_all += more;
    conn->queued_counted = queued;
    if (conn->account) {
        conn->account->queued += more;
    }
}

bool pf_share_may_queue(const struct stk_conn *conn) {
    uint32_t theirs = conn->account ? conn->account->queued : 0;
    return (uint64_t)queued_by_all + theirs + conn->queued_counted < QUEUED_MAX;
}

uint32_t pf_tcp_may_keep(uint32_t most) {
    /* Those queued to send have two buffers each, or more. */
    uint32_t used = lwip_stats.memp[MEMP_TCP_SEG]->used;
    uint32_t kept = used > queued_by_all / 2 ? used - queued_by_all / 2 : 0;
    size_t bytes = pf_frame_bytes_in_use();
    if (kept < KEPT_MAX / 2 && bytes < PF_FRAME_POOL_BYTES / 4) {
        return most;
    }
    return kept < KEPT_MAX && bytes < PF_FRAME_POOL_BYTES / 2 ? most / 8 : 0;
}

void stk_tcp_set_account(struct stk_conn *conn, struct stk_account *account) {
    if (account) {
        account->holders++;
        account->held += conn->counted;
        account->queued += conn->queued_counted;
        account->waiting += conn->waiting;
    }
    if (conn->account) {
        conn->account->held -= conn->counted;
        conn->account->queued -= conn->queued_counted;
        conn->account->waiting -= conn->waiting;
        stk_account_free(conn->account);
    }
    conn->account = account;
}

err_t pf_tcp_admit(const struct tcp_pcb *listener) {
    const struct stk_conn *conn = pf_reuse_listener(listener);
    uint32_t others = conn && conn->account ? conn->account->waiting : 0;
    uint32_t here = ((const struct tcp_pcb_listen *)listener)->accepts_pending;
    uint32_t all = pf_tcp_unaccepted_count();
    bool share_used = here >= PF_UNACCEPTED_SHARE || others >= PF_UNACCEPTED_SHARE;
    bool full = all >= PF_UNACCEPTED_MAX || (all >= PF_UNACCEPTED_MAX / 2 && share_used);
    return full || !pf_tcp_make_room() ? ERR_ABRT : ERR_OK;
}

static void set_waiting(struct stk_conn *conn, bool yes) {
    if (conn->account) {
        conn->account->waiting += (uint32_t)yes - conn->waiting;
    }
    conn->waiting = yes;
    if (conn->pcb) {
        pf_tcp_unaccepted(conn->pcb, yes);
    }
}

void pf_share_start(struct stk_conn *conn) { set_waiting(conn, true); }

void pf_share_owned(struct stk_conn *conn) {
    if (conn->waiting) {
        set_waiting(conn, false);
        pf_tcp_widen(conn, conn->window);
    }
}

void pf_share_leave(struct stk_conn *conn) {
    conn->pcb = NULL; /* lwIP has freed it, or keeps it to itself */
    set_waiting(conn, false);
    pf_share_recount(conn);
    pf_share_requeue(conn);
    stk_tcp_set_account(conn, NULL);
}
