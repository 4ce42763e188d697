/* Addresses between the ABI and lwIP. */
#include <string.h>

#include "lwip/internal.h"
#include "lwip/ip6_zone.h"
#include "lwip/netif.h"

bool pf_addr_to_lwip(const struct pf_addr *addr, bool any_type, ip_addr_t *out) {
    memset(out, 0, sizeof(*out));
    if (addr->family == PF_FAMILY_IPV4) {
        IP_SET_TYPE_VAL(*out, IPADDR_TYPE_V4);
        memcpy(&ip_2_ip4(out)->addr, addr->ip, 4);
        return true;
    }
    if (addr->family != PF_FAMILY_IPV6) {
        return false;
    }
    static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    if (memcmp(addr->ip, mapped, sizeof(mapped)) == 0) { /* ::ffff:a.b.c.d */
        IP_SET_TYPE_VAL(*out, IPADDR_TYPE_V4);
        memcpy(&ip_2_ip4(out)->addr, addr->ip + 12, 4);
        return true;
    }
    memcpy(ip_2_ip6(out)->addr, addr->ip, 16);
    IP_SET_TYPE_VAL(*out, IPADDR_TYPE_V6);
    if (ip6_addr_isany(ip_2_ip6(out)) && any_type) {
        IP_SET_TYPE_VAL(*out, IPADDR_TYPE_ANY);
    }
    const struct netif *link = pf_netif_of(addr->scope_id);
    if (link && ip6_addr_has_scope(ip_2_ip6(out), IP6_UNKNOWN)) {
        ip6_addr_set_zone(ip_2_ip6(out), netif_get_index(link));
    }
    return true;
}

void pf_addr_from_lwip(const ip_addr_t *ip, uint16_t port, struct pf_addr *out) {
    memset(out, 0, sizeof(*out));
    out->port = port;
    if (IP_IS_V4_VAL(*ip)) {
        out->family = PF_FAMILY_IPV4;
        memcpy(out->ip, &ip_2_ip4(ip)->addr, 4);
    } else {
        out->family = PF_FAMILY_IPV6;
        memcpy(out->ip, ip_2_ip6(ip)->addr, 16);
        out->scope_id = pf_ifindex_of(netif_get_by_index(ip6_addr_zone(ip_2_ip6(ip))));
    }
}

bool pf_addr_is_local(const ip_addr_t *ip) {
    struct netif *netif;
    if (ip_addr_isany(ip)) {
        return true;
    }
    NETIF_FOREACH(netif) {
        if (IP_IS_V4(ip)) {
            if (ip4_addr_eq(netif_ip4_addr(netif), ip_2_ip4(ip)) ||
                (ip4_addr_isloopback(ip_2_ip4(ip)) && ip4_addr_isloopback(netif_ip4_addr(netif)))) {
                return true;
            }
        } else if (netif_get_ip6_addr_match(netif, ip_2_ip6(ip)) >= 0) {
            return true;
        }
    }
    return false;
}
