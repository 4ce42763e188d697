/* Multicast: which groups an endpoint is in, and by which interface what goes to several leaves. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lwip/account.h"
#include "lwip/datagram.h"
#include "lwip/errmap.h"
#include "lwip/igmp.h"
#include "lwip/ip.h"
#include "lwip/mld6.h"

struct pf_membership {
    ip_addr_t group;
    uint8_t ifindex;
};

static struct netif *loopback_netif(void) {
    ip4_addr_t address;
    struct netif *netif;
    IP4_ADDR(&address, 127, 0, 0, 1);
    NETIF_FOREACH(netif) {
        if (ip4_addr_eq(netif_ip4_addr(netif), &address)) {
            return netif;
        }
    }
    return NULL;
}

static struct netif *owner_of(const ip_addr_t *address) {
    struct netif *netif;
    NETIF_FOREACH(netif) {
        if (IP_IS_V4(address)) {
            if (ip4_addr_eq(netif_ip4_addr(netif), ip_2_ip4(address))) {
                return netif;
            }
        } else if (netif_get_ip6_addr_match(netif, ip_2_ip6(address)) >= 0) {
            return netif;
        }
    }
    return NULL;
}

struct netif *pf_interface(uint32_t ifindex, const uint8_t *address4) {
    ip_addr_t address = {0};
    static const uint8_t none[4];
    if (ifindex != 0) {
        return pf_netif_of(ifindex);
    }
    if (memcmp(address4, none, sizeof(none)) != 0) {
        memcpy(&ip_2_ip4(&address)->addr, address4, 4);
        IP_SET_TYPE_VAL(address, IPADDR_TYPE_V4);
        return ip4_addr_isloopback(ip_2_ip4(&address)) ? loopback_netif() : owner_of(&address);
    }
    return netif_default ? netif_default : loopback_netif();
}

struct netif *pf_multicast_route(const struct stk_dgram *dgram, const ip_addr_t *to,
                                 uint32_t scope) {
    if (scope != 0) {
        return pf_interface(scope, NULL);
    }
    if (dgram->multicast_if != 0) {
        return netif_get_by_index(dgram->multicast_if);
    }
    if (IP_IS_V6(to) && ip6_addr_has_zone(ip_2_ip6(to))) {
        return ip_route(&dgram->local, to);
    }
    if (!ip_addr_isany(&dgram->local) && !ip_addr_ismulticast(&dgram->local)) {
        return owner_of(&dgram->local);
    }
    return netif_default;
}

/* ---- groups ---- */

static int find(const struct stk_dgram *dgram, const ip_addr_t *group, uint8_t ifindex) {
    for (int i = 0; i < dgram->group_count; i++) {
        if (dgram->groups[i].ifindex == ifindex && ip_addr_eq(&dgram->groups[i].group, group)) {
            return i;
        }
    }
    return -1;
}

/* Every host is in this one; lwIP would not have it joined or left. */
static bool is_all_hosts(const ip_addr_t *group) {
    return IP_IS_V4(group) && ip4_addr_get_u32(ip_2_ip4(group)) == PP_HTONL(0xe0000001UL);
}

/* The groups of an interface are everybody's. */
static bool is_known(struct netif *netif, const ip_addr_t *group) {
    return IP_IS_V4(group) ? igmp_lookfor_group(netif, ip_2_ip4(group)) != NULL
                           : mld6_lookfor_group(netif, ip_2_ip6(group)) != NULL;
}

static err_t enter(const struct stk_dgram *dgram, struct netif *netif, const ip_addr_t *group) {
    if (is_all_hosts(group)) {
        return ERR_OK;
    }
    if (!is_known(netif, group) &&
        !pf_account_may_join(pf_account_or_nobody(dgram->account), IP_IS_V6(group))) {
        return ERR_MEM;
    }
    return IP_IS_V4(group) ? igmp_joingroup_netif(netif, ip_2_ip4(group))
                           : mld6_joingroup_netif(netif, ip_2_ip6(group));
}

static void count_one(const struct stk_dgram *dgram, const struct pf_membership *member, bool yes) {
    if (dgram->account) {
        PF_ACCOUNT_ADD(dgram->account, groups[IP_IS_V6_VAL(member->group)], yes ? 1U : UINT32_MAX);
    }
}

void pf_multicast_count(const struct stk_dgram *dgram, bool yes) {
    for (int i = 0; i < dgram->group_count; i++) {
        count_one(dgram, &dgram->groups[i], yes);
    }
}

static void leave(const struct stk_dgram *dgram, const struct pf_membership *member) {
    struct netif *netif = netif_get_by_index(member->ifindex);
    count_one(dgram, member, false);
    if (!netif || is_all_hosts(&member->group)) {
        return;
    }
    if (IP_IS_V4_VAL(member->group)) {
        (void)igmp_leavegroup_netif(netif, ip_2_ip4(&member->group));
    } else {
        (void)mld6_leavegroup_netif(netif, ip_2_ip6(&member->group));
    }
}

int stk_udp_group(struct stk_dgram *dgram, bool join, const struct pf_addr *addr, uint32_t ifindex,
                  const uint8_t *address4) {
    ip_addr_t group;
    if (!pf_addr_to_lwip(addr, false, &group) || !ip_addr_ismulticast(&group)) {
        return -EINVAL;
    }
    struct netif *netif = pf_interface(ifindex, address4);
    if (!netif) {
        return -ENODEV;
    }
    if (IP_IS_V6_VAL(group)) {
        ip6_addr_clear_zone(ip_2_ip6(&group));
        ip6_addr_assign_zone(ip_2_ip6(&group), IP6_MULTICAST, netif);
    }
    int at = find(dgram, &group, netif_get_index(netif));
    if (!join) {
        if (at < 0) {
            return -EADDRNOTAVAIL;
        }
        leave(dgram, &dgram->groups[at]);
        dgram->groups[at] = dgram->groups[--dgram->group_count];
        return 0;
    }
    if (at >= 0) {
        return -EADDRINUSE;
    }
    if (!dgram->groups) {
        dgram->groups = calloc(PF_GROUPS_PER_SOCKET, sizeof(*dgram->groups));
    }
    if (!dgram->groups || dgram->group_count == PF_GROUPS_PER_SOCKET) {
        return -ENOBUFS;
    }
    err_t error = enter(dgram, netif, &group);
    if (error != ERR_OK) {
        return error == ERR_MEM ? -ENOBUFS : -pf_errno_of(error);
    }
    struct pf_membership *member = &dgram->groups[dgram->group_count++];
    *member = (struct pf_membership){group, netif_get_index(netif)};
    count_one(dgram, member, true);
    return 0;
}

void pf_multicast_leave_all(struct stk_dgram *dgram) {
    while (dgram->group_count > 0) {
        leave(dgram, &dgram->groups[--dgram->group_count]);
    }
    free(dgram->groups);
    dgram->groups = NULL;
}

int pf_multicast_option(struct stk_dgram *dgram, uint32_t option, uint64_t value) {
    struct netif *netif;
    uint32_t address = (uint32_t)(value >> 32);
    switch (option) {
    case PF_OPT_MULTICAST_TTL:
        if (value > 255) {
            return -EINVAL;
        }
        dgram->pcb.mcast_ttl = (u8_t)value;
        return 0;
    case PF_OPT_MULTICAST_LOOP:
        dgram->no_loop = value == 0;
        return 0;
    default:
        if (value == 0) {
            dgram->multicast_if = 0;
            return 0;
        }
        netif = pf_interface((uint32_t)value, (const uint8_t *)&address);
        if (!netif) {
            return (uint32_t)value ? -ENODEV : -EADDRNOTAVAIL;
        }
        dgram->multicast_if = netif_get_index(netif);
        return 0;
    }
}
