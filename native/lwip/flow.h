/* From a received packet to the priority of the socket it belongs to, before lwIP sees it.
 *
 * Used by the stack thread only. Ports are in host byte order, addresses as they are on the wire.
 */
#ifndef PF_LWIP_FLOW_H
#define PF_LWIP_FLOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Twice the pcbs that lwIP is configured for would be full: at 20000 flows a probe stays short. */
#define PF_FLOW_SLOTS 32768U
#define PF_FLOW_MAX (PF_FLOW_SLOTS * 3U / 4U)

struct pf_flow_table;

struct pf_flow_key {
    uint16_t local_port;
    uint16_t remote_port;
    uint8_t ip_version; /* 4 or 6 */
    uint8_t remote[16]; /* IPv4: the first four bytes */
};

/* NULL with errno set when there is no memory or no randomness for the hash key. */
struct pf_flow_table *pf_flow_table_open(void);
void pf_flow_table_close(struct pf_flow_table *table);

/* Adds the connection or changes its priority; false when PF_FLOW_MAX are known (it then has the
 * listener's or the fallback priority). */
bool pf_flow_set(struct pf_flow_table *table, const struct pf_flow_key *key, uint8_t priority);
bool pf_flow_remove(struct pf_flow_table *table, const struct pf_flow_key *key);
uint32_t pf_flow_count(const struct pf_flow_table *table);

/* Priority for packets to this local port that belong to no known connection. Calls for one port
 * nest: it is known until it was removed as often as it was set (SO_REUSEADDR, IPv4 next to IPv6);
 * the priority is that of the latest call. */
void pf_flow_listener_set(struct pf_flow_table *table, uint16_t port, uint8_t priority);
void pf_flow_listener_update(struct pf_flow_table *table, uint16_t port, uint8_t priority);
void pf_flow_listener_remove(struct pf_flow_table *table, uint16_t port);

/* Priority for UDP packets to this local port; -1: no endpoint has it. */
void pf_flow_udp_port(struct pf_flow_table *table, uint16_t port, int priority);

/* The packet's priority; `fallback` for whatever is not an unfragmented TCP or UDP packet of ours.
 * Nothing beyond `contiguous` bytes is read. */
uint8_t pf_flow_classify_ip(const struct pf_flow_table *table, const uint8_t *packet,
                            size_t contiguous, uint8_t fallback);
uint8_t pf_flow_classify_frame(const struct pf_flow_table *table, const uint8_t *frame,
                               size_t contiguous, uint8_t fallback);

#endif
