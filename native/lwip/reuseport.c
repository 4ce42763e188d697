/* SO_REUSEPORT: several endpoints, of one client or of many, on one address and port.
 *
 * lwIP has one listener for an address and port. So the members of a group share one pcb, bound
 * when the first one is and listening when the first one does, and connections go round the members
 * that listen and have room. As on Linux all members belong to one user: nobody else can take away
 * connections from a server. */
#include <errno.h>
#include <stdlib.h>

#include "lwip/conn.h"
#include "lwip/errmap.h"

enum { BACKLOG_MAX = UINT16_MAX }; /* lwIP's */

struct pf_reuse_group {
    struct pf_reuse_group *next;
    struct tcp_pcb *pcb; /* bound; listening as soon as a member is */
    ip_addr_t ip;
    uint16_t port;
    bool listening;
    uint64_t user;
    struct stk_conn *members;
    struct stk_conn *turn; /* the next one to get a connection */
};

static struct pf_reuse_group *groups;

static void join(struct pf_reuse_group *group, struct stk_conn *conn) {
    conn->group = group;
    conn->group_next = group->members;
    group->members = conn;
}

static struct pf_reuse_group *find(const ip_addr_t *ip, uint16_t port) {
    for (struct pf_reuse_group *group = groups; group; group = group->next) {
        if (group->port == port && IP_GET_TYPE(&group->ip) == IP_GET_TYPE(ip) &&
            ip_addr_eq(&group->ip, ip)) {
            return group;
        }
    }
    return NULL;
}

int pf_reuse_bind(struct stk_conn *conn, const ip_addr_t *ip, uint16_t port) {
    struct pf_reuse_group *group = port ? find(ip, port) : NULL;
    if (group) {
        if (group->user != conn->reuse_user) {
            return -EADDRINUSE;
        }
        join(group, conn);
        return 0;
    }
    group = calloc(1, sizeof(*group));
    if (!group) {
        return -ENOMEM;
    }
    group->pcb = pf_tcp_new(IP_GET_TYPE(&conn->pcb->local_ip));
    if (!group->pcb) {
        free(group);
        return -ENOBUFS;
    }
    group->pcb->so_options = conn->pcb->so_options;
    group->pcb->netif_idx = conn->pcb->netif_idx;
    int result = pf_tcp_bind_pcb(group->pcb, ip, port);
    if (result != 0) {
        (void)tcp_close(group->pcb);
        free(group);
        return result;
    }
    group->ip = *ip;
    group->port = group->pcb->local_port;
    group->user = conn->reuse_user;
    group->next = groups;
    groups = group;
    join(group, conn);
    return 0;
}

const ip_addr_t *pf_reuse_address(const struct stk_conn *conn, uint16_t *port) {
    *port = conn->group->port;
    return &conn->group->ip;
}

/* The member whose turn it is, of those that listen and have room. */
static struct stk_conn *choose(struct pf_reuse_group *group) {
    struct stk_conn *start = group->turn ? group->turn : group->members;
    struct stk_conn *conn = start;
    do {
        struct stk_conn *next = conn->group_next ? conn->group_next : group->members;
        if (conn->listening && conn->queued < conn->backlog) {
            group->turn = next;
            return conn;
        }
        conn = next;
    } while (conn != start);
    return NULL;
}

static err_t on_accept(void *arg, struct tcp_pcb *pcb, err_t error) {
    struct pf_reuse_group *group = arg;
    struct stk_conn *conn = group && pcb && error == ERR_OK ? choose(group) : NULL;
    return conn ? pf_tcp_incoming(conn, pcb) : ERR_VAL;
}

int pf_reuse_listen(struct stk_conn *conn) {
    struct pf_reuse_group *group = conn->group;
    if (!group->listening) {
        err_t error = ERR_OK;
        if (pf_tcp_in_use(group->pcb, &group->ip, group->port)) {
            return -EADDRINUSE; /* since the bind, another one may have become a listener */
        }
        group->pcb->wnd_limit = conn->pcb->wnd_limit;
        group->pcb->mss_limit = conn->pcb->mss_limit;
        group->pcb->so_options = conn->pcb->so_options;
        group->pcb->tos = conn->pcb->tos;
        group->pcb->ttl = conn->pcb->ttl;
        struct tcp_pcb *listener = tcp_listen_with_backlog_and_err(group->pcb, 1, &error);
        if (!listener) {
            return -pf_errno_of(error);
        }
        group->pcb = listener;
        group->listening = true;
        tcp_arg(listener, group);
        tcp_accept(listener, on_accept);
    }
    tcp_arg(conn->pcb, NULL);
    tcp_err(conn->pcb, NULL);
    (void)tcp_close(conn->pcb); /* never bound: it only held the settings */
    conn->pcb = group->pcb;
    return 0;
}

const struct stk_conn *pf_reuse_listener(const struct tcp_pcb *pcb) {
    const struct tcp_pcb_listen *listener = (const struct tcp_pcb_listen *)pcb;
    if (listener->accept != on_accept) {
        return listener->callback_arg;
    }
    const struct pf_reuse_group *group = listener->callback_arg;
    return group ? group->members : NULL;
}

void pf_reuse_backlog(struct stk_conn *conn) {
    uint32_t sum = 0;
    for (struct stk_conn *member = conn->group->members; member; member = member->group_next) {
        sum += member->listening ? member->backlog : 0;
    }
    tcp_backlog_set(conn->group->pcb, (u16_t)(sum < 1 ? 1 : sum < BACKLOG_MAX ? sum : BACKLOG_MAX));
}

int pf_reuse_detach_bound(struct stk_conn *conn) {
    struct pf_reuse_group *group = conn->group;
    /* lwIP lets both have the address if both may share it; that no two connections are the same
     * it sees to itself. */
    bool shared = ip_get_option(group->pcb, SOF_REUSEADDR);
    ip_set_option(group->pcb, SOF_REUSEADDR);
    ip_set_option(conn->pcb, SOF_REUSEADDR);
    int result = -pf_errno_of(tcp_bind(conn->pcb, &group->ip, group->port));
    if (!shared) {
        ip_reset_option(group->pcb, SOF_REUSEADDR);
    }
    if (result == 0) {
        pf_reuse_leave(conn);
    }
    return result;
}

void pf_reuse_leave(struct stk_conn *conn) {
    struct pf_reuse_group *group = conn->group;
    if (!group) {
        return;
    }
    struct stk_conn **link = &group->members;
    while (*link != conn) {
        link = &(*link)->group_next;
    }
    *link = conn->group_next;
    conn->group = NULL;
    conn->group_next = NULL;
    if (group->turn == conn) {
        group->turn = NULL;
    }
    if (group->members) {
        return;
    }
    struct pf_reuse_group **place = &groups;
    while (*place != group) {
        place = &(*place)->next;
    }
    *place = group->next;
    tcp_arg(group->pcb, NULL);
    (void)tcp_close(group->pcb);
    free(group);
}
