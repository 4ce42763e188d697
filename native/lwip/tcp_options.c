/* Options of TCP endpoints: what they do, the time limits that lwIP does not have, and what
 * TCP_INFO tells. */
#include <errno.h>
#include <linux/tcp.h>
#include <string.h>

#include "lwip/conn.h"
#include "lwip/netif.h"
#include "lwip/priv/tcp_priv.h"

/* Every connection with a time limit is looked at so often, in steps of TCP_SLOW_INTERVAL. */
enum { WATCH_STEPS = 1, KEEP_COUNT_MAX = 127, KEEP_SECONDS_MAX = 32767 };

void pf_tcp_settings_default(struct pf_tcp_settings *settings) {
    memset(settings, 0, sizeof(*settings));
    settings->keep_idle_ms = TCP_KEEPIDLE_DEFAULT;
    settings->keep_intvl_ms = TCP_KEEPINTVL_DEFAULT;
    settings->keep_count = TCP_KEEPCNT_DEFAULT;
}

/* ---- time limits ---- */

/* Nothing of what was sent has been acknowledged for the time that the user set. */
static bool is_stuck(struct stk_conn *conn, struct tcp_pcb *pcb) {
    uint32_t now = sys_now();
    bool waiting = pcb->unacked || pcb->unsent;
    if (!waiting || !conn->waiting_ack || conn->since_ack != pcb->lastack) {
        conn->waiting_ack = waiting;
        conn->since_ack = pcb->lastack;
        conn->since_ms = now;
        return false;
    }
    return now - conn->since_ms >= conn->settings.user_timeout_ms;
}

static err_t watch(void *arg, struct tcp_pcb *pcb) {
    struct stk_conn *conn = arg;
    if (!conn) {
        return ERR_OK;
    }
    const struct pf_tcp_settings *settings = &conn->settings;
    if (conn->deferred && sys_now() - conn->since_ms >= conn->listener->settings.defer_ms) {
        pf_tcp_show_deferred(conn);
    }
    bool stuck = settings->user_timeout_ms && !conn->deferred && is_stuck(conn, pcb);
    bool unheard =
        settings->syn_retries && pcb->state == SYN_SENT && pcb->nrtx > settings->syn_retries;
    if (stuck || unheard) {
        conn->expired = true;
        tcp_abort(pcb);
        return ERR_ABRT;
    }
    return ERR_OK;
}

static void set_watch(struct stk_conn *conn) {
    const struct pf_tcp_settings *settings = &conn->settings;
    bool needed = settings->user_timeout_ms || settings->syn_retries || conn->deferred;
    conn->waiting_ack = conn->waiting_ack && settings->user_timeout_ms;
    tcp_poll(conn->pcb, needed ? watch : NULL, needed ? WATCH_STEPS : 0);
}

void pf_tcp_settings_apply(struct stk_conn *conn) {
    const struct pf_tcp_settings *settings = &conn->settings;
    struct tcp_pcb *pcb = conn->pcb;
    pcb->keep_idle = settings->keep_idle_ms;
    pcb->keep_intvl = settings->keep_intvl_ms;
    pcb->keep_cnt = settings->keep_count;
    if (settings->nagle) {
        tcp_nagle_enable(pcb);
    } else {
        tcp_nagle_disable(pcb);
    }
    set_watch(conn);
}

/* ---- setting ---- */

static int set_keepalive(struct stk_conn *conn, uint32_t option, uint64_t value) {
    struct pf_tcp_settings *settings = &conn->settings;
    uint64_t limit = option == PF_OPT_KEEPCNT ? KEEP_COUNT_MAX : KEEP_SECONDS_MAX;
    if (value < 1 || value > limit) {
        return -EINVAL;
    }
    if (option == PF_OPT_KEEPIDLE) {
        settings->keep_idle_ms = (uint32_t)value * 1000U;
    } else if (option == PF_OPT_KEEPINTVL) {
        settings->keep_intvl_ms = (uint32_t)value * 1000U;
    } else {
        settings->keep_count = (uint32_t)value;
    }
    return 0;
}

static void set_window(struct stk_conn *conn, uint64_t value) {
    tcpwnd_size_t limit = value < PF_RCVBUF_MIN ? PF_RCVBUF_MIN
                          : value > TCP_WND     ? TCP_WND
                                                : (tcpwnd_size_t)value;
    struct tcp_pcb *pcb = conn->pcb;
    conn->window = limit;
    if (conn->listening) {
        pf_tcp_limit_waiting(conn);
    } else if (pcb->state == CLOSED) {
        pcb->wnd_limit = limit;
        pcb->rcv_wnd = pcb->rcv_ann_wnd = TCPWND_MIN16(limit);
    } else {
        pf_share_widen(conn);
    }
}

/* Only ever wider: what was announced may be under way. */
void pf_tcp_widen(struct stk_conn *conn, uint32_t limit) {
    struct tcp_pcb *pcb = conn->pcb;
    if (!pcb || pcb->state < ESTABLISHED || limit <= pcb->wnd_limit) {
        return;
    }
    tcpwnd_size_t before = TCP_WND_MAX(pcb);
    pcb->wnd_limit = limit;
    pcb->rcv_wnd += TCP_WND_MAX(pcb) - before;
    if (pcb->rcv_wnd < TCP_WND_MAX(pcb)) {
        tcp_recved(pcb, 0); /* there are bytes: the peer may wait for more room */
    } else {
        (void)tcp_update_rcv_ann_wnd(pcb);
    }
}

void pf_tcp_limit_waiting(struct stk_conn *listener) {
    ((struct tcp_pcb_listen *)listener->pcb)->wnd_limit =
        LWIP_MIN(listener->window, PF_WAITING_WINDOW);
}

static int set_maxseg(struct stk_conn *conn, uint64_t value) {
    if (value < PF_MAXSEG_MIN || value > UINT16_MAX) {
        return -EINVAL;
    }
    u16_t limit = value < TCP_MSS ? (u16_t)value : TCP_MSS;
    if (conn->listening) {
        ((struct tcp_pcb_listen *)conn->pcb)->mss_limit = limit;
        return 0;
    }
    conn->pcb->mss_limit = limit;
    if (conn->pcb->state >= ESTABLISHED && limit < conn->pcb->mss) {
        conn->pcb->mss = limit;
    }
    return 0;
}

static void set_flag(struct stk_conn *conn, u8_t flag, bool on) {
    if (on) {
        ip_set_option(conn->pcb, flag);
    } else {
        ip_reset_option(conn->pcb, flag);
    }
}

static void set_quickack(struct stk_conn *conn, bool on) {
    conn->settings.quick_ack = on;
    if (on && !conn->listening && (conn->pcb->flags & TF_ACK_DELAY)) {
        tcp_ack_now(conn->pcb);
        (void)tcp_output(conn->pcb);
    }
}

static void set_priority(struct stk_conn *conn, uint64_t value) {
    conn->priority = (int)value;
    if (conn->listening) {
        pf_flow_listener_update(pf_flows, conn->pcb->local_port, (uint8_t)value);
    } else if (conn->flow_known) {
        (void)pf_flow_set(pf_flows, &conn->flow, (uint8_t)value);
    }
}

/* Those that are kept in the settings; -ENOPROTOOPT: another one. */
static int set_setting(struct stk_conn *conn, uint32_t option, uint64_t value) {
    struct pf_tcp_settings *settings = &conn->settings;
    switch (option) {
    case PF_OPT_NODELAY:
        settings->nagle = value == 0;
        return 0;
    case PF_OPT_KEEPIDLE:
    case PF_OPT_KEEPINTVL:
    case PF_OPT_KEEPCNT:
        return set_keepalive(conn, option, value);
    case PF_OPT_USER_TIMEOUT:
        settings->user_timeout_ms = (uint32_t)(value > UINT32_MAX ? UINT32_MAX : value);
        return 0;
    case PF_OPT_SYNCNT:
        settings->syn_retries = (uint8_t)(value > KEEP_COUNT_MAX ? KEEP_COUNT_MAX : value);
        return 0;
    case PF_OPT_DEFER_ACCEPT:
        settings->defer_ms = (uint32_t)(value > KEEP_SECONDS_MAX ? KEEP_SECONDS_MAX : value) * 1000;
        return 0;
    default:
        return -ENOPROTOOPT;
    }
}

int stk_tcp_set_option(struct stk_conn *conn, uint32_t option, uint64_t value) {
    struct tcp_pcb *pcb = conn->pcb;
    if (!pcb) {
        return 0;
    }
    switch (option) {
    case PF_OPT_PRIORITY:
        set_priority(conn, value);
        return 0;
    case PF_OPT_REUSEADDR:
        set_flag(conn, SOF_REUSEADDR, value != 0);
        return 0;
    case PF_OPT_KEEPALIVE:
        set_flag(conn, SOF_KEEPALIVE, value != 0);
        return 0;
    case PF_OPT_REUSEPORT:
        conn->reuse_user = value;
        return 0;
    case PF_OPT_V6ONLY:
        conn->v6only = value != 0;
        return conn->family == PF_FAMILY_IPV6 ? 0 : -ENOPROTOOPT;
    case PF_OPT_TOS:
    case PF_OPT_TTL:
        if (value > 255 || (option == PF_OPT_TTL && value == 0)) {
            return -EINVAL;
        }
        *(option == PF_OPT_TOS ? &pcb->tos : &pcb->ttl) = (u8_t)value;
        return 0;
    case PF_OPT_RCVBUF:
        set_window(conn, value);
        return 0;
    case PF_OPT_MAXSEG:
        return set_maxseg(conn, value);
    case PF_OPT_QUICKACK:
        set_quickack(conn, value != 0);
        return 0;
    default:
        break;
    }
    int result = set_setting(conn, option, value);
    if (result == 0 && !conn->listening) {
        pf_tcp_settings_apply(conn);
        if (option == PF_OPT_NODELAY && value && pcb->state >= SYN_SENT) {
            (void)tcp_output(pcb);
        }
    }
    return result;
}

int stk_tcp_bind_device(struct stk_conn *conn, const char name[16]) {
    if (!conn->pcb) {
        return 0;
    }
    if (name[0] == 0) {
        conn->pcb->netif_idx = NETIF_NO_INDEX;
        return 0;
    }
    int index = pf_device_index(name);
    if (index <= 0) {
        return -ENODEV;
    }
    conn->pcb->netif_idx = (u8_t)index;
    return 0;
}

/* ---- telling ---- */

uint32_t stk_tcp_window(const struct stk_conn *conn) {
    if (!conn->pcb) {
        return TCP_WND;
    }
    return conn->listening || conn->waiting ? conn->window : conn->pcb->wnd_limit;
}

uint32_t stk_tcp_segment(const struct stk_conn *conn) {
    return conn->pcb && !conn->listening && conn->pcb->mss ? conn->pcb->mss : 536;
}

/* The kernel's numbers of the states; lwIP's are in the order of the RFC. */
static uint8_t state_of(const struct stk_conn *conn) {
    static const uint8_t states[] = {
        [CLOSED] = 7,      [LISTEN] = 10,    [SYN_SENT] = 2,   [SYN_RCVD] = 3,
        [ESTABLISHED] = 1, [FIN_WAIT_1] = 4, [FIN_WAIT_2] = 5, [CLOSE_WAIT] = 8,
        [CLOSING] = 11,    [LAST_ACK] = 9,   [TIME_WAIT] = 6,
    };
    if (!conn->pcb) {
        return states[CLOSED];
    }
    return conn->listening ? states[LISTEN] : states[conn->pcb->state];
}

static uint32_t segments(const struct tcp_seg *queue) {
    uint32_t count = 0;
    for (; queue; queue = queue->next) {
        count++;
    }
    return count;
}

static void describe_pcb(const struct tcp_pcb *pcb, struct pf_tcp_info *info) {
    uint32_t mss = pcb->mss ? pcb->mss : 1;
    info->snd_scale = pcb->snd_scale;
    info->rcv_scale = (pcb->flags & TF_WND_SCALE) ? pcb->rcv_scale : 0;
    info->options = (uint8_t)(((pcb->flags & TF_WND_SCALE) ? TCPI_OPT_WSCALE : 0) |
                              ((pcb->flags & TF_SACK) ? TCPI_OPT_SACK : 0));
    info->retransmits = pcb->nrtx;
    info->backoff = pcb->nrtx;
    info->probes = pcb->persist_probe;
    info->rto_us = (uint32_t)pcb->rto * TCP_SLOW_INTERVAL * 1000U;
    /* Jacobson's estimates are kept times eight and times four, in ticks. */
    info->rtt_us = (uint32_t)(pcb->sa > 0 ? pcb->sa : 0) * TCP_SLOW_INTERVAL * 1000U / 8U;
    info->rttvar_us = (uint32_t)(pcb->sv > 0 ? pcb->sv : 0) * TCP_SLOW_INTERVAL * 1000U / 4U;
    info->snd_mss = mss;
    info->rcv_mss = pcb->mss_limit < mss ? pcb->mss_limit : mss;
    info->unacked = segments(pcb->unacked);
    info->ssthresh = pcb->ssthresh / mss;
    info->cwnd = pcb->cwnd / mss ? pcb->cwnd / mss : 1;
    info->total_retrans = pcb->rexmits;
    info->rcv_space = pcb->rcv_wnd;
    info->snd_wnd = pcb->snd_wnd;
}

void stk_tcp_info(const struct stk_conn *conn, struct pf_tcp_info *info) {
    memset(info, 0, sizeof(*info));
    info->state = state_of(conn);
    info->bytes_acked = conn->bytes_acked;
    info->bytes_received = conn->bytes_received;
    if (conn->listening) {
        info->unacked = conn->queued;     /* as on Linux: the accept queue and its length */
        info->sacked = conn->backlog - 1; /* as it was asked for */
    } else if (conn->pcb) {
        describe_pcb(conn->pcb, info);
        info->notsent_bytes = stk_tcp_unsent(conn);
    }
}

uint32_t stk_tcp_listeners(const struct pf_addr *addr) {
    ip_addr_t ip;
    uint32_t count = 0;
    if (!pf_addr_to_lwip(addr, false, &ip)) {
        return 0;
    }
    for (const struct tcp_pcb_listen *l = tcp_listen_pcbs.listen_pcbs; l; l = l->next) {
        bool same_family =
            IP_IS_ANY_TYPE_VAL(l->local_ip) || IP_GET_TYPE(&l->local_ip) == IP_GET_TYPE(&ip);
        if (l->local_port == addr->port && same_family &&
            (ip_addr_isany(&l->local_ip) || ip_addr_eq(&l->local_ip, &ip))) {
            count++;
        }
    }
    return count;
}
