/* lwIP's lists of TCP pcbs, with an index by 4-tuple and one by local port (TCP_PCB_INDEX, one of
 * our patches). A pcb is in the index exactly while it is in a list. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "lwip/conn.h"
#include "lwip/ip.h"
#include "lwip/priv/tcp_priv.h"
#include "lwip/siphash.h"

#define TUPLE_BUCKETS 32768U

static struct tcp_pcb *by_tuple[TUPLE_BUCKETS];
static struct tcp_pcb *by_port[65536];
static struct tcp_pcb *listeners[65536];
static struct tcp_pcb *oldest_tw;
static u32_t tw_count;
static u32_t unaccepted;
/* Of the active ones, those that nobody has any more, in the order in which they were left. */
static struct tcp_pcb *alone;
static struct tcp_pcb **alone_end = &alone;

static void put_address(uint64_t words[2], const ip_addr_t *ip) {
    if (IP_IS_V6(ip)) {
        memcpy(words, ip_2_ip6(ip)->addr, 16);
    } else {
        words[0] = ip4_addr_get_u32(ip_2_ip4(ip));
        words[1] = 0;
    }
}

/* Keyed: peers choose addresses and ports. */
static struct tcp_pcb **tuple_chain(const ip_addr_t *local_ip, u16_t local_port,
                                    const ip_addr_t *remote_ip, u16_t remote_port) {
    static uint64_t key[2];
    static bool keyed;
    if (!keyed) {
        if (getrandom(key, sizeof(key), 0) != sizeof(key)) {
            abort(); /* never for so few bytes */
        }
        keyed = true;
    }
    uint64_t words[5];
    put_address(words, local_ip);
    put_address(words + 2, remote_ip);
    words[4] = (uint64_t)local_port << 16 | remote_port;
    return &by_tuple[pf_siphash(key, words, 5) % TUPLE_BUCKETS];
}

static void chain_port(struct tcp_pcb *pcb) {
    struct tcp_pcb **head = &by_port[pcb->local_port];
    pcb->port_next = *head;
    pcb->port_link = head;
    if (*head) {
        (*head)->port_link = &pcb->port_next;
    }
    *head = pcb;
}

static void chain_tuple(struct tcp_pcb *pcb, struct tcp_pcb **head) {
    pcb->tuple_next = *head;
    pcb->tuple_link = head;
    if (*head) {
        (*head)->tuple_link = &pcb->tuple_next;
    }
    *head = pcb;
}

void pf_tcp_unaccepted(struct tcp_pcb *pcb, bool yes) {
    unaccepted += (u32_t)yes - pcb->unaccepted;
    pcb->unaccepted = yes;
}

void pf_tcp_established(struct tcp_pcb *pcb) {
    if (pcb->half_open) {
        pf_share_half_open_over(pcb->half_open);
        pcb->half_open = NULL;
    }
}

u32_t pf_tcp_unaccepted_count(void) { return unaccepted; }

static void leave_alone_list(struct tcp_pcb *pcb) {
    if (pcb->alone_link) {
        *pcb->alone_link = pcb->alone_next;
        *(pcb->alone_next ? &pcb->alone_next->alone_link : &alone_end) = pcb->alone_link;
        pcb->alone_link = NULL;
    }
}

void tcp_pcb_index_add(struct tcp_pcb **pcbs, struct tcp_pcb *pcb) {
    pcb->next = *pcbs;
    pcb->prev = NULL;
    if (*pcbs) {
        (*pcbs)->prev = pcb;
    } else if (pcbs == &tcp_tw_pcbs) {
        oldest_tw = pcb;
    }
    *pcbs = pcb;
    tw_count += pcbs == &tcp_tw_pcbs;
    pcb->unaccepted = pcbs == &tcp_active_pcbs && pcb->state == SYN_RCVD;
    unaccepted += pcb->unaccepted;
    pcb->half_open = pcb->unaccepted ? pf_share_half_open(pcb) : NULL;
    chain_port(pcb);
    pcb->tuple_link = NULL; /* lwIP does not clear a new listener */
    pcb->alone_link = NULL;
    if (pcbs == &tcp_active_pcbs || pcbs == &tcp_tw_pcbs) {
        chain_tuple(
            pcb, tuple_chain(&pcb->local_ip, pcb->local_port, &pcb->remote_ip, pcb->remote_port));
    } else if (pcbs == &tcp_listen_pcbs.pcbs) {
        chain_tuple(pcb, &listeners[pcb->local_port]);
    }
}

void tcp_pcb_index_remove(struct tcp_pcb **pcbs, struct tcp_pcb *pcb) {
    tw_count -= pcbs == &tcp_tw_pcbs;
    pf_tcp_unaccepted(pcb, false);
    pf_tcp_established(pcb);
    leave_alone_list(pcb);
    if (pcb == oldest_tw) {
        oldest_tw = pcb->prev;
    }
    *(pcb->prev ? &pcb->prev->next : pcbs) = pcb->next;
    if (pcb->next) {
        pcb->next->prev = pcb->prev;
    }
    pcb->next = NULL;
    pcb->prev = NULL;
    *pcb->port_link = pcb->port_next;
    if (pcb->port_next) {
        pcb->port_next->port_link = pcb->port_link;
    }
    if (pcb->tuple_link) {
        *pcb->tuple_link = pcb->tuple_next;
        if (pcb->tuple_next) {
            pcb->tuple_next->tuple_link = pcb->tuple_link;
        }
        pcb->tuple_link = NULL;
    }
}

struct tcp_pcb *tcp_pcb_index_find(const ip_addr_t *local_ip, u16_t local_port,
                                   const ip_addr_t *remote_ip, u16_t remote_port,
                                   const struct netif *input) {
    struct tcp_pcb *waiting = NULL;
    struct tcp_pcb *pcb = *tuple_chain(local_ip, local_port, remote_ip, remote_port);
    for (; pcb; pcb = pcb->tuple_next) {
        bool here =
            !input || pcb->netif_idx == NETIF_NO_INDEX || pcb->netif_idx == netif_get_index(input);
        if (here && pcb->local_port == local_port && pcb->remote_port == remote_port &&
            ip_addr_eq(&pcb->remote_ip, remote_ip) && ip_addr_eq(&pcb->local_ip, local_ip)) {
            if (pcb->state != TIME_WAIT) {
                return pcb;
            }
            waiting = pcb;
        }
    }
    return waiting;
}

struct tcp_pcb *tcp_pcb_index_port(u16_t port) { return by_port[port]; }

struct tcp_pcb *tcp_pcb_index_listener(u16_t port) { return listeners[port]; }

struct tcp_pcb *tcp_pcb_index_oldest_tw(void) { return oldest_tw; }

u32_t tcp_pcb_index_tw_count(void) { return tw_count; }

/* ---- pcbs that nobody has any more ---- */

struct tcp_pcb *pf_tcp_new(uint8_t type) {
    return pf_tcp_make_room() ? tcp_new_ip_type(type) : NULL;
}

void pf_tcp_left_alone(struct tcp_pcb *pcb) {
    bool active = pcb->state >= SYN_SENT && pcb->state != TIME_WAIT;
    if (active && !pcb->alone_link) {
        pcb->alone_next = NULL;
        pcb->alone_link = alone_end;
        *alone_end = pcb;
        alone_end = &pcb->alone_next;
    }
}

bool pf_tcp_make_room(void) {
    /* Of those in TIME_WAIT lwIP frees the oldest. */
    if (lwip_stats.memp[MEMP_TCP_PCB]->used < MEMP_NUM_TCP_PCB || tcp_tw_pcbs) {
        return true;
    }
    if (!alone) {
        return false;
    }
    tcp_abort(alone);
    return true;
}
