/* One TCP endpoint of the glue: what tcp.c, tcp_bind.c, tcp_options.c and reuseport.c share. */
#ifndef PF_LWIP_CONN_H
#define PF_LWIP_CONN_H

#include "lwip/internal.h"
#include "lwip/rx_queue.h"
#include "lwip/sys.h"
#include "lwip/tcp.h"

struct pf_reuse_group;

/* What was set on a socket and lwIP does not keep, or not for a listener's connections. */
struct pf_tcp_settings {
    uint32_t keep_idle_ms;
    uint32_t keep_intvl_ms;
    uint32_t keep_count;
    uint32_t user_timeout_ms; /* 0: none */
    uint32_t defer_ms;        /* listener: connections wait so long for their first byte; 0: no */
    uint8_t syn_retries;      /* 0: lwIP's own limit */
    bool nagle;
    bool quick_ack;
};

struct stk_conn {
    struct tcp_pcb *pcb; /* NULL: gone, `error` tells why */
    void *owner;
    int priority;
    int error;
    bool listening;
    bool connecting;
    bool flow_known;
    bool v6only;
    uint8_t family;
    bool local_peer;  /* the peer is in this stack */
    bool unannounced; /* connected, and the owner is told when the other end can be accepted */
    bool at_end;      /* the peer's FIN came */
    bool finished;
    bool deferred; /* in its listener's queue, and not to be accepted before its first byte */
    bool expired;  /* we gave it up, by a time limit that its user set */
    struct pf_rx_queue rx;
    struct stk_account *account;  /* NULL: nobody's */
    uint32_t counted;             /* bytes of `rx` that are in the sum of all */
    uint32_t queued_counted;      /* buffers with bytes to send that are in the account */
    uint32_t window;              /* the largest, once it has an owner */
    uint32_t promised;            /* bytes that may come, or have come and are not read */
    bool waiting;                 /* it came in, and never had one */
    struct stk_conn *listener;    /* in whose queue this connection waits */
    struct stk_conn *queue_first; /* those that may be accepted, then those that are deferred */
    struct stk_conn *queue_ready; /* the last one that may be accepted */
    struct stk_conn *queue_last;
    struct stk_conn *queue_next;
    struct stk_conn *queue_prev;
    uint64_t taken; /* when it was accepted first, by a count; 0: it never was */
    uint32_t queued;
    uint32_t backlog;
    struct pf_flow_key flow;
    struct pf_tcp_settings settings;
    uint32_t since_ms; /* watch: since when nothing was acknowledged; when it was queued */
    uint32_t since_ack;
    bool waiting_ack;
    uint64_t bytes_taken; /* to be sent */
    uint64_t bytes_acked; /* as far as the owner was told */
    uint64_t bytes_received;
    uint32_t sent_before; /* the end of what was sent when the last bytes came */
    uint64_t reuse_user;  /* SO_REUSEPORT: the user's number and one; 0: not shared */
    struct pf_reuse_group *group;
    struct stk_conn *group_next;
};

/* tcp.c */
/* The connection whose other end `pcb` is has come to its listener: whoever connected is told. */
void pf_tcp_announce(const struct tcp_pcb *pcb);

/* pcb_index.c */
/* Connections that came in and that nobody has adopted yet, over all listeners: so many, and from
 * the half on each listener, and all of one application, only a share, so that no flood takes the
 * pcbs of everybody else. */
#define PF_UNACCEPTED_MAX (MEMP_NUM_TCP_PCB / 4U)
#define PF_UNACCEPTED_SHARE 64U
void pf_tcp_unaccepted(struct tcp_pcb *pcb, bool yes);
/* Its handshake is over: it no longer counts as one of those. */
void pf_tcp_established(struct tcp_pcb *pcb);
uint32_t pf_tcp_unaccepted_count(void);
/* A pcb, or NULL. */
struct tcp_pcb *pf_tcp_new(uint8_t type);
/* Its socket is closed, and all but its FIN is acknowledged: if a new pcb finds no place, it goes.
 * So peers that never acknowledge a FIN keep nobody from connecting (as Linux's tcp_max_orphans).
 */
void pf_tcp_left_alone(struct tcp_pcb *pcb);
/* Whether there is, or was made, a place for a pcb. Before each that lwIP makes: where it finds
 * none, it resets connections that have an owner. */
bool pf_tcp_make_room(void);

/* tcp_bind.c */
int pf_tcp_bind_pcb(struct tcp_pcb *pcb, const ip_addr_t *ip, uint16_t port);
/* A port for a connection to this peer, over this route. */
int pf_tcp_bind_for(struct tcp_pcb *pcb, struct netif *route, const ip_addr_t *peer,
                    uint16_t peer_port);
/* Whether another pcb keeps `pcb` from having this address, by Linux's rules. */
bool pf_tcp_in_use(const struct tcp_pcb *pcb, const ip_addr_t *ip, u16_t port);

/* tcp.c */
/* Has events of the connection, and its segments by priority, from now on. */
void pf_tcp_attach(struct stk_conn *conn);
/* Frees what the connection has here. */
void pf_tcp_discard(struct stk_conn *conn);

/* tcp_queue.c */
/* A connection came in for `listener`. */
err_t pf_tcp_incoming(struct stk_conn *listener, struct tcp_pcb *pcb);
/* Shows a deferred connection to its listener. */
void pf_tcp_show_deferred(struct stk_conn *conn);
/* The listener's backlog or queue has changed. */
void pf_queue_follow(struct stk_conn *listener);
/* A connection ended in its queue: frees it. */
void pf_queue_died(struct stk_conn *conn);
/* The listener is over: frees it as soon as its queue is reset. */
void pf_queue_close(struct stk_conn *listener);
/* It waits for its reset: its address can be had. */
bool pf_queue_left(const struct tcp_pcb *pcb);

/* share.c */
/* The window of a connection that nobody has taken. */
#define PF_WAITING_WINDOW 32768U
/* After each change of the queue. */
void pf_share_recount(struct stk_conn *conn);
/* After each change of the queue of bytes to send. */
void pf_share_requeue(struct stk_conn *conn);
/* Whether it may queue more than one segment. With none in the queue it may always queue that one,
 * so that an acknowledgement comes, and the rest has its turn. */
bool pf_share_may_queue(const struct stk_conn *conn);
/* The handshake of `pcb` has begun: the account it counts for, if any, and that it is over. */
struct stk_account *pf_share_half_open(const struct tcp_pcb *pcb);
void pf_share_half_open_over(struct stk_account *account);
/* The connection came in, and has no owner. */
void pf_share_start(struct stk_conn *conn);
/* It has one now. */
void pf_share_owned(struct stk_conn *conn);
/* Before the connection is freed. */
void pf_share_leave(struct stk_conn *conn);
uint64_t pf_share_held(void);
uint64_t pf_share_promised(void);
/* A larger window, as far as its application's share goes. */
void pf_share_widen(struct stk_conn *conn);
/* Before its SYN. */
void pf_share_connect(struct stk_conn *conn);
/* So many bytes were read: returns by how many the window may open. It stays smaller where the
 * application's promises come near its share. What was announced is never taken back; and where all
 * was read there is room for PF_LEAST_WINDOW, so that none stalls. */
uint32_t pf_share_credit(struct stk_conn *conn, uint32_t bytes);
/* Whether its application may have another listener. */
bool pf_share_may_listen(const struct stk_conn *conn);
void pf_share_listens(struct stk_conn *conn, bool yes);

/* tcp_options.c */
void pf_tcp_settings_default(struct pf_tcp_settings *settings);
/* Puts the settings in force on a pcb that is no listener. */
void pf_tcp_settings_apply(struct stk_conn *conn);

/* What a listener announces for those that come in. */
void pf_tcp_limit_waiting(struct stk_conn *listener);
/* Up to `limit` bytes may be announced from now on. */
void pf_tcp_widen(struct stk_conn *conn, uint32_t limit);

/* reuseport.c: endpoints with SO_REUSEPORT that share one address and port share one listener. */
int pf_reuse_bind(struct stk_conn *conn, const ip_addr_t *ip, uint16_t port);
int pf_reuse_listen(struct stk_conn *conn);
/* Before a connect: the endpoint's own pcb gets the shared address. */
int pf_reuse_detach_bound(struct stk_conn *conn);
void pf_reuse_leave(struct stk_conn *conn);
/* One of the endpoints for which a listener was made. */
const struct stk_conn *pf_reuse_listener(const struct tcp_pcb *pcb);
/* The backlog of a member changed. */
void pf_reuse_backlog(struct stk_conn *conn);
const ip_addr_t *pf_reuse_address(const struct stk_conn *conn, uint16_t *port);

#endif
