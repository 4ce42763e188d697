/* UDP endpoints: ports, names, sending. Receiving is in datagram_input.c. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lwip/account.h"
#include "lwip/datagram.h"
#include "lwip/errmap.h"
#include "lwip/netif.h"
#include "lwip/netif_loopback.h"

enum { EPHEMERAL_FIRST = 32768, EPHEMERAL_LAST = 60999, EPHEMERAL_TRIES = 64 };
/* Endpoints of one port: each datagram to it looks at all of them. As everywhere, one application
 * can have three quarters of them, which are 72. */
enum { PF_UDP_PER_PORT = 96 };
/* Raw endpoints of one protocol: each message is copied to all of them. */
enum { PF_RAW_MAX = 96 };
enum { DEFAULT_TTL = 64, IPV6_HEADERS = 48 };

static struct stk_dgram *chains[PF_DGRAM_KINDS][65536];

static uint32_t count;

struct stk_dgram *pf_dgram_chain(int kind, uint16_t port) { return chains[kind][port]; }

uint32_t pf_dgram_count(void) { return count; }

/* ---- ports ---- */

/* Received datagrams are as urgent as the most urgent endpoint of their port. */
static void classify(uint16_t port) {
    int best = -1;
    for (const struct stk_dgram *d = chains[PF_DGRAM_UDP][port]; d; d = d->next) {
        best = best < 0 || d->priority < best ? d->priority : best;
    }
    pf_flow_udp_port(pf_flows, port, best);
}

static void enlist(struct stk_dgram *dgram, uint16_t port) {
    dgram->port = port;
    dgram->next = chains[dgram->kind][port];
    chains[dgram->kind][port] = dgram;
    classify(port);
}

static void unlist(struct stk_dgram *dgram) {
    struct stk_dgram **link = &chains[dgram->kind][dgram->port];
    if (dgram->port == 0) {
        return;
    }
    while (*link != dgram) {
        link = &(*link)->next;
    }
    *link = dgram->next;
    classify(dgram->port);
    dgram->port = 0;
}

static bool takes4(const ip_addr_t *ip) { return !IP_IS_V6_VAL(*ip); }
static bool takes6(const ip_addr_t *ip) { return !IP_IS_V4_VAL(*ip); }

static bool overlap(const ip_addr_t *a, const ip_addr_t *b) {
    if (!(takes4(a) && takes4(b)) && !(takes6(a) && takes6(b))) {
        return false;
    }
    return ip_addr_isany(a) || ip_addr_isany(b) || ip_addr_eq(a, b);
}

/* 0, or why the endpoint cannot have this port at this address. */
static int refusal(const struct stk_dgram *dgram, const ip_addr_t *ip, uint16_t port) {
    const struct stk_account *account = pf_account_or_nobody(dgram->account);
    uint32_t sharing = 0;
    uint32_t theirs = 0;
    uint32_t of_user = 0;
    for (const struct stk_dgram *d = chains[dgram->kind][port]; d; d = d->next) {
        bool shared = (d->reuse_addr && dgram->reuse_addr) ||
                      (d->reuse_port && dgram->reuse_port && d->user == dgram->user);
        if (!shared && overlap(&d->local, ip)) {
            return -EADDRINUSE;
        }
        const struct stk_account *other = pf_account_or_nobody(d->account);
        theirs += other == account;
        of_user += other->user == account->user;
        sharing++;
    }
    return pf_account_may(theirs, of_user, sharing, PF_UDP_PER_PORT) ? 0 : -EADDRINUSE;
}

/* Random: who does not see the datagrams must not be able to guess where answers are awaited. */
static int bind_ephemeral(struct stk_dgram *dgram) {
    uint32_t span = EPHEMERAL_LAST - EPHEMERAL_FIRST + 1;
    uint32_t start = 0;
    for (uint32_t i = 0; i < EPHEMERAL_TRIES + span; i++) {
        if (i <= EPHEMERAL_TRIES) {
            start = pf_lwip_random() % span;
        }
        uint32_t step = i <= EPHEMERAL_TRIES ? 0 : i - EPHEMERAL_TRIES; /* crowded: one by one */
        uint16_t port = (uint16_t)(EPHEMERAL_FIRST + (start + step) % span);
        if (!chains[dgram->kind][port]) {
            enlist(dgram, port);
            return 0;
        }
    }
    return -EADDRINUSE;
}

static void set_wildcard(struct stk_dgram *dgram) {
    memset(&dgram->local, 0, sizeof(dgram->local));
    uint8_t six = dgram->v6only ? IPADDR_TYPE_V6 : IPADDR_TYPE_ANY;
    IP_SET_TYPE_VAL(dgram->local, dgram->family == PF_FAMILY_IPV4 ? IPADDR_TYPE_V4 : six);
}

int stk_udp_open(int family, int priority, uint32_t user, void *owner, struct stk_dgram **out) {
    struct stk_dgram *dgram = calloc(1, sizeof(*dgram));
    if (!dgram) {
        return -ENOMEM;
    }
    dgram->pcb.ttl = DEFAULT_TTL;
    dgram->pcb.mcast_ttl = 1;
    dgram->owner = owner;
    dgram->user = user;
    dgram->family = (uint8_t)family;
    dgram->priority = (uint8_t)priority;
    set_wildcard(dgram);
    *out = dgram;
    count++;
    return 0;
}

void stk_udp_set_owner(struct stk_dgram *dgram, void *owner) { dgram->owner = owner; }

/* What the endpoint has, for its account. */
static void count_for_account(const struct stk_dgram *dgram, bool yes) {
    if (pf_dgram_is_raw(dgram)) {
        PF_ACCOUNT_ADD(dgram->account, raw[dgram->kind == PF_DGRAM_RAW6], yes ? 1U : UINT32_MAX);
    }
    pf_multicast_count(dgram, yes);
}

void stk_udp_set_account(struct stk_dgram *dgram, struct stk_account *account) {
    struct stk_account *old = dgram->account;
    if (old) {
        count_for_account(dgram, false);
    }
    dgram->account = account ? pf_account_hold(account) : NULL;
    if (account) {
        count_for_account(dgram, true);
    }
    stk_account_free(old);
}

int stk_ping_open(int family, int priority, uint32_t user, void *owner, struct stk_dgram **out) {
    int result = stk_udp_open(family, priority, user, owner, out);
    if (result == 0) {
        (*out)->kind = family == PF_FAMILY_IPV4 ? PF_DGRAM_PING4 : PF_DGRAM_PING6;
        (*out)->v6only = family == PF_FAMILY_IPV6;
        set_wildcard(*out);
    }
    return result;
}

static uint32_t chain_length(const struct stk_dgram *first) {
    uint32_t length = 0;
    for (; first; first = first->next) {
        length++;
    }
    return length;
}

bool stk_account_may_have_raw(const struct stk_account *account, int family) {
    bool six = family == PF_FAMILY_IPV6;
    const struct stk_dgram *first =
        six ? chains[PF_DGRAM_RAW6][IP6_NEXTH_ICMP6] : chains[PF_DGRAM_RAW4][IP_PROTO_ICMP];
    return pf_account_may(account->has.raw[six], account->user->has.raw[six], chain_length(first),
                          PF_RAW_MAX);
}

int stk_raw_open(int family, int priority, uint32_t user, void *owner, struct stk_dgram **out) {
    bool four = family == PF_FAMILY_IPV4;
    uint8_t kind = four ? PF_DGRAM_RAW4 : PF_DGRAM_RAW6;
    uint16_t protocol = four ? IP_PROTO_ICMP : IP6_NEXTH_ICMP6;
    if (chain_length(chains[kind][protocol]) >= PF_RAW_MAX) {
        return -ENOBUFS;
    }
    int result = stk_udp_open(family, priority, user, owner, out);
    if (result == 0) {
        (*out)->kind = kind;
        (*out)->v6only = !four;
        (*out)->port_chosen = true;
        set_wildcard(*out);
        enlist(*out, protocol);
    }
    return result;
}

void stk_udp_close(struct stk_dgram *dgram) {
    unlist(dgram);
    pf_multicast_leave_all(dgram);
    stk_udp_set_account(dgram, NULL);
    free(dgram);
    count--;
}

static bool is_broadcast(const ip_addr_t *ip) {
    struct netif *netif;
    if (!IP_IS_V4(ip)) {
        return false;
    }
    NETIF_FOREACH(netif) {
        if (ip4_addr_isbroadcast(ip_2_ip4(ip), netif) && !ip_addr_isany(ip)) {
            return true;
        }
    }
    return ip4_addr_get_u32(ip_2_ip4(ip)) == IPADDR_BROADCAST;
}

int stk_udp_bind(struct stk_dgram *dgram, const struct pf_addr *addr) {
    ip_addr_t ip;
    bool raw = pf_dgram_is_raw(dgram);
    if (raw ? dgram->connected : dgram->port != 0) {
        return -EINVAL;
    }
    if (!pf_addr_to_lwip(addr, !dgram->v6only, &ip)) {
        return -EAFNOSUPPORT;
    }
    if (dgram->v6only && IP_IS_V4_VAL(ip)) {
        return raw ? -EADDRNOTAVAIL : -EINVAL;
    }
    if (!pf_addr_is_local(&ip) && !ip_addr_ismulticast(&ip) && !is_broadcast(&ip)) {
        return -EADDRNOTAVAIL;
    }
    int result = addr->port && !raw ? refusal(dgram, &ip, addr->port) : 0;
    if (result != 0) {
        return result;
    }
    dgram->local = ip;
    dgram->addr_chosen = !ip_addr_isany(&ip);
    if (raw) {
        return 0;
    }
    dgram->port_chosen = addr->port != 0;
    if (addr->port) {
        enlist(dgram, addr->port);
        return 0;
    }
    return bind_ephemeral(dgram);
}

/* ---- where to ---- */

struct route {
    ip_addr_t to;
    ip_addr_t from;
    struct netif *netif;
    uint32_t scope; /* which link is meant; 0: not said */
};

static int destination(const struct stk_dgram *dgram, const struct pf_addr *addr,
                       struct route *route) {
    ip_addr_t *to = &route->to;
    if (!pf_addr_to_lwip(addr, false, to)) {
        return -EAFNOSUPPORT;
    }
    if (IP_IS_V6(to) && ip6_addr_has_scope(ip_2_ip6(to), IP6_UNKNOWN)) {
        route->scope = addr->scope_id;
    }
    if (ip_addr_isany(to)) { /* as on Linux: the wildcard as a destination is this host */
        if (IP_IS_V4_VAL(*to)) {
            IP_ADDR4(to, 127, 0, 0, 1);
        } else {
            ip_addr_set_loopback(1, to);
        }
    }
    if (IP_IS_V4_VAL(*to) ? !takes4(&dgram->local) : !takes6(&dgram->local)) {
        return -ENETUNREACH; /* the socket is of the other family, or bound to an address of it */
    }
    return 0;
}

/* lwIP takes it for granted that an address with a zone is used in that zone only. */
static bool in_zone(const ip_addr_t *ip, const struct netif *netif) {
    return !IP_IS_V6(ip) || !ip6_addr_has_zone(ip_2_ip6(ip)) ||
           ip6_addr_test_zone(ip_2_ip6(ip), netif);
}

/* By which interface, and from which address. */
static int find_route(const struct stk_dgram *dgram, struct route *route) {
    const ip_addr_t *to = &route->to;
    bool fixed = !ip_addr_isany(&dgram->local) && !ip_addr_ismulticast(&dgram->local) &&
                 !is_broadcast(&dgram->local);
    if (IP_IS_V6(to) && ip6_addr_lacks_zone(ip_2_ip6(to), IP6_UNKNOWN) &&
        ip6_addr_islinklocal(ip_2_ip6(to))) {
        return route->scope ? -ENETUNREACH : -EINVAL; /* link-local of which link? */
    }
    route->netif = ip_addr_ismulticast(to) ? pf_multicast_route(dgram, to, route->scope)
                                           : ip_route(&dgram->local, to);
    if (!route->netif) {
        return -ENETUNREACH;
    }
    if (IP_IS_V6(to) && ip6_addr_lacks_zone(ip_2_ip6(to), IP6_MULTICAST)) {
        ip6_addr_assign_zone(ip_2_ip6(&route->to), IP6_MULTICAST, route->netif);
    }
    if (route->scope != 0 && route->scope != pf_ifindex_of(route->netif)) {
        return -ENETUNREACH; /* elsewhere nobody would answer */
    }
    if (!in_zone(to, route->netif)) {
        return -ENETUNREACH;
    }
    if (fixed) {
        route->from = dgram->local;
        bool loops = ip_addr_isloopback(&route->from);
        bool stays = pf_addr_is_local(to) || ip_addr_isloopback(netif_ip_addr4(route->netif));
        return (loops && !stays) || !in_zone(&route->from, route->netif) ? -EINVAL : 0;
    }
    if (IP_IS_V4(to)) {
        ip_addr_copy(route->from, *netif_ip_addr4(route->netif));
        return 0;
    }
    const ip_addr_t *from = ip6_select_source_address(route->netif, ip_2_ip6(to));
    if (!from) {
        return -EADDRNOTAVAIL;
    }
    route->from = *from;
    return 0;
}

static int may_send(const struct stk_dgram *dgram, const struct route *route) {
    bool broadcast = IP_IS_V4_VAL(route->to) && ip_addr_isbroadcast(&route->to, route->netif);
    return broadcast && !ip_get_option(&dgram->pcb, SOF_BROADCAST) ? -EACCES : 0;
}

int stk_udp_connect(struct stk_dgram *dgram, const struct pf_addr *addr) {
    struct route route = {0};
    int result = destination(dgram, addr, &route);
    result = result ? result : find_route(dgram, &route);
    result = result ? result : may_send(dgram, &route);
    result = result || dgram->port ? result : bind_ephemeral(dgram);
    if (result != 0) {
        return result;
    }
    if (ip_addr_isany(&dgram->local)) {
        dgram->local = route.from;
    }
    dgram->remote = route.to;
    dgram->remote_port = addr->port;
    dgram->connected = true;
    return 0;
}

bool stk_udp_disconnect(struct stk_dgram *dgram) {
    dgram->connected = false;
    memset(&dgram->remote, 0, sizeof(dgram->remote));
    dgram->remote_port = 0;
    if (!dgram->addr_chosen) {
        set_wildcard(dgram);
    }
    if (!dgram->port_chosen) {
        unlist(dgram);
    }
    return dgram->port != 0;
}

/* ---- sending ---- */

static enum pf_loop loop_of(const struct stk_dgram *dgram, const struct route *route) {
    if (!ip_addr_ismulticast(&route->to)) {
        return PF_LOOP_COPY; /* of a broadcast the sending host is one of those meant */
    }
    if (dgram->no_loop) {
        return PF_LOOP_NEVER;
    }
    return dgram->pcb.mcast_ttl == 0 ? PF_LOOP_ONLY : PF_LOOP_COPY;
}

static int transmit(struct stk_dgram *dgram, const struct route *route, uint16_t port,
                    const uint8_t *data, uint16_t length) {
    struct pbuf *p = pbuf_alloc(PBUF_TRANSPORT, length, PBUF_RAM);
    if (!p) {
        return -ENOBUFS;
    }
    /* The client may write to its arena at any time: copied once, and only the copy is sent. */
    (void)pbuf_take(p, data, length);
    dgram->pcb.local_ip = route->from;
    dgram->pcb.local_port = dgram->port;
    int result;
    pf_loop_several = loop_of(dgram, route);
    if (dgram->kind == PF_DGRAM_UDP) {
        err_t error =
            udp_sendto_if_src(&dgram->pcb, p, &route->to, port, route->netif, &route->from);
        result = error == ERR_MEM ? -ENOBUFS : -pf_errno_of(error);
    } else {
        result = (pf_dgram_is_raw(dgram) ? pf_raw_send : pf_ping_send)(dgram, p, &route->from,
                                                                       &route->to, route->netif);
    }
    pf_loop_several = PF_LOOP_DEFAULT;
    pbuf_free(p);
    return result;
}

static uint32_t bits_of(uint64_t how, int at, int count) {
    return (uint32_t)(how >> at) & ((1U << count) - 1U);
}

/* What a single datagram has instead of the socket's. */
static void set_header(struct udp_pcb *pcb, uint64_t how) {
    uint32_t ttl = bits_of(how, PF_SEND_TTL, 9);
    uint32_t tos = bits_of(how, PF_SEND_TOS, 9);
    if (ttl != 0) {
        pcb->ttl = (u8_t)(ttl - 1);
        pcb->mcast_ttl = (u8_t)(ttl - 1);
    }
    if (tos != 0) {
        pcb->tos = (u8_t)(tos - 1);
    }
}

static int choose_source(struct route *route, uint64_t how) {
    uint32_t address = (uint32_t)(how >> PF_SEND_SOURCE4);
    if (address != 0 && IP_IS_V4_VAL(route->to)) {
        ip_addr_t from = {0};
        IP_SET_TYPE_VAL(from, IPADDR_TYPE_V4);
        ip4_addr_set_u32(ip_2_ip4(&from), address);
        if (!pf_addr_is_local(&from)) {
            return -ENETUNREACH;
        }
        route->from = from;
    }
    return 0;
}

int stk_udp_send(struct stk_dgram *dgram, const struct pf_addr *to, const uint8_t *data,
                 uint32_t length, uint64_t how) {
    struct route route = {0};
    uint16_t port = to ? to->port : dgram->remote_port;
    int result = 0;
    bool udp = dgram->kind == PF_DGRAM_UDP;
    if (length > (udp ? PF_MAX_DATAGRAM_BYTES : PF_MAX_ICMP_BYTES)) {
        return -EMSGSIZE;
    }
    if (to && dgram->kind == PF_DGRAM_RAW6 && port != 0 && port != dgram->port) {
        return -EINVAL; /* RFC 3542: it stands for the protocol */
    }
    if (to) {
        result = destination(dgram, to, &route);
    } else if (dgram->connected) {
        route.to = dgram->remote;
    } else {
        return -EDESTADDRREQ;
    }
    if (result == 0 && IP_IS_V6_VAL(route.to) && length > UINT16_MAX - IPV6_HEADERS) {
        return -EMSGSIZE; /* lwIP counts all of a packet in 16 bits */
    }
    if (result == 0 && port == 0 && udp) {
        return -EINVAL;
    }
    uint32_t index = bits_of(how, PF_SEND_INTERFACE, 14);
    route.scope = index ? index : route.scope;
    result = result ? result : find_route(dgram, &route);
    result = result ? result : choose_source(&route, how);
    result = result ? result : may_send(dgram, &route);
    result = result || dgram->port ? result : bind_ephemeral(dgram);
    if (result != 0) {
        return result;
    }
    struct udp_pcb before = dgram->pcb;
    set_header(&dgram->pcb, how);
    result = transmit(dgram, &route, port, data, (uint16_t)length);
    dgram->pcb = before;
    return result;
}

/* ---- names and options ---- */

void stk_udp_names(const struct stk_dgram *dgram, struct pf_addr *local, struct pf_addr *peer) {
    memset(peer, 0, sizeof(*peer));
    pf_addr_from_lwip(&dgram->local, dgram->port, local);
    if (dgram->family == PF_FAMILY_IPV6 && ip_addr_isany(&dgram->local)) {
        local->family = PF_FAMILY_IPV6; /* the wildcard of a dual-stack socket */
        memset(local->ip, 0, sizeof(local->ip));
    }
    if (dgram->connected) {
        pf_addr_from_lwip(&dgram->remote, dgram->remote_port, peer);
    }
}

static int set_filter(struct stk_dgram *dgram, uint32_t word, uint64_t types) {
    if (!pf_dgram_is_raw(dgram) || (dgram->kind == PF_DGRAM_RAW4 && word > 0)) {
        return -ENOPROTOOPT;
    }
    /* Of ICMP's types the kernel blocks the first 32 at most. */
    dgram->blocked[word] = dgram->kind == PF_DGRAM_RAW4 ? (uint32_t)types : types;
    return 0;
}

int stk_udp_set_option(struct stk_dgram *dgram, uint32_t option, uint64_t value) {
    if (option >= PF_OPT_ICMP_FILTER && option < PF_OPT_ICMP_FILTER + 4) {
        return set_filter(dgram, option - PF_OPT_ICMP_FILTER, value);
    }
    switch (option) {
    case PF_OPT_PRIORITY:
        dgram->priority = (uint8_t)value;
        if (dgram->port) {
            classify(dgram->port);
        }
        return 0;
    case PF_OPT_REUSEADDR:
        dgram->reuse_addr = value != 0;
        return 0;
    case PF_OPT_REUSEPORT:
        dgram->reuse_port = value != 0;
        return 0;
    case PF_OPT_BROADCAST:
        if (value) {
            ip_set_option(&dgram->pcb, SOF_BROADCAST);
        } else {
            ip_reset_option(&dgram->pcb, SOF_BROADCAST);
        }
        return 0;
    case PF_OPT_V6ONLY:
        if (dgram->family != PF_FAMILY_IPV6) {
            return -ENOPROTOOPT;
        }
        dgram->v6only = value != 0 || dgram->kind != PF_DGRAM_UDP; /* there is one ICMP for each */
        if (!dgram->port) {
            set_wildcard(dgram);
        }
        return 0;
    case PF_OPT_TOS:
    case PF_OPT_TTL:
        if (value > 255 || (option == PF_OPT_TTL && value < 1)) {
            return -EINVAL;
        }
        *(option == PF_OPT_TOS ? &dgram->pcb.tos : &dgram->pcb.ttl) = (u8_t)value;
        return 0;
    case PF_OPT_MULTICAST_TTL:
    case PF_OPT_MULTICAST_LOOP:
    case PF_OPT_MULTICAST_IF:
        return pf_multicast_option(dgram, option, value);
    case PF_OPT_KEEPALIVE: /* the kernel takes it of any socket */
        return 0;
    default:
        return -ENOPROTOOPT;
    }
}
