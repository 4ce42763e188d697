/* What the connections of one application, and of one user, may have in the stack that others need
 * as well: received bytes that nobody has read, connections that nobody has taken, and segments:
 * those that wait to be acknowledged, and those that came out of order. (What can be counted one by
 * one: account.c.)
 *
 * Until a connection is adopted its window is small, and its bytes are in memory of their own (see
 * rx_queue.h); then they have a ring to go to, and the window is as large as its owner wants it.
 * So what is announced can always be kept, nothing that was acknowledged is ever lost, and what is
 * not read takes neither a driver's buffers nor memory without end.
 *
 * Of what can be queued to send, a user leaves a quarter of what others do not have, one
 * application has at most twice what its user has left, which is half of all when there is no other
 * one, and one of its connections as much as the rest of that. */
#include "lwip/account.h"
#include "lwip/conn.h"
#include "lwip/frame_pool.h"
#include "lwip/priv/tcp_priv.h"
#include "lwip/stats.h"
#include "lwip_hooks.h"

/* Buffers with bytes to send: lwIP's pools have one more for each connection (pf_share_may_queue),
 * and some for what comes out of order. */
#define QUEUED_MAX 40000U
_Static_assert(QUEUED_MAX + MEMP_NUM_TCP_PCB < MEMP_NUM_PBUF, "a buffer for every connection");
enum { QUEUED_USER_LEAVES = 4, QUEUED_TIMES = 2, UNACCEPTED_USER_LEAVES = 16 };
/* Segments that came out of order. */
#define KEPT_MAX 16384U
_Static_assert(QUEUED_MAX / 2 + KEPT_MAX + MEMP_NUM_TCP_PCB < MEMP_NUM_TCP_SEG,
               "a segment for every connection");

/* Of what is left of the promises an application may make, one connection gets such a part. */
#define WINDOW_PART 32U

static uint64_t held_by_all;
static uint64_t promised_to_all;
static uint32_t queued_by_all;

void stk_account_datagrams(struct stk_account *account, int64_t more) {
    PF_ACCOUNT_ADD(account, datagrams, (uint64_t)more);
    promised_to_all += (uint64_t)more;
}

bool stk_account_datagrams_full(const struct stk_account *account, uint32_t more) {
    return account->has.datagrams + more > pf_account_held_most() / 2 ||
           account->user->has.datagrams + more > pf_account_user_held_most() / 2;
}

bool pf_share_may_listen(const struct stk_conn *conn) {
    return pf_account_may_listen(pf_account_or_nobody(conn->account));
}

void pf_share_listens(struct stk_conn *conn, bool yes) {
    conn->listening = yes;
    if (conn->account) {
        pf_account_listens(conn->account, yes);
    }
}

/* ---- windows: what peers may send ---- */

uint64_t pf_share_promised(void) { return promised_to_all; }

static void set_promised(struct stk_conn *conn, uint32_t bytes) {
    uint64_t more = (uint64_t)bytes - conn->promised;
    promised_to_all += more;
    conn->promised = bytes;
    if (conn->account) {
        PF_ACCOUNT_ADD(conn->account, promised, more);
    }
}

static uint64_t left_of(uint64_t most, const struct pf_tally *tally, const struct stk_conn *conn) {
    uint64_t others = tally->promised - conn->promised;
    return others < most / 2 ? most / 2 - others : 0;
}

/* The window that the connection may have now. */
static uint32_t allowed(const struct stk_conn *conn) {
    const struct stk_account *account = conn->account;
    uint64_t left = pf_account_held_most() / 2;
    if (account) {
        uint64_t to_user = left_of(pf_account_user_held_most(), &account->user->has, conn);
        left = left_of(pf_account_held_most(), &account->has, conn);
        left = LWIP_MIN(left, to_user);
    }
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
}

void pf_share_requeue(struct stk_conn *conn) {
    uint32_t queued = conn->pcb && !conn->listening ? conn->pcb->snd_queuelen : 0;
    uint32_t more = queued - conn->queued_counted;
    queued_by_all += more;
    conn->queued_counted = queued;
    if (conn->account) {
        PF_ACCOUNT_ADD(conn->account, queued, more);
    }
}

bool pf_share_may_queue(const struct stk_conn *conn) {
    const struct stk_account *account = pf_account_or_nobody(conn->account);
    uint64_t left =
        pf_account_left(account->user->has.queued, queued_by_all, QUEUED_MAX, QUEUED_USER_LEAVES);
    return (uint64_t)account->has.queued + conn->queued_counted < QUEUED_TIMES * left;
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

/* All that the connection has, `times` 1 or -1. */
static void add_all(struct stk_account *account, const struct stk_conn *conn, int64_t times) {
    PF_ACCOUNT_ADD(account, promised, (uint64_t)(times * conn->promised));
    PF_ACCOUNT_ADD(account, queued, (uint32_t)(times * conn->queued_counted));
    PF_ACCOUNT_ADD(account, waiting, (uint32_t)(times * conn->waiting));
    if (conn->listening) {
        pf_account_listens(account, times > 0);
    }
}

void stk_tcp_set_account(struct stk_conn *conn, struct stk_account *account) {
    if (account) {
        add_all(pf_account_hold(account), conn, 1);
    }
    if (conn->account) {
        add_all(conn->account, conn, -1);
        stk_account_free(conn->account);
    }
    conn->account = account;
}

/* ---- connections that come in ---- */

/* From the half on each application has only a few, and there is room for those of other users. */
static bool may_come(const struct stk_account *account, uint32_t here) {
    uint32_t theirs = account->has.waiting + account->has.half_open;
    uint32_t of_user = account->user->has.waiting + account->user->has.half_open;
    uint32_t all = pf_tcp_unaccepted_count();
    bool share_used = here >= PF_UNACCEPTED_SHARE || theirs >= PF_UNACCEPTED_SHARE;
    return (all < PF_UNACCEPTED_MAX / 2 || !share_used) &&
           pf_account_left(of_user, all, PF_UNACCEPTED_MAX, UNACCEPTED_USER_LEAVES) > 0;
}

err_t pf_tcp_admit(struct tcp_pcb *listener) {
    const struct stk_conn *conn = pf_reuse_listener(listener);
    const struct stk_account *account = pf_account_or_nobody(conn ? conn->account : NULL);
    uint32_t here = ((const struct tcp_pcb_listen *)listener)->accepts_pending;
    uint32_t theirs = account->has.waiting + account->has.half_open;
    if (conn) {
        ((struct tcp_pcb_listen *)listener)->wnd_limit = LWIP_MIN(allowed(conn), PF_WAITING_WINDOW);
    }
    if (!may_come(account, here)) {
        pf_account_refused();
        return ERR_ABRT;
    }
    if (conn && conn->account && !pf_account_has_room(account, LWIP_MAX(here, theirs))) {
        return ERR_ABRT;
    }
    return pf_tcp_make_room() ? ERR_OK : ERR_ABRT;
}

struct stk_account *pf_share_half_open(const struct tcp_pcb *pcb) {
    const struct stk_conn *conn =
        pcb->listener ? pf_reuse_listener((const struct tcp_pcb *)pcb->listener) : NULL;
    if (!conn || !conn->account) {
        return NULL;
    }
    PF_ACCOUNT_ADD(conn->account, half_open, 1);
    return pf_account_hold(conn->account);
}

void pf_share_half_open_over(struct stk_account *account) {
    PF_ACCOUNT_ADD(account, half_open, UINT32_MAX);
    stk_account_free(account);
}

static void set_waiting(struct stk_conn *conn, bool yes) {
    if (conn->account) {
        PF_ACCOUNT_ADD(conn->account, waiting, (uint32_t)yes - conn->waiting);
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
