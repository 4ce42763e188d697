/* TCP endpoints over lwIP's raw API. Every call checks the state of the endpoint first: lwIP checks
 * little, and one call in the wrong state corrupts its memory. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lwip/conn.h"
#include "lwip/errmap.h"
#include "lwip/priv/tcp_priv.h"

enum { BACKLOG_MAX = 4096 };

/* ---- flows ---- */

static void flow_add(struct stk_conn *conn) {
    struct tcp_pcb *pcb = conn->pcb;
    conn->local_peer = pf_addr_is_local(&pcb->remote_ip);
    memset(&conn->flow, 0, sizeof(conn->flow));
    conn->flow.local_port = pcb->local_port;
    conn->flow.remote_port = pcb->remote_port;
    if (IP_IS_V4_VAL(pcb->remote_ip)) {
        conn->flow.ip_version = 4;
        memcpy(conn->flow.remote, &ip_2_ip4(&pcb->remote_ip)->addr, 4);
    } else {
        conn->flow.ip_version = 6;
        memcpy(conn->flow.remote, ip_2_ip6(&pcb->remote_ip)->addr, 16);
    }
    conn->flow_known = pf_flow_set(pf_flows, &conn->flow, (uint8_t)conn->priority);
}

static void flow_drop(struct stk_conn *conn) {
    if (conn->flow_known) {
        conn->flow_known = false;
        (void)pf_flow_remove(pf_flows, &conn->flow);
    }
}

/* ---- lwIP's callbacks ---- */

/* Both directions are over and every byte is acknowledged: lwIP keeps the pcb through TIME_WAIT,
 * and frees it without telling anybody. Not before the owner knows of every byte: lwIP tells of
 * 65535 at a time. */
static void leave_to_time_wait(struct stk_conn *conn) {
    struct tcp_pcb *pcb = conn->pcb;
    if (conn->at_end && conn->finished && conn->bytes_acked == conn->bytes_taken &&
        stk_tcp_drained(conn) && (pcb->state == CLOSING || pcb->state == TIME_WAIT)) {
        tcp_arg(pcb, NULL);
        tcp_err(pcb, NULL);
        tcp_sent(pcb, NULL);
        pf_tcp_left_alone(pcb);
        flow_drop(conn);
        conn->pcb = NULL;
    }
}

/* A small segment of a peer that was sent nothing since the one before: no answer carries the ACK,
 * and by Nagle's algorithm the peer may wait for it before it sends the next. As on Linux, where
 * whoever reads it acknowledges it. */
static bool is_one_way(struct stk_conn *conn, const struct tcp_pcb *pcb, const struct pbuf *p) {
    bool unanswered = conn->bytes_received == 0 || conn->sent_before == pcb->snd_lbb;
    conn->sent_before = pcb->snd_lbb;
    return unanswered && p->tot_len < pcb->mss;
}

static err_t on_recv(void *arg, struct tcp_pcb *pcb, struct pbuf *p, err_t error) {
    struct stk_conn *conn = arg;
    (void)error;
    if (!conn) {
        if (p) {
            tcp_recved(pcb, p->tot_len);
            pbuf_free(p);
        }
        return ERR_OK;
    }
    if (!p) {
        conn->at_end = true;
        leave_to_time_wait(conn);
    } else {
        bool one_way = is_one_way(conn, pcb, p);
        conn->bytes_received += p->tot_len;
        pf_rx_append(&conn->rx, p);
        if (conn->local_peer || conn->settings.quick_ack || one_way) {
            /* On this machine an ACK costs less than a microsecond, and whoever waits for a write
             * to complete waits for it. */
            tcp_set_flags(pcb, TF_ACK_NOW);
        }
    }
    if (conn->deferred) {
        pf_tcp_show_deferred(conn);
    }
    if (conn->owner) {
        pf_events->readable(conn->owner);
    }
    pf_rx_settle(&conn->rx);
    pf_share_recount(conn);
    return ERR_OK;
}

static err_t on_sent(void *arg, struct tcp_pcb *pcb, u16_t bytes) {
    struct stk_conn *conn = arg;
    (void)pcb;
    if (conn) {
        conn->bytes_acked += bytes;
        pf_share_requeue(conn);
        leave_to_time_wait(conn);
    }
    if (conn && conn->owner) {
        pf_events->acknowledged(conn->owner, bytes);
    }
    return ERR_OK;
}

void pf_tcp_discard(struct stk_conn *conn) {
    pf_rx_drop(&conn->rx);
    pf_share_leave(conn);
    free(conn);
}

static void on_error(void *arg, err_t error) {
    struct stk_conn *conn = arg;
    if (!conn) {
        return;
    }
    int number = pf_errno_of(error);
    if (conn->expired) {
        number = ETIMEDOUT;
    } else if (error == ERR_RST && conn->connecting) {
        number = ECONNREFUSED;
    } else if (error == ERR_CLSD) {
        number = 0; /* both sides closed in good order */
    }
    conn->pcb = NULL; /* lwIP frees it around this call: not even its state may be looked at */
    pf_share_requeue(conn);
    conn->error = number;
    flow_drop(conn);
    if (conn->listener) {
        pf_queue_died(conn);
    } else if (conn->owner) { /* else whoever takes it up will be told */
        pf_events->failed(conn->owner, number);
    }
}

/* The pcb at the other end of a connection within this stack; NULL: there is none. */
static struct tcp_pcb *other_end(const struct tcp_pcb *pcb) {
    return tcp_pcb_index_find(&pcb->remote_ip, pcb->remote_port, &pcb->local_ip, pcb->local_port,
                              NULL);
}

void pf_tcp_announce(const struct tcp_pcb *pcb) {
    const struct tcp_pcb *other = other_end(pcb);
    struct stk_conn *conn = other ? other->callback_arg : NULL;
    if (conn && conn->unannounced) {
        conn->unannounced = false;
        if (conn->owner) {
            pf_events->connected(conn->owner);
        }
    }
}

static err_t on_connected(void *arg, struct tcp_pcb *pcb, err_t error) {
    struct stk_conn *conn = arg;
    (void)error; /* always ERR_OK: failures come by the error callback */
    if (!conn) {
        return ERR_OK;
    }
    conn->connecting = false;
    /* Over the kernel's loopback the listener is readable before connect() returns, and programs
     * that accept right after it rely on that: our acknowledgement has still to get there. */
    const struct tcp_pcb *other = other_end(pcb);
    conn->unannounced = other && other->state == SYN_RCVD;
    if (conn->owner && !conn->unannounced) {
        pf_events->connected(conn->owner);
    }
    return ERR_OK;
}

static void set_callbacks(struct stk_conn *conn) {
    tcp_arg(conn->pcb, conn);
    tcp_recv(conn->pcb, on_recv);
    tcp_sent(conn->pcb, on_sent);
    tcp_err(conn->pcb, on_error);
    pf_tcp_settings_apply(conn);
}

void pf_tcp_attach(struct stk_conn *conn) {
    set_callbacks(conn);
    flow_add(conn);
}

static err_t on_accept(void *arg, struct tcp_pcb *pcb, err_t error) {
    if (!pcb || error != ERR_OK || !arg) {
        return ERR_VAL; /* lwIP found no memory, or the listener is closing: lwIP aborts the pcb */
    }
    return pf_tcp_incoming(arg, pcb);
}

/* ---- making and naming ---- */

int stk_tcp_open(int family, int priority, void *owner, struct stk_conn **out) {
    struct stk_conn *conn = calloc(1, sizeof(*conn));
    if (!conn) {
        return -ENOMEM;
    }
    conn->pcb = pf_tcp_new(family == PF_FAMILY_IPV6 ? IPADDR_TYPE_ANY : IPADDR_TYPE_V4);
    if (!conn->pcb) {
        free(conn);
        return -ENOBUFS;
    }
    conn->owner = owner;
    conn->priority = priority;
    conn->family = (uint8_t)family;
    conn->window = TCP_WND;
    pf_tcp_settings_default(&conn->settings);
    set_callbacks(conn);
    *out = conn;
    return 0;
}

void stk_tcp_set_owner(struct stk_conn *conn, void *owner) {
    conn->owner = owner;
    if (owner) {
        pf_share_owned(conn);
    }
}

void stk_tcp_take_after(struct stk_conn *conn, const struct stk_conn *old) {
    conn->settings = old->settings;
    conn->v6only = old->v6only;
    conn->reuse_user = old->reuse_user;
    stk_tcp_set_account(conn, old->account);
    pf_tcp_settings_apply(conn);
}

bool stk_tcp_gone(const struct stk_conn *conn) { return !conn->pcb; }

int stk_tcp_error(const struct stk_conn *conn) { return conn->pcb ? 0 : conn->error; }

static void set_backlog(struct stk_conn *conn, u16_t limit) {
    conn->backlog = limit;
    if (conn->group) {
        pf_reuse_backlog(conn);
    } else {
        pf_queue_follow(conn);
    }
}

int stk_tcp_listen(struct stk_conn *conn, uint32_t backlog) {
    /* As on Linux: one more than asked for, and an administrator's limit. */
    u16_t limit = (u16_t)((backlog < BACKLOG_MAX ? backlog : BACKLOG_MAX) + 1);
    err_t error = ERR_OK;
    if (conn->listening) {
        set_backlog(conn, limit);
        return 0;
    }
    if (!conn->pcb || conn->pcb->state != CLOSED) {
        return -EINVAL;
    }
    if (!pf_share_may_listen(conn)) {
        return -ENOBUFS;
    }
    if (conn->group) {
        int result = pf_reuse_listen(conn);
        if (result != 0) {
            return result;
        }
    } else {
        /* Since the bind, another socket may have become a listener: reusing an address does not go
         * so far. */
        if (conn->pcb->local_port &&
            pf_tcp_in_use(conn->pcb, &conn->pcb->local_ip, conn->pcb->local_port)) {
            return -EADDRINUSE;
        }
        struct tcp_pcb *listener = tcp_listen_with_backlog_and_err(conn->pcb, limit, &error);
        if (!listener) {
            return -pf_errno_of(error);
        }
        conn->pcb = listener;
        tcp_arg(listener, conn);
        tcp_accept(listener, on_accept);
    }
    pf_share_listens(conn, true);
    pf_tcp_limit_waiting(conn);
    set_backlog(conn, limit);
    pf_flow_listener_set(pf_flows, conn->pcb->local_port, (uint8_t)conn->priority);
    return 0;
}

int stk_tcp_connect(struct stk_conn *conn, const struct pf_addr *addr) {
    ip_addr_t ip;
    if (!conn->pcb || conn->listening || conn->pcb->state != CLOSED) {
        return -EISCONN;
    }
    if (!pf_addr_to_lwip(addr, false, &ip)) {
        return -EAFNOSUPPORT;
    }
    if (ip_addr_isany(&ip)) { /* as on Linux: the wildcard as a destination is this host */
        if (IP_IS_V4_VAL(ip)) {
            IP_ADDR4(&ip, 127, 0, 0, 1);
        } else {
            ip_addr_set_loopback(1, &ip);
        }
    }
    if (addr->port == 0) {
        return -ECONNREFUSED;
    }
    struct netif *route = ip_route(&conn->pcb->local_ip, &ip);
    if (!route) { /* link-local of which link? */
        bool unsaid =
            addr->scope_id == 0 && IP_IS_V6_VAL(ip) && ip6_addr_islinklocal(ip_2_ip6(&ip));
        return unsaid ? -EINVAL : -ENETUNREACH;
    }
    if (conn->group) {
        int result = pf_reuse_detach_bound(conn);
        if (result != 0) {
            return result;
        }
    }
    if (conn->pcb->local_port == 0) {
        int result = pf_tcp_bind_for(conn->pcb, route, &ip, addr->port);
        if (result != 0) {
            return result;
        }
    }
    pf_share_connect(conn);
    err_t error = tcp_connect(conn->pcb, &ip, addr->port, on_connected);
    if (error == ERR_OK) {
        conn->connecting = true;
        flow_add(conn);
    }
    return -pf_errno_of(error);
}

/* ---- bytes ---- */

int64_t stk_tcp_write(struct stk_conn *conn, const uint8_t *data, uint32_t length, bool more) {
    struct tcp_pcb *pcb = conn->pcb;
    if (!pcb || conn->listening || conn->finished ||
        (pcb->state != ESTABLISHED && pcb->state != CLOSE_WAIT)) {
        return -EPIPE;
    }
    uint32_t taken = 0;
    while (taken < length) {
        uint32_t piece = length - taken;
        piece = piece < pcb->snd_buf ? piece : pcb->snd_buf;
        piece = piece < 0xffff ? piece : 0xffff; /* tcp_write takes 16 bits */
        if (!pf_share_may_queue(conn)) {
            if (pcb->snd_queuelen > 0) {
                break; /* an acknowledgement will come, and we are asked again */
            }
            piece = piece < pcb->mss ? piece : pcb->mss;
        }
        if (piece == 0) {
            break;
        }
        u8_t flags = more || taken + piece < length ? TCP_WRITE_FLAG_MORE : 0;
        err_t error = tcp_write(pcb, data + taken, (u16_t)piece, flags);
        if (error == ERR_MEM) {
            /* Too many segments queued, or no memory: with something in flight an acknowledgement
             * will come and we are asked again. */
            if (taken == 0 && !pcb->unacked && !pcb->unsent) {
                return -ENOMEM;
            }
            break;
        }
        if (error != ERR_OK) {
            return -pf_errno_of(error);
        }
        taken += piece;
        conn->bytes_taken += piece;
        pf_share_requeue(conn);
    }
    return taken;
}

void stk_tcp_urgent(struct stk_conn *conn) {
    if (conn->pcb && !conn->listening) {
        conn->pcb->snd_up = conn->pcb->snd_lbb;
        tcp_set_flags(conn->pcb, TF_URGENT);
    }
}

uint32_t stk_tcp_unsent(const struct stk_conn *conn) {
    const struct tcp_pcb *pcb = conn->pcb;
    /* A FIN that is sent together with the last bytes is not in snd_lbb. */
    bool some = pcb && !conn->listening && TCP_SEQ_LT(pcb->snd_nxt, pcb->snd_lbb);
    return some ? pcb->snd_lbb - pcb->snd_nxt : 0;
}

void stk_tcp_push(struct stk_conn *conn) {
    if (conn->pcb && !conn->listening && conn->pcb->state >= SYN_SENT) {
        (void)tcp_output(conn->pcb); /* what fails for want of memory is retried by the timer */
    }
}

uint32_t stk_tcp_read(struct stk_conn *conn, uint8_t *buffer, uint32_t limit) {
    uint32_t got = pf_rx_take(&conn->rx, buffer, limit);
    pf_share_recount(conn);
    return got;
}

int stk_tcp_unread_back(struct stk_conn *conn, const uint8_t *data, uint32_t length) {
    int result = pf_rx_put_back(&conn->rx, data, length);
    pf_share_recount(conn);
    return result;
}

uint32_t stk_tcp_unread(const struct stk_conn *conn) { return conn->rx.bytes; }

bool stk_tcp_at_end(const struct stk_conn *conn) { return conn->at_end && conn->rx.bytes == 0; }

void stk_tcp_credit(struct stk_conn *conn, uint32_t bytes) {
    if (!conn->pcb || conn->listening) {
        return;
    }
    bytes = pf_share_credit(conn, bytes);
    while (bytes > 0 && conn->pcb) {
        u16_t piece = (u16_t)(bytes < 0xffff ? bytes : 0xffff);
        tcp_recved(conn->pcb, piece);
        bytes -= piece;
    }
    pf_share_widen(conn);
}

/* ---- ending ---- */

int stk_tcp_finish(struct stk_conn *conn) {
    if (conn->finished || !conn->pcb) {
        return 0;
    }
    if (conn->listening) {
        return -ENOTCONN;
    }
    err_t error = tcp_shutdown(conn->pcb, 0, 1);
    if (error == ERR_OK) {
        conn->finished = true;
    }
    return -pf_errno_of(error);
}

/* Nothing queued, or only a FIN: lwIP tells nobody when that is acknowledged. */
static bool no_bytes(const struct tcp_seg *queue) {
    return !queue || (queue->len == 0 && !queue->next);
}

bool stk_tcp_drained(const struct stk_conn *conn) {
    const struct tcp_pcb *pcb = conn->pcb;
    return !pcb ||
           (no_bytes(pcb->unsent) && no_bytes(pcb->unacked) && !(pcb->flags & TF_CLOSEPEND));
}

static void forget(struct stk_conn *conn) {
    if (conn->pcb) {
        tcp_arg(conn->pcb, NULL);
        if (!conn->listening) {
            tcp_err(conn->pcb, NULL);
            tcp_sent(conn->pcb, NULL);
        }
    }
    flow_drop(conn);
    pf_rx_drop(&conn->rx);
    pf_reuse_leave(conn);
}

static void close_listener(struct stk_conn *conn) {
    pf_flow_listener_remove(pf_flows, conn->pcb->local_port);
    if (conn->group) {
        pf_reuse_leave(conn);
    } else {
        tcp_arg(conn->pcb, NULL);
        (void)tcp_close(conn->pcb);
    }
    conn->pcb = NULL;
    pf_queue_close(conn);
}

void stk_tcp_close(struct stk_conn *conn) {
    if (conn->pcb && conn->listening) {
        close_listener(conn);
        return;
    }
    if (conn->pcb) {
        struct tcp_pcb *pcb = conn->pcb;
        forget(conn);
        pf_tcp_left_alone(pcb);
        if (tcp_close(pcb) != ERR_OK) {
            tcp_abort(pcb);
        }
    }
    pf_tcp_discard(conn);
}

void stk_tcp_abort(struct stk_conn *conn) {
    if (conn->pcb && conn->listening) {
        close_listener(conn);
        return;
    }
    if (conn->pcb) {
        struct tcp_pcb *pcb = conn->pcb;
        forget(conn);
        tcp_abort(pcb);
    }
    pf_tcp_discard(conn);
}
