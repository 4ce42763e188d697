/* What the backend needs of any TCP/IP stack. No lwIP types: native/lwip implements this.
 *
 * Everything runs in the stack thread. An endpoint (struct stk_conn) is made by stk_tcp_open or
 * taken from a listener by stk_tcp_accept, and belongs to its owner until stk_tcp_close or
 * stk_tcp_abort. After `failed` it still holds the bytes that came before, to be read, and then to
 * be closed. The stack never calls up from within a call down, except that stk_process_frame and
 * stk_timers call up for the endpoints concerned. Results below zero are -errno. */
#ifndef PF_BACKEND_STACK_H
#define PF_BACKEND_STACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shm/layout.h"

struct stk_conn;
struct stk_dgram;
struct stk_account;

/* However much its application leaves unread, a socket may keep so many bytes. More than the
 * largest segment: else a peer would have to split what it has ready. */
#define PF_LEAST_WINDOW 16384U

/* A received datagram, while the event about it lasts. */
struct stk_packet {
    struct pf_datagram header;
    const void *buffer; /* for stk_packet_copy */
    uint16_t skip;      /* bytes of it in front of the payload */
};

struct stk_events {
    void (*connected)(void *owner);
    /* A listener has another connection for stk_tcp_accept. */
    void (*acceptable)(void *owner);
    /* In-order bytes, or the end of the stream, are there for stk_tcp_read. */
    void (*readable)(void *owner);
    /* The peer acknowledged `bytes`: their memory is no longer referenced. */
    void (*acknowledged)(void *owner, uint32_t bytes);
    /* The connection is gone, for the reason `error` (an errno; 0: both sides had closed it); no
     * written byte is referenced any more. */
    void (*failed)(void *owner, int error);
    /* A datagram arrived. */
    void (*datagram)(void *owner, const struct stk_packet *packet);
    /* The network says (ICMP) that a datagram of this connected endpoint did not arrive. */
    void (*datagram_failed)(void *owner, int error);
};

struct stk_counts {
    uint64_t pcbs;
    uint64_t time_wait; /* of the pcbs */
    uint64_t pbufs;
    uint64_t segments;
    uint64_t frames_in;
    uint64_t frames_out;
    uint64_t frames_dropped;
    uint64_t held_bytes;     /* received, and in no application's ring */
    uint64_t promised_bytes; /* that peers may send, or that were received and not read */
    uint64_t mss_raised;     /* peers that wanted segments of a few bytes */
    uint64_t assertions;     /* of the stack's own, that did not hold */
};

/* Set-up: once per process, before the stack thread runs. */
int stk_init(const struct stk_events *events);
int stk_add_loopback(char *error, size_t error_bytes);
struct pf_tap_options;
int stk_add_tap(const struct pf_tap_options *options, char *error, size_t error_bytes);
/* Sockets of all applications together; bytes that are kept for one until it reads them. */
void stk_limit(uint32_t sockets, uint64_t held);
void stk_shutdown(void);
/* The calling thread is the stack thread from now on. */
void stk_adopt_thread(void);

/* For tests: of a million received frames, so many are lost, by a generator with this seed. */
void stk_inject_loss(uint32_t per_million, uint64_t seed);

/* Frames. Takes up to `most` frames from each driver and queues them by the priority of the socket
 * they belong to. Returns whether a driver may have more. */
enum { STK_FRAMES_AT_ONCE = 16 };
bool stk_collect_frames(int most);
/* All frames that the stack has sent to itself: after a step that is what this step sent. */
void stk_collect_own_frames(void);
/* Whether a collected frame of this priority waits. */
bool stk_frame_waiting(int priority);
/* Feeds one frame to the stack. */
void stk_process_frame(int priority);
/* Writes out what the last step produced. */
void stk_flush(void);
/* Runs the timers that are due. */
void stk_timers(void);
/* Milliseconds until the next timer; UINT32_MAX: none. */
uint32_t stk_next_timer_ms(void);
/* The next descriptor to sleep on; call with *cursor = 0 first; -1: no more. */
int stk_next_fd(unsigned *cursor);
/* Whether a driver without a descriptor has a frame. */
bool stk_frames_pending(void);
void stk_count(struct stk_counts *counts);

/* TCP. */
int stk_tcp_open(int family, int priority, void *owner, struct stk_conn **out);
/* What one application has of what others need, too, over all endpoints that have this account. It
 * lives until the last of them has gone, too. */
struct stk_account *stk_account_new(void);
void stk_account_free(struct stk_account *account);
/* The application has a socket more, or one less, of any kind. */
void stk_account_socket(struct stk_account *account, bool more);
/* Datagrams that it has not read, so many bytes more (or less). */
void stk_account_datagrams(struct stk_account *account, int64_t more);
/* Whether its share of those is used up. A socket may keep PF_LEAST_WINDOW bytes all the same. */
bool stk_account_datagrams_full(const struct stk_account *account, uint32_t more);
/* Whether its share has room for another one; connections that come in look for themselves. */
bool stk_account_has_room(const struct stk_account *account);
/* Of a listener: also of the connections that come from now on. */
void stk_tcp_set_account(struct stk_conn *conn, struct stk_account *account);
/* Gives an endpoint from stk_tcp_accept its owner; NULL: none. */
void stk_tcp_set_owner(struct stk_conn *conn, void *owner);
int stk_tcp_bind(struct stk_conn *conn, const struct pf_addr *addr);
int stk_tcp_listen(struct stk_conn *conn, uint32_t backlog);
int stk_tcp_connect(struct stk_conn *conn, const struct pf_addr *addr);
/* NULL: none waits. */
struct stk_conn *stk_tcp_accept(struct stk_conn *listener);
bool stk_tcp_acceptable(const struct stk_conn *listener);
/* Puts a connection back in front of the queue it was taken from. */
void stk_tcp_unaccept(struct stk_conn *listener, struct stk_conn *conn);
/* Takes up to `length` bytes by reference: they must stay until `acknowledged` or `failed` tells.
 * Returns how many (possibly 0: no room now), or -errno. Does not send by itself. */
int64_t stk_tcp_write(struct stk_conn *conn, const uint8_t *data, uint32_t length, bool more);
/* The last byte taken by stk_tcp_write is urgent data. */
void stk_tcp_urgent(struct stk_conn *conn);
/* Bytes taken by stk_tcp_write and not sent yet. */
uint32_t stk_tcp_unsent(const struct stk_conn *conn);
/* Sends what windows allow. */
void stk_tcp_push(struct stk_conn *conn);
/* Copies and drops up to `limit` received bytes; the window is not opened. */
uint32_t stk_tcp_read(struct stk_conn *conn, uint8_t *buffer, uint32_t limit);
/* Puts bytes that stk_tcp_read handed out back in front of the others. 0 or -ENOMEM. */
int stk_tcp_unread_back(struct stk_conn *conn, const uint8_t *data, uint32_t length);
/* Received bytes not read yet. */
uint32_t stk_tcp_unread(const struct stk_conn *conn);
/* All bytes were read and the peer sends no more. */
bool stk_tcp_at_end(const struct stk_conn *conn);
/* The client has consumed `bytes`: opens the window. */
void stk_tcp_credit(struct stk_conn *conn, uint32_t bytes);
/* Queues a FIN behind what was written. */
int stk_tcp_finish(struct stk_conn *conn);
/* True: everything written is acknowledged; what may be left is a FIN. */
bool stk_tcp_drained(const struct stk_conn *conn);
/* The errno that ended an endpoint which had no owner to tell; 0: it lives. */
int stk_tcp_error(const struct stk_conn *conn);
/* Another endpoint in the place of one that is over, or listens no more: it has its options. */
void stk_tcp_take_after(struct stk_conn *conn, const struct stk_conn *old);
/* It is over: it failed, or both sides have closed it and every byte is acknowledged. */
bool stk_tcp_gone(const struct stk_conn *conn);
/* Lets go: the stack ends the connection by itself; unacknowledged bytes must not exist any more.
 */
void stk_tcp_close(struct stk_conn *conn);
/* Resets the connection and forgets it. Of a listener: those in its queue are reset later. */
void stk_tcp_abort(struct stk_conn *conn);
/* One that has no owner: later, by stk_tcp_reset_some. */
void stk_tcp_abort_later(struct stk_conn *conn);
/* Resets up to `most` connections for which that is due. False: none is left. */
bool stk_tcp_reset_some(uint32_t most);
/* PF_OPT_REUSEPORT takes the number of the user and one, 0: off. */
int stk_tcp_set_option(struct stk_conn *conn, uint32_t option, uint64_t value);
/* Only this link; an empty name: any. */
int stk_tcp_bind_device(struct stk_conn *conn, const char name[16]);
/* The largest receive window of the connection, or of those of a listener. */
uint32_t stk_tcp_window(const struct stk_conn *conn);
/* The size of full segments that it sends. */
uint32_t stk_tcp_segment(const struct stk_conn *conn);
void stk_tcp_info(const struct stk_conn *conn, struct pf_tcp_info *info);
/* Listeners that a connect to this address and port may reach. */
uint32_t stk_tcp_listeners(const struct pf_addr *addr);
void stk_tcp_names(const struct stk_conn *conn, struct pf_addr *local, struct pf_addr *peer);

/* UDP. Sockets of one `user` may share a port by PF_OPT_REUSEPORT. */
int stk_udp_open(int family, int priority, uint32_t user, void *owner, struct stk_dgram **out);
/* The same for ICMP echo requests and replies; ports are identifiers. */
int stk_ping_open(int family, int priority, uint32_t user, void *owner, struct stk_dgram **out);
/* The same for all ICMP messages of the family, from now on. */
int stk_raw_open(int family, int priority, uint32_t user, void *owner, struct stk_dgram **out);
void stk_udp_set_owner(struct stk_dgram *dgram, void *owner);
int stk_udp_bind(struct stk_dgram *dgram, const struct pf_addr *addr);
int stk_udp_connect(struct stk_dgram *dgram, const struct pf_addr *addr);
/* Takes back what connecting did. Returns whether the endpoint still has a port. */
bool stk_udp_disconnect(struct stk_dgram *dgram);
/* Copies and sends one datagram; NULL: to the peer; `how`: enum pf_send_bits. Binds to a random
 * port if need be. 0 or -errno. */
int stk_udp_send(struct stk_dgram *dgram, const struct pf_addr *to, const uint8_t *data,
                 uint32_t length, uint64_t how);
void stk_udp_close(struct stk_dgram *dgram);
/* Joins or leaves a multicast group at an interface: by its index, else by an IPv4 address of it
 * (four bytes, zeros: none), else the default one. */
int stk_udp_group(struct stk_dgram *dgram, bool join, const struct pf_addr *group, uint32_t ifindex,
                  const uint8_t *address4);
int stk_udp_set_option(struct stk_dgram *dgram, uint32_t option, uint64_t value);
void stk_udp_names(const struct stk_dgram *dgram, struct pf_addr *local, struct pf_addr *peer);
/* Copies `length` bytes of the payload from `offset` on. */
void stk_packet_copy(const struct stk_packet *packet, uint32_t offset, uint8_t *to,
                     uint32_t length);

#endif
