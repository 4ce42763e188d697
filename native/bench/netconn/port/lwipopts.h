/* lwIP for the netconn benchmark: the sequential API with its own thread, over the loopback
 * interface. TCP's own settings are those of pifus (native/lwip/port/lwipopts.h). */
#ifndef NETCONN_BENCH_LWIPOPTS_H
#define NETCONN_BENCH_LWIPOPTS_H

#define BENCH_MAX_SOCKETS 1024

/* ---- threads and the sequential API ---- */
#define NO_SYS 0
#define SYS_LIGHTWEIGHT_PROT 1
#define LWIP_NETCONN 1
#define LWIP_SOCKET 0
#define LWIP_COMPAT_SOCKETS 0
#define LWIP_SO_RCVTIMEO 1
/* lwIP's default since 2.1: an API call locks the stack instead of sending it a message. */
#ifndef BENCH_CORE_LOCKING
#define BENCH_CORE_LOCKING 1
#endif
#define LWIP_TCPIP_CORE_LOCKING BENCH_CORE_LOCKING
#define TCPIP_MBOX_SIZE 8192
#define DEFAULT_ACCEPTMBOX_SIZE 256
#define DEFAULT_TCP_RECVMBOX_SIZE 16
#define DEFAULT_UDP_RECVMBOX_SIZE 16
#define DEFAULT_RAW_RECVMBOX_SIZE 16

/* ---- memory: both ends of every connection are here ---- */
#define MEM_ALIGNMENT 8
#define MEM_LIBC_MALLOC 1
#define MEMP_NUM_NETCONN (2 * BENCH_MAX_SOCKETS + 16)
#define MEMP_NUM_TCP_PCB (2 * BENCH_MAX_SOCKETS + 16)
#define MEMP_NUM_TCP_PCB_LISTEN 4
#define MEMP_NUM_TCP_SEG 16384
#define MEMP_NUM_PBUF 16384
#define MEMP_NUM_NETBUF (2 * BENCH_MAX_SOCKETS)
#define MEMP_NUM_TCPIP_MSG_API 8192
#define MEMP_NUM_TCPIP_MSG_INPKT 8192
#define PBUF_POOL_SIZE 64

/* ---- IPv4 loopback, nothing else ---- */
#define LWIP_IPV4 1
#define LWIP_IPV6 0
#define LWIP_ARP 0
#define LWIP_ETHERNET 0
#define LWIP_NETIF_LOOPBACK 1
#define LWIP_HAVE_LOOPIF 1
#define LWIP_UDP 0
#define LWIP_RAW 0
#define LWIP_ICMP 0
#define LWIP_DNS 0
#define LWIP_DHCP 0
#define IP_REASSEMBLY 0
#define IP_FRAG 0

/* ---- TCP, as in pifus ---- */
#define LWIP_TCP 1
#define LWIP_WND_SCALE 1
#define TCP_RCV_SCALE 4
#define TCP_MSS 16000
#define TCP_WND (256 * 1024)
#define TCP_SND_BUF (512 * 1024)
#define TCP_SND_QUEUELEN 2048
#define TCP_SNDLOWAT (TCP_SND_BUF / 4)
#define TCP_SNDQUEUELOWAT (TCP_SND_QUEUELEN / 4)
#define TCP_QUEUE_OOSEQ 1
#define TCP_LISTEN_BACKLOG 1
#define TCP_DEFAULT_LISTEN_BACKLOG 255
#define TCP_OVERSIZE 0
#define LWIP_DISABLE_TCP_SANITY_CHECKS 1
#define CHECKSUM_GEN_IP 0
#define CHECKSUM_GEN_TCP 0
#define CHECKSUM_CHECK_IP 0
#define CHECKSUM_CHECK_TCP 0

#define LWIP_STATS 1
#define LWIP_STATS_LARGE 1
#define MEMP_STATS 1

#endif
