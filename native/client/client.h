/* The client core: submit, reap, wait. No lwIP, no Python.
 *
 * Read by C through client/client_api.h and, verbatim, by cffi. Every function is thread-safe.
 * Results below zero are -errno: -EPIPE      the backend or this session is gone: pf_client_ended
 * says why -EAGAIN     the submission queue is full: reap completions first -ENOBUFS    no room in
 * the send arena, or this socket holds its share of it: reap first -EBADF      no such socket
 *   -EINTR      a signal came: run its handler, then call again -ESTALE     another process has
 * taken over the socket: claim it back
 * Times are in nanoseconds, of CLOCK_MONOTONIC; a negative time-out means for ever. */

struct pf_client;

#define PF_BATCH_MAX 1024
#define PF_DEFAULT_SEND_LIMIT 524288
#define PF_ANY_SOCKET 0xffffffff

/* Where a completion goes. */
enum pf_delivery {
    PF_DELIVER_QUEUE = 0, /* to pf_poll, pf_wait and pf_wait_any */
    PF_DELIVER_NONE = 1,  /* nowhere: its resources are released and an error is kept for later */
    PF_DELIVER_CALL = 2   /* to pf_await of exactly this operation */
};

struct pf_done {
    uint64_t op_id;
    int32_t result; /* >= 0, or -errno */
    uint8_t opcode;
    uint8_t flags; /* enum pf_cqe_flags */
    uint16_t pad0;
    uint32_t slot;
    uint32_t generation;
    uint64_t token; /* accept: hand it to pf_socket_adopt */
    uint64_t submitted_ns;
    uint64_t picked_ns;
    uint64_t completed_ns;
    struct pf_addr addr; /* as of struct pf_cqe: peer or sender, or when a write was handed on */
    uint64_t reaped_ns;  /* when it was taken, if pf_client_stamp_reaped was asked for; else 0 */
};

struct pf_span {
    const uint8_t *data;
    uint32_t length;
};

/* Takes over the five descriptors when it succeeds (control_fd is only watched, never closed).
 * NULL, with the reason in `error`, when the regions are not what this build understands. */
struct pf_client *pf_client_attach(int control_fd, int c2b_fd, int b2c_fd, int public_fd,
                                   int doorbell_fd, char *error, size_t error_bytes);
/* Unmaps everything: no other thread may still be in a call. The sockets end with the session. */
void pf_client_detach(struct pf_client *client);
/* Makes every blocked and every later call return -EPIPE. Callable from any thread. */
void pf_client_abandon(struct pf_client *client);
/* 0 while the session lives, else enum pf_ended. */
int pf_client_ended(struct pf_client *client);
/* The same, after a look whether the backend is still there: for whoever does not wait. Waits find
 * that out by themselves, and what does not sleep must not pay for a system call. */
int pf_client_look(struct pf_client *client);
/* How long a wait spins before it sleeps: 0 never, negative: by the backend's profile. */
void pf_client_set_spin(struct pf_client *client, int64_t spin_ns);
/* Whether completions that are taken from now on say when that was: a look at the clock for each.
 */
void pf_client_stamp_reaped(struct pf_client *client, int on);
uint32_t pf_client_max_sockets(const struct pf_client *client);
uint32_t pf_client_queue_depth(const struct pf_client *client);
uint64_t pf_client_arena_free(struct pf_client *client);
const struct pf_public *pf_client_public(const struct pf_client *client);

/* Sockets. A slot number, or -errno (-EMFILE: all slots in use). rx_bytes 0: the default. */
int pf_socket_open(struct pf_client *client, int family, int priority, uint32_t rx_bytes);
int pf_datagram_open(struct pf_client *client, int family, int priority, uint32_t rx_bytes);
int pf_ping_open(struct pf_client *client, int family, int priority, uint32_t rx_bytes);
/* Of all ICMP messages; that the client may not have one, its first operation tells. */
int pf_raw_open(struct pf_client *client, int family, int priority, uint32_t rx_bytes);
int pf_socket_adopt(struct pf_client *client, uint64_t token, int priority);
/* Adopts a connection that the listener reported. -ESTALE: others accept from it too, and the
 * connection went back to its queue. */
int pf_accept_adopt(struct pf_client *client, uint32_t listener, uint64_t token, int priority);
/* Takes over the socket of a ticket, from whatever slot and session it is in; `op` is to be
 * awaited, `fd` its mirror descriptor. A slot number, or -errno. */
int pf_socket_claim(struct pf_client *client, uint64_t ticket, int priority, int fd, uint64_t *op);
/* Has the threads that wait for this socket return -EINTR soon. */
int pf_socket_interrupt(struct pf_client *client, uint32_t slot);
/* In a forked child, whose memory has no regions: a call that was begun before the fork must find
 * a session that has ended, instead of nothing. Closes the child's copy of the doorbell. */
void pf_client_forked(struct pf_client *client);
/* Resets a connection that an accept of this listener reported and that will not be adopted. Where
 * the submission queue is full, both of these wait for room. */
int pf_accept_reject(struct pf_client *client, uint32_t listener, uint64_t token);
/* Not now: it goes back to its place in the listener's queue. */
int pf_accept_return(struct pf_client *client, uint32_t listener, uint64_t token);
/* Releases the slot: queues a close (graceful, or with PF_CLOSE_ABORT), or, after a close
 * completed, just frees it. Bytes written before still reach the peer. */
int pf_socket_release(struct pf_client *client, uint32_t slot, int flags);
/* The same for a stream that its program has ended itself, and heard the end of (`flags` as above).
 * If the backend says so, too, the close has nothing to tell the peer and frees memory only: it
 * wakes nobody, and is done with what wakes the backend next, at the latest after a second. */
int pf_socket_release_ended(struct pf_client *client, uint32_t slot, int flags);
uint32_t pf_socket_generation(struct pf_client *client, uint32_t slot);
/* Copy of the backend-written state of the socket. */
int pf_socket_state(struct pf_client *client, uint32_t slot, struct pf_socket_b2c *out);
/* Its pf_socket_b2c.state, 0 while the backend has not seen the socket yet; or -errno. */
int pf_socket_flags(struct pf_client *client, uint32_t slot);
/* Ends the writing of a connection that lives and whose descriptor nobody has, without waiting for
 * the answer, which is known: writes are refused from now on. 1: done; 0: submit a SHUTDOWN. */
int pf_end_writing(struct pf_client *client, uint32_t slot);
/* The most bytes of the arena that unacknowledged writes of this socket may hold. 0: the default.
 */
int pf_socket_set_send_limit(struct pf_client *client, uint32_t slot, uint32_t bytes);
/* How many operations of the socket may be under way: 1 .. pf_client_queue_depth, which it is at
 * first. -EINVAL. */
int pf_socket_set_queue_depth(struct pf_client *client, uint32_t slot, uint32_t depth);
uint32_t pf_socket_send_used(struct pf_client *client, uint32_t slot);

/* Submits. The op_id (> 0), or -errno. `addr` may be NULL. */
int64_t pf_submit(struct pf_client *client, uint32_t slot, int opcode, int flags, uint64_t token,
                  uint32_t offset, uint32_t length, const struct pf_addr *addr, int delivery);
/* Copies `length` bytes (1 .. PF_MAX_WRITE_BYTES) into the arena and submits one write of them. */
int64_t pf_write(struct pf_client *client, uint32_t slot, const void *data, uint32_t length,
                 int delivery);
int64_t pf_nop(struct pf_client *client, uint32_t slot);
/* The same by a whole submission, with what every operation may have: sqe->general and
 * sqe->deadline_ns. The second one copies `length` bytes into the arena, for WRITE and SENDTO. */
int64_t pf_submit_sqe(struct pf_client *client, uint32_t slot, struct pf_sqe *sqe, int delivery);
int64_t pf_submit_block(struct pf_client *client, uint32_t slot, struct pf_sqe *sqe,
                        const void *data, uint32_t length, int delivery);

/* Blocks of the arena that stay, to be written in place and submitted again and again. The block,
 * by its offset, or -ENOBUFS. */
int64_t pf_block_register(struct pf_client *client, uint32_t bytes);
uint8_t *pf_block_data(struct pf_client *client, uint32_t block);
/* 1: a write of it is under way, and its bytes must not be changed. */
int pf_block_busy(struct pf_client *client, uint32_t block);
/* Gives it back; while a write of it is under way, once that has ended. */
int pf_block_release(struct pf_client *client, uint32_t block);
/* Submits a WRITE of the first `length` bytes of the block. -EBUSY: a write of it is under way, or
 * its completion was not reaped. */
int64_t pf_block_write(struct pf_client *client, uint32_t slot, uint32_t block, uint32_t length,
                       int general, uint64_t deadline_ns, int delivery);

/* What this thread submits with PF_DELIVER_QUEUE from the one to the other is kept back, each with
 * its op_id and everything that it needs, and then submitted all together, with one look at each
 * socket for the backend and one doorbell, or (`submit` 0) not at all. The close of a socket by
 * another thread, and its release, submit what is kept back for it. -EBUSY: a batch was begun; from
 * pf_batch_end the number of operations. With a batch of PF_BATCH_MAX, submitting is -ENOSPC. */
int pf_batch_begin(struct pf_client *client);
int pf_batch_end(struct pf_client *client, int submit);

/* Completions of PF_DELIVER_QUEUE. 1: one in `out`; 0: none (yet, or in time); or -errno. -EDEADLK:
 * all that are to come are of operations that this thread's batch keeps back. */
int pf_poll(struct pf_client *client, uint32_t slot, struct pf_done *out);
int pf_wait(struct pf_client *client, uint32_t slot, int64_t timeout_ns, struct pf_done *out);
/* The first look of a wait: pf_poll, and where spinning pays the next microseconds of it, which
 * give the processor to nobody. Then, if it was 0, pf_wait_on is the rest of the wait. */
int pf_glance(struct pf_client *client, uint32_t slot, struct pf_done *out);
int pf_wait_on(struct pf_client *client, uint32_t slot, int64_t timeout_ns, struct pf_done *out);
int pf_poll_any(struct pf_client *client, struct pf_done *out);
int pf_wait_any(struct pf_client *client, int64_t timeout_ns, struct pf_done *out);
/* Up to `limit` completions that are there now, of the socket or of PF_ANY_SOCKET: their number. */
int pf_poll_many(struct pf_client *client, uint32_t slot, struct pf_done *out, uint32_t limit);
/* Before waiting for the bell (docs/PROTOCOL.md): it rings once after this for completions that
 * pf_poll_any has not taken. 1: some are there already: take them instead; 0: wait; -EPIPE. */
int pf_bell_arm(struct pf_client *client);
/* Before that wait: spins, up to most_ns, where it pays, until the bell is about to ring: 1. */
int pf_bell_spin(struct pf_client *client, int64_t most_ns);
/* Before waiting, of a socket without a mirror that has nothing to read: once there is a byte, a
 * datagram, an end or an error, pf_poll_any and pf_wait_any yield a RECV with op_id 0. 1: there is;
 * 0: wait; or -errno. */
int pf_watch(struct pf_client *client, uint32_t slot);
/* Wakes every thread in pf_wait_any: it returns 0 early. */
void pf_wake_any(struct pf_client *client);
/* The completion of one PF_DELIVER_CALL operation. 1, 0 at time-out (call again or pf_forget),
 * -errno. */
int pf_await(struct pf_client *client, uint32_t slot, uint64_t op_id, int64_t timeout_ns,
             struct pf_done *out);
/* After -EAGAIN: until a completion has made room for another operation. 1: try again, 0 at
 * time-out, -errno. */
int pf_await_room(struct pf_client *client, uint32_t slot, int64_t timeout_ns);
/* Nobody will await it any more: its completion is dropped when it comes. */
void pf_forget(struct pf_client *client, uint32_t slot, uint64_t op_id);

/* Received bytes, taken straight from the receive ring. `spans` gets up to two pieces; returns
 * their number. Bytes stay until pf_rx_consume. */
int pf_rx_spans(struct pf_client *client, uint32_t slot, uint32_t limit, struct pf_span *spans);
int pf_rx_consume(struct pf_client *client, uint32_t slot, uint32_t bytes);
/* Copies (and, unless `peek`, consumes) up to `limit` bytes. > 0: so many; 0: end of stream;
 * -EAGAIN: nothing now; or the errno of the connection. Bytes come before its end or error. */
int64_t pf_rx_read(struct pf_client *client, uint32_t slot, void *buffer, uint32_t limit, int peek);
/* The same, waiting up to timeout_ns; -EAGAIN at time-out. */
int64_t pf_recv(struct pf_client *client, uint32_t slot, void *buffer, uint32_t limit, int peek,
                int64_t timeout_ns);
/* Writes as much as fits now, waiting up to timeout_ns for room for at least one byte; no
 * completion is delivered. > 0: so many; -EAGAIN at time-out; -EPIPE after shutdown; or the
 * connection's errno. */
int64_t pf_send(struct pf_client *client, uint32_t slot, const void *data, uint32_t length,
                int64_t timeout_ns);
/* The same; the last byte, if it fits, is urgent data. */
int64_t pf_send_urgent(struct pf_client *client, uint32_t slot, const void *data, uint32_t length,
                       int64_t timeout_ns);

/* Datagrams. Copies the datagram (up to PF_MAX_DATAGRAM_BYTES) into the arena and submits it; `to`
 * NULL: to the peer; `how`: enum pf_send_bits. -EAGAIN, -ENOBUFS as of pf_submit and pf_write. The
 * errno of one that nobody waits for (PF_DELIVER_NONE) is kept for pf_datagram_error. */
int64_t pf_sendto(struct pf_client *client, uint32_t slot, const void *data, uint32_t length,
                  const struct pf_addr *to, uint64_t how, int delivery);
/* The same, waiting up to timeout_ns for room; -EAGAIN at time-out. */
int64_t pf_sendto_wait(struct pf_client *client, uint32_t slot, const void *data, uint32_t length,
                       const struct pf_addr *to, uint64_t how, int delivery, int64_t timeout_ns);

enum pf_datagram_flags {
    PF_DATAGRAM_PEEK = 1,  /* it stays */
    PF_DATAGRAM_ERRORS = 2 /* an errno that nobody was told of comes first */
};

/* Takes the next datagram, waiting up to timeout_ns for it. Returns how many of its bytes are in
 * `buffer`, `limit` at most; the rest is gone. What is known of it (its whole length, too) is in
 * `info`. -EAGAIN: none now, or in time; -ESHUTDOWN: none comes after a shutdown. */
int64_t pf_recvfrom(struct pf_client *client, uint32_t slot, void *buffer, uint32_t limit,
                    int flags, int64_t timeout_ns, struct pf_datagram *info);
/* Takes the errno that the network, or a send that nobody waited for, left: 0: none. */
int pf_datagram_error(struct pf_client *client, uint32_t slot);

/* Mirror descriptors: see docs/ARCHITECTURE.md. `fd` is this side's end. */
int pf_mirror_attach(struct pf_client *client, uint32_t slot, uint64_t mirror_id, int fd);
/* Starts to keep readability and writability right; needed before the descriptor is polled.
 * -ESTALE: the socket is elsewhere, and has to be claimed, as the descriptor may have been filled.
 */
int pf_mirror_arm(struct pf_client *client, uint32_t slot);
/* From now on the descriptor is `fd`, a duplicate of it; or, with -1, it is about to be closed and
 * is not touched any more. */
int pf_mirror_move(struct pf_client *client, uint32_t slot, int fd);
/* After an operation that would have blocked: makes the descriptor unreadable / unwritable, unless
 * the condition has changed meanwhile. */
int pf_mirror_rearm_read(struct pf_client *client, uint32_t slot);
int pf_mirror_rearm_write(struct pf_client *client, uint32_t slot);
/* After a write that was taken: makes the descriptor unwritable if there is no room for another. */
int pf_mirror_sent(struct pf_client *client, uint32_t slot);
/* 1: the descriptor may show, or come to show, bytes that were read without waiting for it. */
int pf_mirror_is_unsure(struct pf_client *client, uint32_t slot);
/* After a PF_OP_MIRROR with token 0 has completed: now it does not. */
int pf_mirror_settle(struct pf_client *client, uint32_t slot);
/* 1: the descriptor is a UNIX socket, as every mirror is. */
int pf_is_unix(int fd);
/* epoll_ctl(EPOLL_CTL_ADD) with any data. */
int pf_epoll_add(int epoll_fd, int fd, uint32_t events, uint64_t data);
/* The program knows the errno of the connection: the descriptor no longer shows an error. */
int pf_mirror_told(struct pf_client *client, uint32_t slot);
