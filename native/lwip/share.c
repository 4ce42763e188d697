/* What one application may have in the stack that others need as well: received bytes that it has
 * not read, connections that it has not taken, sockets, listeners, and segments: those that wait to
 * be acknowledged, and those that came out of order.
 *
 * Until a connection is adopted its window is small, and its bytes are in memory of their own (see
 * rx_queue.h); then they have a ring to go to, and the window is as large as its owner wants it.
 * So what is announced can always be kept, nothing that was acknowledged is ever lost, and what is
 * not read takes neither a driver's buffers nor memory without end.
 *
 * Of what can be queued to send, one application has at most as much as it leaves free for all
 * others, and one of its connections as much as the rest of that. Of sockets and listeners it has
 * at most three times as many as it leaves free: so the next application always finds some, and
 * after it the next one. */
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
    uint64_t promised;  /* what its peers may send, with what was received and not read */
    uint64_t datagrams; /* bytes of them that are not read */
    uint32_t queued;
    uint32_t waiting; /* connections that came in and have no owner yet */
    uint32_t sockets;
    uint32_t listeners;
    uint32_t holders; /* connections, and whoever made it */
};

/* Of what is left of the promises an application may make, one connection gets such a part. */
#define WINDOW_PART 32U

static uint64_t held_by_all;
static uint64_t promised_to_all;
static uint64_t held_most = UINT64_MAX;
static uint32_t queued_by_all;
static uint32_t sockets_of_all;
static uint32_t sockets_most = MEMP_NUM_TCP_PCB;

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

void stk_limit(uint32_t sockets, uint64_t held) {
    sockets_most = sockets;
    held_most = held;
}

static bool has_share(uint32_t theirs, uint32_t used, uint32_t most) {
    return used < most && theirs < 3 * (most - used);
}

void stk_account_socket(struct stk_account *account, bool more) {
    account->sockets += more ? 1U : UINT32_MAX;
    sockets_of_all += more ? 1U : UINT32_MAX;
}

/* With as many that will be sockets soon. */
static bool has_room(const struct stk_account *account, uint32_t coming) {
    return has_share(account->sockets + coming, sockets_of_all + coming, sockets_most);
}

bool stk_account_has_room(const struct stk_account *account) {
    return has_room(account, account->waiting);
}

bool pf_share_may_listen(const struct stk_conn *conn) {
    uint32_t used = (uint32_t)lwip_stats.memp[MEMP_TCP_PCB_LISTEN]->used;
    return has_share(conn->account ? conn->account->listeners : 0, used, MEMP_NUM_TCP_PCB_LISTEN);
}

void pf_share_listens(struct stk_conn *conn, bool yes) {
    conn->listening = yes;
    if (conn->account) {
        conn->account->listeners += yes ? 1U : UINT32_MAX;
    }
}

void stk_account_datagrams(struct stk_account *account, int64_t more) {
    account->datagrams += (uint64_t)more;
    promised_to_all += (uint64_t)more;
}

bool stk_account_datagrams_full(const struct stk_account *account, uint32_t more) {
    return account->datagrams + more > held_most / 2;
}

/* ---- windows: what peers may send ---- */

uint64_t pf_share_promised(void) { return promised_to_all; }

static void set_promised(struct stk_conn *conn, uint32_t bytes) {
    uint64_t more = (uint64_t)bytes - conn->promised;
    promised_to_all += more;
    conn->promised = bytes;
    if (conn->account) {
        conn->account->promised += more;
    }
}

/* The window that the connection may have now. */
static uint32_t allowed(const struct stk_conn *conn) {
    uint64_t others = conn->account ? conn->account->promised - conn->promised : 0;
    uint64_t left = others < held_most / 2 ? held_most / 2 - others : 0;
    uint64_t most = left / WINDOW_PART < PF_LEAST_WINDOW ? PF_LEAST_WINDOW : left / WINDOW_PART;
    return conn->window < most ? conn->window : (uint32_t)most;
}

void pf_share_widen(struct stk_conn *conn) {
    if (conn->pcb && conn->pcb->state >= ESTABLISHED) {
        bool scaled = (conn->pcb->flags & TF_WND_SCALE) != 0;
        uint32_t most = allowed(conn);
        pf_tcp_widen(conn, scaled ? most : LWIP_MIN(most, UINT16_MAX));
        set_promised(conn, conn->pcb->wnd_limit);
    }
}

void pf_share_connect(struct stk_conn *conn) {
    struct tcp_pcb *pcb = conn->pcb;
    pcb->wnd_limit = allowed(conn);
    set_promised(conn, pcb->wnd_limit);
}

uint32_t pf_share_credit(struct stk_conn *conn, uint32_t bytes) {
    struct tcp_pcb *pcb = conn->pcb;
    uint32_t most = allowed(conn);
    /* Without window scaling it was never more than this. */
    pcb->wnd_limit = TCP_WND_MAX(pcb);
    uint32_t over = pcb->wnd_limit > most ? pcb->wnd_limit - most : 0;
    uint32_t kept = over < bytes ? over : bytes;
    pcb->wnd_limit -= kept;
    set_promised(conn, pcb->wnd_limit);
    return bytes - kept;
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
        account->promised += conn->promised;
        account->queued += conn->queued_counted;
        account->waiting += conn->waiting;
        account->listeners += conn->listening;
    }
    if (conn->account) {
        conn->account->held -= conn->counted;
        conn->account->promised -= conn->promised;
        conn->account->queued -= conn->queued_counted;
        conn->account->waiting -= conn->waiting;
        conn->account->listeners -= conn->listening;
        stk_account_free(conn->account);
    }
    conn->account = account;
}

err_t pf_tcp_admit(struct tcp_pcb *listener) {
    const struct stk_conn *conn = pf_reuse_listener(listener);
    uint32_t others = conn && conn->account ? conn->account->waiting : 0;
    uint32_t here = ((const struct tcp_pcb_listen *)listener)->accepts_pending;
    uint32_t all = pf_tcp_unaccepted_count();
    bool share_used = here >= PF_UNACCEPTED_SHARE || others >= PF_UNACCEPTED_SHARE;
    bool full = all >= PF_UNACCEPTED_MAX || (all >= PF_UNACCEPTED_MAX / 2 && share_used);
    full = full || (conn && conn->account && !has_room(conn->account, LWIP_MAX(here, others)));
    if (conn) {
        ((struct tcp_pcb_listen *)listener)->wnd_limit = LWIP_MIN(allowed(conn), PF_WAITING_WINDOW);
    }
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

void pf_share_start(struct stk_conn *conn) {
    set_waiting(conn, true);
    set_promised(conn, conn->pcb->wnd_limit);
}

void pf_share_owned(struct stk_conn *conn) {
    if (conn->waiting) {
        set_waiting(conn, false);
        pf_share_widen(conn);
    }
}

void pf_share_leave(struct stk_conn *conn) {
    conn->pcb = NULL; /* lwIP has freed it, or keeps it to itself */
    set_waiting(conn, false);
    pf_share_recount(conn);
    pf_share_requeue(conn);
    set_promised(conn, 0);
    stk_tcp_set_account(conn, NULL);
}
