/* A TCP endpoint: what the files about TCP share. */
#ifndef PF_LWIP_TCP_CONN_H
#define PF_LWIP_TCP_CONN_H

#include "lwip/internal.h"
#include "lwip/rx_queue.h"
#include "lwip/tcp.h"

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
    bool local_peer; /* the peer is in this stack */
    bool at_end;     /* the peer's FIN came */
    bool finished;
    struct pf_rx_queue rx;
    struct stk_conn *listener; /* in whose queue this connection waits */
    struct stk_conn *queue_first;
    struct stk_conn *queue_last;
    struct stk_conn *queue_next;
    struct pf_flow_key flow;
};

/* tcp_bind.c */
int pf_tcp_bind_ephemeral(struct stk_conn *conn, const ip_addr_t *ip);
/* Whether another pcb keeps `pcb` from having this address, by Linux's rules. */
bool pf_tcp_in_use(const struct tcp_pcb *pcb, const ip_addr_t *ip, u16_t port);

#endif
