/* What the files of the lwIP glue share. */
#ifndef PF_LWIP_INTERNAL_H
#define PF_LWIP_INTERNAL_H

#include "backend/stack.h"
#include "lwip/flow.h"
#include "lwip/ip_addr.h"

extern const struct stk_events *pf_events;
extern struct pf_flow_table *pf_flows;

/* addr.c */
/* False: not an address of this family. `any_type` lets the IPv6 wildcard mean both families. */
bool pf_addr_to_lwip(const struct pf_addr *addr, bool any_type, ip_addr_t *out);
void pf_addr_from_lwip(const ip_addr_t *ip, uint16_t port, struct pf_addr *out);
/* The wildcard, or an address of one of our netifs. */
bool pf_addr_is_local(const ip_addr_t *ip);

/* stack_lwip.c */
/* lwIP's number of the link with this device name; 0: there is none. */
int pf_device_index(const char name[16]);
/* Links have two numbers: lwIP's stays inside, programs know the one that the kernel gives the
 * device. NULL and 0: there is none. */
struct netif *pf_netif_of(uint32_t ifindex);
uint32_t pf_ifindex_of(const struct netif *netif);

#endif
