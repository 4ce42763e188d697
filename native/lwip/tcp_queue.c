/* Connections that came in and that nobody has taken yet: the queue of their listener. */
#include <errno.h>
#include <stdlib.h>

#include "lwip/conn.h"

enum { HANDSHAKES_BESIDE = 64 };

/* Listeners that are over, as long as their queues are not: thousands may wait there, and to reset
 * them all at once would keep everybody else waiting. */
static struct stk_conn *ending;
/* In front of them: single ones that are to be reset. */
static struct stk_conn rejected;

/* lwIP's one backlog counts handshakes under way as well; a SYN beyond it is dropped, and sent
 * again only seconds later. Linux counts the two apart: many clients that come at once must not
 * wait for a server whose own backlog is small, but none gets in once that is full. */
void pf_queue_follow(struct stk_conn *listener) {
    if (listener->group || !listener->listening) {
        return;
    }
    u32_t both = listener->backlog + HANDSHAKES_BESIDE;
    tcp_backlog_set(listener->pcb, listener->queued < listener->backlog ? (u16_t)both : 1);
}

/* NULL: in front of all. */
static void put_behind(struct stk_conn *listener, struct stk_conn *before, struct stk_conn *conn) {
    struct stk_conn **link = before ? &before->queue_next : &listener->queue_first;
    conn->listener = listener;
    conn->queue_prev = before;
    conn->queue_next = *link;
    *(conn->queue_next ? &conn->queue_next->queue_prev : &listener->queue_last) = conn;
    *link = conn;
    if (!conn->deferred && listener->queue_ready == before) {
        listener->queue_ready = conn;
    }
    listener->queued++;
    pf_queue_follow(listener);
}

static void take_out(struct stk_conn *conn) {
    struct stk_conn *listener = conn->listener;
    *(conn->queue_prev ? &conn->queue_prev->queue_next : &listener->queue_first) = conn->queue_next;
    *(conn->queue_next ? &conn->queue_next->queue_prev : &listener->queue_last) = conn->queue_prev;
    listener->queue_ready =
        listener->queue_ready == conn ? conn->queue_prev : listener->queue_ready;
    conn->queue_next = NULL;
    conn->queue_prev = NULL;
    conn->listener = NULL;
    listener->queued--;
    pf_queue_follow(listener);
}

/* Died before anybody took it up: it would stay queued, and with it any number of others, as lwIP's
 * backlog no longer counts it. */
void pf_queue_died(struct stk_conn *conn) {
    take_out(conn);
    pf_tcp_discard(conn);
}

void pf_tcp_show_deferred(struct stk_conn *conn) {
    struct stk_conn *listener = conn->listener;
    take_out(conn);
    conn->deferred = false;
    put_behind(listener, listener->queue_ready, conn);
    pf_tcp_settings_apply(conn); /* ends its watch if nothing else needs it */
    if (listener->owner) {
        pf_events->acceptable(listener->owner);
    }
}

err_t pf_tcp_incoming(struct stk_conn *listener, struct tcp_pcb *pcb) {
    struct stk_conn *conn = calloc(1, sizeof(*conn));
    if (!conn) {
        return ERR_MEM;
    }
    conn->pcb = pcb;
    conn->priority = listener->priority;
    conn->family = IP_IS_V4_VAL(pcb->local_ip) ? PF_FAMILY_IPV4 : PF_FAMILY_IPV6;
    conn->settings = listener->settings;
    conn->deferred = listener->settings.defer_ms > 0;
    conn->since_ms = sys_now();
    conn->window = listener->window;
    pf_tcp_attach(conn);
    stk_tcp_set_account(conn, listener->account);
    pf_tcp_established(pcb);
    pf_share_start(conn);
    tcp_backlog_delayed(pcb); /* counts against the backlog until the client takes it */
    put_behind(listener, conn->deferred ? listener->queue_last : listener->queue_ready, conn);
    if (listener->owner && !conn->deferred) {
        pf_events->acceptable(listener->owner);
    }
    pf_tcp_announce(pcb);
    return ERR_OK;
}

bool stk_tcp_acceptable(const struct stk_conn *listener) { return listener->queue_ready; }

struct stk_conn *stk_tcp_accept(struct stk_conn *listener) {
    struct stk_conn *conn = listener->queue_first;
    if (!listener->queue_ready) {
        return NULL;
    }
    static uint64_t count;
    take_out(conn);
    conn->taken = conn->taken ? conn->taken : ++count;
    if (conn->pcb) {
        tcp_backlog_accepted(conn->pcb);
    }
    return conn;
}

void stk_tcp_unaccept(struct stk_conn *listener, struct stk_conn *conn) {
    if (!listener->listening || !conn->pcb) {
        stk_tcp_abort(conn); /* died meanwhile: there is nothing to accept */
        return;
    }
    conn->owner = NULL;
    stk_tcp_set_account(conn, listener->account);
    /* In front of it are those that came back as well, and had been accepted before it. */
    struct stk_conn *before = NULL;
    struct stk_conn *next = listener->queue_first;
    while (next && next->taken && next->taken < conn->taken) {
        before = next;
        next = next->queue_next;
    }
    put_behind(listener, before, conn);
    tcp_backlog_delayed(conn->pcb);
}

/* ---- ending ---- */

bool pf_queue_left(const struct tcp_pcb *pcb) {
    const struct stk_conn *conn = pcb->state >= ESTABLISHED ? pcb->callback_arg : NULL;
    return conn && conn->listener && !conn->listener->listening;
}

void pf_queue_close(struct stk_conn *listener) {
    pf_share_listens(listener, false);
    listener->owner = NULL;
    listener->queue_next = ending;
    ending = listener;
}

void stk_tcp_abort_later(struct stk_conn *conn) {
    conn->owner = NULL;
    put_behind(&rejected, rejected.queue_last, conn);
}

static void reset_first(struct stk_conn *listener) {
    struct stk_conn *conn = listener->queue_first;
    take_out(conn);
    stk_tcp_abort(conn);
}

bool stk_tcp_reset_some(uint32_t most) {
    for (; most > 0; most--) {
        struct stk_conn *listener = ending;
        if (rejected.queue_first) {
            reset_first(&rejected);
        } else if (listener && listener->queue_first) {
            reset_first(listener);
        } else if (listener) {
            ending = listener->queue_next;
            listener->queue_next = NULL;
            pf_tcp_discard(listener);
        } else {
            return false;
        }
    }
    return true;
}
