/* lwIP's configuration for pifus: raw API, main loop mode, one thread.
 *
 * PIFUS_SANITIZE (set by the sanitizer builds) takes every pool from malloc, so that ASan can put
 * red zones between objects; production builds use fixed pools, so that exhaustion is bounded. */
#ifndef PF_LWIPOPTS_H
#define PF_LWIPOPTS_H

#include <stdint.h>

/* ---- main loop mode: everything runs in the stack thread ---- */
#define NO_SYS 1
#define LWIP_TIMERS 1
#define SYS_LIGHTWEIGHT_PROT 0
#define LWIP_NETCONN 0
#define LWIP_SOCKET 0
#define LWIP_TCPIP_CORE_LOCKING 0
void pf_lwip_check_thread(void);
#define LWIP_ASSERT_CORE_LOCKED() pf_lwip_check_thread()

/* ---- memory ---- */
#define MEM_ALIGNMENT 8
#define MEM_LIBC_MALLOC 1
#ifdef PIFUS_SANITIZE
#define MEMP_MEM_MALLOC 1
#else
#define MEMP_MEM_MALLOC 0
#endif
#define MEMP_NUM_TCP_PCB 20000
#define MEMP_NUM_TCP_PCB_LISTEN 4096
#define MEMP_NUM_TCP_SEG 65535
#define MEMP_NUM_PBUF 65535
#define MEMP_NUM_REASSDATA 64
#define MEMP_NUM_FRAG_PBUF 256
/* As many for each neighbor that the largest datagram waits whole, in fragments, for its address.
 */
#define MEMP_NUM_ARP_QUEUE (ARP_TABLE_SIZE * ARP_QUEUE_LEN)
#define MEMP_NUM_ND6_QUEUE (LWIP_ND6_NUM_NEIGHBORS * 64)
#define MEMP_NUM_SYS_TIMEOUT (LWIP_NUM_SYS_TIMEOUT_INTERNAL + 8)
#define MEMP_NUM_UDP_PCB 1 /* our endpoints are on no list of lwIP's */
#define MEMP_NUM_RAW_PCB 16
#define PBUF_POOL_SIZE 1024
#define PBUF_POOL_BUFSIZE 1600

/* Zero-copy sends reference the client's arena, which may be freed when the connection ends:
 * whatever ARP or ND keeps must be a copy (a queued frame outlived its buffer: a use after free).
 */
#define PBUF_NEEDS_COPY(p) 1

/* ---- link ---- */
#define LWIP_ARP 1
#define LWIP_ETHERNET 1
#define ETH_PAD_SIZE 0
#define ARP_TABLE_SIZE 127
#define ARP_QUEUEING 1
#define ARP_QUEUE_LEN 64
#define ETHARP_TRUST_IP_MAC 0
#define LWIP_NETIF_HOSTNAME 0
#define LWIP_NETIF_LOOPBACK 0
#define LWIP_HAVE_LOOPIF 0
#define LWIP_NETIF_STATUS_CALLBACK 0
#define LWIP_CHECKSUM_CTRL_PER_NETIF 1
#define LWIP_CHKSUM_ALGORITHM 3

/* ---- IP ---- */
#define LWIP_IPV4 1
#define LWIP_IPV6 1
#define IP_FORWARD 0
#define IP_REASSEMBLY 1
#define IP_FRAG 1
/* Eleven of the largest datagrams at an MTU of 1500. */
#define IP_REASS_MAX_PBUFS 512
#define IPV6_FRAG_COPYHEADER 1
#define LWIP_IPV6_NUM_ADDRESSES 4
#define LWIP_IPV6_AUTOCONFIG 1
#define LWIP_ND6_NUM_NEIGHBORS 64
#define LWIP_ND6_NUM_DESTINATIONS 64
#define LWIP_IPV6_DHCP6 0
#define LWIP_IPV6_MLD 1
#define LWIP_IGMP 1
/* Groups over all interfaces; an application may have 64, all of a user 15 of 16. */
#define MEMP_NUM_IGMP_GROUP 4400
#define MEMP_NUM_MLD6_GROUP 4400
#define LWIP_ICMP 1
#define LWIP_ICMP6 1
#define LWIP_BROADCAST_PING 0
#define LWIP_MULTICAST_PING 0
#define LWIP_DHCP 0
#define LWIP_AUTOIP 0
#define LWIP_DNS 0
#define LWIP_RAW 1
#define LWIP_UDP 1
#define SO_REUSE 1
#define IP_SOF_BROADCAST 1

/* ---- TCP ---- */
#define LWIP_TCP 1
#define LWIP_WND_SCALE 1
#define TCP_RCV_SCALE 4
/* The loopback link carries 64 KiB frames; on Ethernet the effective MSS follows the interface. */
#define TCP_MSS 16000
#define TCP_CALCULATE_EFF_SEND_MSS 1
#define TCP_WND (256 * 1024)
#define TCP_SND_BUF (512 * 1024)
#define TCP_SND_QUEUELEN 2048
/* The default follows TCP_MSS: only every other 64 KiB super-frame would be acknowledged. */
#define TCP_WND_UPDATE_THRESHOLD 16384
#define TCP_SNDLOWAT (TCP_SND_BUF / 4)
#define TCP_SNDQUEUELOWAT (TCP_SND_QUEUELEN / 4)
#define TCP_QUEUE_OOSEQ 1
#define TCP_OOSEQ_MAX_BYTES TCP_WND
#define TCP_OOSEQ_MAX_PBUFS 256
/* How much of `most` a connection may keep of what came out of order: less where what all share
 * gets scarce. Else the very segment that the others wait for might find no buffer. */
uint32_t pf_tcp_may_keep(uint32_t most);
#define TCP_OOSEQ_BYTES_LIMIT(pcb) pf_tcp_may_keep(TCP_OOSEQ_MAX_BYTES)
#define TCP_OOSEQ_PBUFS_LIMIT(pcb) ((uint16_t)pf_tcp_may_keep(TCP_OOSEQ_MAX_PBUFS))
#define LWIP_TCP_SACK_OUT 1
#define LWIP_TCP_MAX_SACK_NUM 4
#define LWIP_TCP_TIMESTAMPS 0
#define LWIP_TCP_KEEPALIVE 1
#define TCP_PCB_INDEX 1
#define TCP_LISTEN_BACKLOG 1
#define TCP_DEFAULT_LISTEN_BACKLOG 255
#define TCP_OVERSIZE 0
/* Five times the usual rate: delayed ACKs of at most 50 ms instead of 250, and a retransmission
 * time-out of at least 0.3 s instead of 1.5; the long time-outs are kept in milliseconds. */
#define TCP_TMR_INTERVAL 50
#define TCP_MSL 30000UL
#define LWIP_TCP_RTO_TIME 1000 /* before anything was measured (RFC 6298) */
/* Linux sends a SYN six times again. lwIP gives up together with the last one: with the seventh. */
#define TCP_SYNMAXRTX 7
#define LWIP_TCP_PCB_NUM_EXT_ARGS 0
/* Windows above 64 KiB with a small pool: receive buffers do not come from PBUF_POOL here. */
#define LWIP_DISABLE_TCP_SANITY_CHECKS 1

#define LWIP_HOOK_FILENAME "lwip_hooks.h"

/* RFC 6528: an initial sequence number nobody can guess, by a keyed hash over the 4-tuple. */
struct tcp_pcb;
struct ip_addr;
uint32_t pf_tcp_isn(const void *local_ip, uint16_t local_port, const void *remote_ip,
                    uint16_t remote_port);
#define LWIP_HOOK_TCP_ISN(local_ip, local_port, remote_ip, remote_port)                            \
    pf_tcp_isn(local_ip, local_port, remote_ip, remote_port)

/* ---- statistics ---- */
#define LWIP_STATS 1
#define LWIP_STATS_LARGE 1
#define LWIP_STATS_DISPLAY 0
#define MEMP_STATS 1
#define MEM_STATS 0
#define SYS_STATS 0

#endif
