/* What the files of the backend core share. Everything here is private to the backend: nothing in a
 * region is ever believed twice. */
#ifndef PF_BACKEND_INTERNAL_H
#define PF_BACKEND_INTERNAL_H

#include <pthread.h>
#include <stdbool.h>

#include "backend/backend_api.h"
#include "backend/list.h"
#include "backend/rest.h"
#include "backend/stack.h"
#include "futex/doorbell.h"
#include "futex/spin.h"
#include "shm/hint_ring.h"
#include "shm/region.h"
#include "shm/ring.h"

/* Bytes handed to the stack and not sent yet, at most: bounds what one acknowledgement can set off.
 */
#define PF_TX_QUANTUM (64U * 1024U)
/* Received bytes that the client has not consumed, from which on it is asked to tell. */
#define PF_CREDIT_THRESHOLD (64U * 1024U)
#define PF_HINTS_PER_VISIT 32U
#define PF_FRAMES_EVERY_OPERATIONS 8U
/* Linux holds a corked segment back for so long. */
#define PF_CORK_NS UINT64_C(200000000)
/* A closing connection may go so long without any acknowledgement of its last bytes. */
#define PF_ORPHAN_NS UINT64_C(60000000000)
#define PF_MAX_UNADOPTED 512U
/* Sockets of an application that ends, or its submissions, between two steps. */
#define PF_FINISH_PIECE 4
/* Of which so many are done before the next look for work when there is none. */
#define PF_FINISH_IDLE_PIECES 16
/* Of what each tick sees to, at most. */
#define PF_TICK_MOST 1024
/* What is submitted at a socket that moves is taken in one step, if it is no more than this. */
#define PF_SETTLE_MOST 64U
#define PF_MAX_MIRRORS_SLACK 256U
#define PF_MAX_GROUPS 64U /* multicast groups of one application */
#define PF_MIRROR_NAME "pifus-mirror:"
#define PF_IDENTITY_BUCKETS 4096U

enum pf_sock_phase {
    PF_SOCK_NONE = 0, /* the slot is empty */
    PF_SOCK_OPEN,     /* made, perhaps bound */
    PF_SOCK_LISTENING,
    PF_SOCK_CONNECTING,
    PF_SOCK_CONNECTED,
    PF_SOCK_BROKEN,  /* the connection ended by itself; `error` tells */
    PF_SOCK_CLOSING, /* a close is under way */
    PF_SOCK_MOVED,   /* the connection is in another slot; only writes may be left here */
};

enum pf_work {
    PF_WORK_LOOK = 1,     /* a hint came: window, completions, mirror */
    PF_WORK_TX = 2,       /* bytes may be handed to the stack */
    PF_WORK_ACCEPT = 4,   /* connections may be reported */
    PF_WORK_CLOSE = 8,    /* see whether the close is done */
    PF_WORK_ABORT = 16,   /* reset the connection: data came after close */
    PF_WORK_SQ = 32,      /* submissions wait */
    PF_WORK_CHAIN = 64,   /* a held submission may start */
    PF_WORK_EXPIRE = 128, /* a deadline of an operation has passed */
};

/* Bits of pf_bsock.chain; see chain.c. 0: submissions start as they are taken. */
enum pf_chain {
    PF_CHAIN_OPEN = 1, /* a linked operation is under way: what is submitted is held */
    PF_CHAIN_NEXT = 2, /* and what comes behind it depends on it */
    PF_CHAIN_CUT = 4,  /* the next submission belongs to a chain that has failed */
    PF_CHAIN_HELD = 8, /* some are held */
};

struct pf_op {
    uint64_t op_id;
    uint64_t picked_ns;
    uint32_t offset;
    uint32_t length;
    uint64_t end;         /* write: position in the stream after its last byte */
    uint64_t handed_ns;   /* write: when the stack had all of it */
    uint64_t deadline_ns; /* 0: none */
    bool linked;
    bool multishot; /* receive: it stays */
    bool urgent;    /* write: its last byte is */
};

/* A submission that waits for those in front of it. */
struct pf_held {
    struct pf_sqe sqe;
    uint64_t picked_ns;
};

/* A queue of operations of one kind; `capacity` is cq_depth, so it cannot overflow. */
struct pf_op_queue {
    struct pf_op *ops;
    uint32_t head;
    uint32_t tail;
};

struct pf_session;
struct pf_identity;

struct pf_bsock {
    struct pf_session *session;
    struct stk_conn *conn;
    struct stk_dgram *dgram; /* a datagram socket: it has no conn */
    const struct pf_socket_c2b *c2b;
    struct pf_socket_b2c *b2c;
    uint32_t slot;
    uint32_t generation;
    enum pf_sock_phase phase;
    uint8_t priority;
    uint8_t family;
    bool v6only;
    bool counted; /* among the sockets of its application */
    bool bound;
    bool port_chosen; /* by the program: it stays bound when a connect fails */
    bool multishot;   /* the oldest accept stays */
    bool tx_finish;   /* FIN after the last write */
    bool tx_finished;
    bool rx_shut;
    bool tx_stalled; /* the stack was out of memory: the tick tries again */
    bool mirror_eof;
    bool corked;               /* segments that are not full are held back */
    uint64_t cork_ns;          /* since when one is; 0: none */
    uint32_t credit_threshold; /* unaccounted bytes from which on the client is asked to tell */
    uint32_t work;             /* enum pf_work */
    uint32_t sq_head;
    uint32_t cq_tail;
    uint32_t inflight; /* operations taken and not finally completed */
    uint8_t chain;     /* enum pf_chain */
    uint32_t rx_head;
    uint32_t rx_base;
    uint32_t rx_bytes;
    uint32_t rx_assigned; /* up to here receive operations have been answered */
    uint32_t rx_credited;
    uint32_t state;      /* what b2c->state shows */
    int error;           /* errno that ended the connection */
    uint64_t tx_written; /* stream positions: taken by the stack, acknowledged */
    uint64_t tx_acked;
    struct pf_op_queue writes; /* head: oldest unacknowledged */
    uint32_t writes_next;      /* next to hand to the stack */
    uint32_t writes_done;      /* bytes of it handed over */
    struct pf_op_queue recvs;
    struct pf_op_queue accepts;
    struct pf_op connect_op;
    struct pf_op close_op;
    struct pf_held *held; /* cq_depth entries, or NULL */
    uint32_t held_head;
    uint32_t held_tail;
    uint64_t timer_ns;    /* in the backend's heap, by the earliest deadline of its operations */
    uint32_t timer_place; /* there; 0: it is not */
    uint64_t close_deadline_ns;
    uint32_t read_token;
    uint32_t write_token;
    uint32_t blocks_back; /* of this generation's sends that ended: as pf_socket_c2b.write_room */
    int mirror_fd;
    uint32_t groups;              /* multicast groups that the socket is in */
    uint32_t kept;                /* bytes of datagrams not read, as the account knows it */
    struct pf_identity *identity; /* whose descriptor mirror_fd is */
    struct pf_bsock *sharer_next; /* others that accept from the same listener */
    uint64_t moved_identity;      /* MOVED: the number of what was here */
    bool close_abort;             /* when nobody holds it any more */
    bool let_go;                  /* the client is done with the slot; others may hold the socket */
    struct pf_bsock *
        drains_first; /* moved here from these, oldest first, and they have unacknowledged writes */
    struct pf_bsock *drains_last;
    struct pf_bsock *drains_next;
    bool draining; /* on such a list */
    pf_hint_mark event_mark[PF_PRIORITIES];
    bool wake;      /* on the list of sockets with news for the client */
    bool wake_hint; /* a completion was posted: tell waiters for any socket */
    struct pf_bsock *wake_next;
    bool ready;
    struct pf_bsock *ready_next; /* ring of this session's ready sockets of one priority */
    struct pf_bsock *ready_prev;
    struct pf_link closing; /* in the list of what is being closed */
    struct pf_link stalled; /* of those that the tick has try again to send */
    struct pf_link claimed; /* of claims that wait until a listener is shared */
    struct pf_link crowded; /* of listeners that wait until something is adopted */
    uint64_t shared_order;  /* what was reported by then goes back to the queue */
};

struct pf_ready_ring {
    struct pf_bsock *first;
};

struct pf_unadopted {
    uint64_t token;
    struct stk_conn *conn; /* NULL: free entry */
    uint64_t order;
    uint32_t slot; /* of the listener */
    uint32_t generation;
    uint32_t number; /* of the listener's accepts */
};

struct pf_mirror {
    uint64_t id;
    uint64_t number;
    int fd;
};

/* The right of a session, which has shown the descriptor, to take over a socket. */
struct pf_ticket {
    uint64_t id;
    uint64_t number;
};

/* Hints taken and not yet published as taken. */
struct pf_taken_hints {
    uint32_t count;
    uint32_t slots[PF_HINTS_PER_VISIT];
};

struct pf_session {
    struct pf_backend *backend;
    uint64_t id;
    struct pf_session_request granted;
    struct pf_b2c_header layout; /* private copy: the truth */
    const uint8_t *c2b;
    uint8_t *b2c;
    const struct pf_c2b_control *c2b_control;
    struct pf_b2c_control *b2c_control;
    struct pf_hint_consumer hints[PF_PRIORITIES];
    struct pf_hint_producer events[PF_PRIORITIES];
    struct pf_taken_hints taken[PF_PRIORITIES];
    struct pf_bsock *socks; /* zero until pf_session_slot: memory is taken for what is used */
    uint32_t slots_seen;    /* none from here on was */
    uint32_t live_socks;
    uint32_t groups;    /* multicast groups of all its sockets */
    uint32_t kept_slot; /* the next whose datagrams are counted anew */
    struct stk_account *account;
    struct pf_ready_ring ready[PF_PRIORITIES];
    struct pf_session *ready_next[PF_PRIORITIES]; /* ring of sessions with ready sockets */
    struct pf_session *ready_prev[PF_PRIORITIES];
    bool ready_listed[PF_PRIORITIES];
    struct pf_unadopted unadopted[PF_MAX_UNADOPTED];
    uint32_t unadopted_count;
    struct pf_link crowded; /* listeners that would report more */
    struct pf_mirror *mirrors;
    uint32_t mirror_count;
    uint32_t mirror_capacity;
    uint32_t mirror_cursor;
    struct pf_ticket *tickets;
    uint32_t ticket_count;
    uint32_t ticket_capacity;
    uint32_t event_changes;
    bool wake_any;
    struct pf_session *wake_next;
    int bell_fd;          /* our end of the bell; -1: the client never asked for one */
    uint32_t bell_answer; /* the bell_arm that was rung for */
    int doorbell_fd;
    bool doorbell_muted;
    uint32_t noise;   /* rings without news of late */
    uint32_t faulted; /* set by the SIGBUS handler */
    int doomed;       /* enum pf_ended: to be ended at the next safe point of the loop */
    bool dying;       /* no more submissions; sockets run out */
    bool ended;       /* told the control plane */
    int reason;
    uint32_t index;       /* in backend->sessions */
    int finishing;        /* enum phase of finish.c; 0: not now */
    bool finish_kill;     /* connections are reset */
    uint32_t finish_slot; /* the next one to be seen to */
    uint32_t finish_left; /* submissions that are taken from it yet */
    struct pf_session *next_finishing;
    uint32_t share_slot;  /* the next one to be looked at; see sharing.c */
    uint32_t share_slots; /* so many are to be */
    uint32_t share_left;  /* slots; 0: none */
    uint32_t share_submissions;
    struct pf_session *next_sharing;
    struct pf_link claimed; /* sockets of others */
};

enum pf_command_kind {
    PF_COMMAND_ADD,
    PF_COMMAND_END,
    PF_COMMAND_MIRRORS,
    PF_COMMAND_CLAIM,
    PF_COMMAND_BELL
};

struct pf_command {
    enum pf_command_kind kind;
    struct pf_session *session; /* ADD */
    uint64_t id;
    int reason;
    uint32_t count;
    uint64_t first_mirror;
    uint64_t ticket; /* CLAIM */
    uint64_t numbers[64];
    int32_t fds[64];
    struct pf_command *next;
};

struct pf_notice {
    uint64_t id;
    int reason;
    bool freed;
    struct pf_session *session; /* freed: to be unmapped by the control thread */
    struct pf_notice *next;
};

struct pf_backend {
    struct pf_backend_config config;
    struct pf_public *public_region;
    int public_fd;
    int epoll_fd;
    int timer_fd;   /* wakes the stack thread when the stack's next timer is due */
    int command_fd; /* eventfd: wakes the stack thread */
    int event_fd;   /* eventfd: wakes the control thread */
    pthread_t thread;
    bool started;
    bool has_stack; /* this one, of all in the process, made lwIP's global state */
    uint32_t stop;
    uint32_t commands_pending;
    pthread_mutex_t lock; /* guards the three lists below */
    struct pf_command *command_first;
    struct pf_command *command_last;
    struct pf_notice *notice_first;
    struct pf_notice *notice_last;
    uint64_t next_session; /* control thread */
    uint64_t next_mirror;
    uint64_t next_ticket;
    /* Stack thread. */
    struct pf_session **sessions;
    uint32_t session_count;
    uint32_t recount_session; /* the next whose datagrams are counted anew for another one */
    uint32_t session_capacity;
    struct pf_session *ready[PF_PRIORITIES]; /* rings */
    uint32_t share_medium;
    uint32_t share_low;
    bool frame_turn;
    bool frames_told; /* a driver's descriptor was readable, and not all was taken since */
    uint64_t now_ns;
    uint64_t next_timer_ns;
    uint64_t next_busy_timer_ns;
    uint64_t armed_ns; /* when timer_fd fires */
    uint64_t next_tick_ns;
    uint64_t next_deadline_ns; /* of any operation; UINT64_MAX: none */
    struct pf_bsock **timers;  /* heap, from 1 on */
    uint32_t timer_count;
    uint32_t timer_capacity;
    struct pf_bsock *wake_first;
    struct pf_session *wake_sessions;
    struct pf_link closing;
    struct pf_link stalled;
    struct pf_session *sharing; /* see sharing.c */
    struct pf_session *finishing;
    bool any_doomed;
    bool any_dying;
    uint32_t mirrors;
    uint32_t sockets;
    uint32_t orphans;
    uint64_t next_orphan_look_ns;
    uint64_t unadopted_order;
    int orphan_epoll_fd; /* mirrors of orphans: ready when the last copy is closed */
    bool claiming;
    struct pf_identity *identities[PF_IDENTITY_BUCKETS];
    uint64_t random_state;
    struct pf_spin spin;
    uint32_t spin_ns; /* its budget */
    struct pf_rest rest;
};

/* session.c (control thread: create, destroy; stack thread: the rest) */
struct pf_session *pf_session_make(struct pf_backend *backend,
                                   const struct pf_session_request *request,
                                   struct pf_session_fds *fds, char *error, size_t error_bytes);
void pf_session_destroy(struct pf_session *session);
/* The socket of a slot below max_sockets, made ready the first time. */
struct pf_bsock *pf_session_slot(struct pf_session *session, uint32_t slot);
/* How many slots are to be looked at where something may be submitted without our knowing. */
uint32_t pf_session_slots(const struct pf_session *session);
struct pf_session *pf_session_find(struct pf_backend *backend, uint64_t id);
void pf_session_admit(struct pf_backend *backend, struct pf_session *session);
/* Nothing more is taken from the client but what it had submitted; PF_ENDED_CLOSED lets sent bytes
 * arrive, every other reason resets its connections. Begins it: pf_session_finish_piece() does it.
 */
void pf_session_finish(struct pf_session *session, int reason);
/* A bounded piece of the ends that are under way. False: none is any more. */
bool pf_session_finish_piece(struct pf_backend *backend);
/* What is due to this one socket of a session whose end is under way, now. */
void pf_session_finish_sock(struct pf_bsock *sock);
/* The client broke the protocol: it is ended at the next safe point of the loop. */
void pf_session_violation(struct pf_session *session, const char *what);
/* Hands a session without sockets to the control thread. */
void pf_session_reap(struct pf_session *session);
void pf_session_add_mirrors(struct pf_session *session, const struct pf_command *command);
int pf_session_take_mirror(struct pf_session *session, uint64_t id, uint64_t *number);
uint64_t pf_session_hold(struct pf_bsock *listener, struct stk_conn *conn);
/* Resets the connections that were reported to the client and never handed to the program. */
void pf_session_drop_accepts(const struct pf_bsock *listener);
struct stk_conn *pf_session_claim(struct pf_session *session, uint64_t token);
/* Connections reported and not adopted: back to their listeners (NULL: all), or reset. */
void pf_session_give_back(struct pf_session *session, struct pf_bsock *listener, uint32_t most);
/* One of those that its listener had reported before it was shared. False: there is none. */
bool pf_session_give_back_shared(struct pf_session *session);
/* There may be room for more reports: one listener that waits for it is served. */
void pf_session_pass_room(struct pf_session *session);
void pf_session_add_ticket(struct pf_session *session, uint64_t id, uint64_t number);

/* guard.c */
int pf_guard_install(void);
void pf_guard_add(struct pf_session *session);
void pf_guard_remove(struct pf_session *session);

/* command.c */
void pf_commands_run(struct pf_backend *backend);
void pf_command_send(struct pf_backend *backend, struct pf_command *command);
void pf_notice_send(struct pf_backend *backend, uint64_t id, int reason, struct pf_session *freed);

/* dispatch.c */
/* Takes one submission of the socket. False: there was none, or the session ended. */
bool pf_dispatch_one(struct pf_bsock *sock);
/* Starts a submission that was taken at `picked_ns`. */
void pf_op_start(struct pf_bsock *sock, const struct pf_sqe *sqe, uint64_t picked_ns);
/* A connect that failed, or a connection that ended, may be followed by another one on the same
 * socket. A port that the program chose stays bound. */
int pf_sock_reopen(struct pf_bsock *sock);

/* chain.c: linked operations. */
/* A submission that comes while `chain` is not 0. */
void pf_chain_hold(struct pf_bsock *sock, const struct pf_sqe *sqe);
/* Starts the next one that was held, if nothing is in front of it. */
void pf_chain_next(struct pf_bsock *sock);
/* The linked operation that was under way has ended. */
void pf_chain_ended(struct pf_bsock *sock, int64_t result);
/* Ends what is held, with `result`; what comes next is on its own. How many there were. */
uint32_t pf_chain_drop(struct pf_bsock *sock, int result);

/* deadline.c: which sockets have an operation with a deadline, by the earliest one. */
bool pf_deadline_arm(struct pf_bsock *sock, uint64_t deadline_ns);
void pf_deadline_disarm(struct pf_bsock *sock);
/* What is queued there is written, however late. */
void pf_deadline_forget(struct pf_bsock *sock);
/* Has the sockets served whose time has come, a bounded number of them. */
void pf_deadlines_due(struct pf_backend *backend);

/* takeback.c: operations that end before their time. */
struct pf_pick {
    uint64_t op_id;   /* this one */
    bool all;         /* or every one */
    uint64_t due_ns;  /* or, if not 0, those whose deadlines have come by then */
    uint64_t next_ns; /* the earliest deadline of the others */
    int result;
    int flags; /* enum pf_cqe_flags */
    uint32_t count;
};
int pf_do_cancel(struct pf_bsock *sock, const struct pf_sqe *sqe, const struct pf_op *op);
/* Ends operations whose deadlines have passed. */
void pf_expire(struct pf_bsock *sock);
/* Of what is held. */
void pf_chain_take_out(struct pf_bsock *sock, struct pf_pick *pick);
/* Whether this one is to be ended; counts it. */
bool pf_picked(struct pf_pick *pick, uint64_t op_id, uint64_t deadline_ns);

/* sock.c */
void pf_sock_reset_slot(struct pf_bsock *sock);
int pf_sock_start(struct pf_bsock *sock, uint32_t generation, uint32_t rx_bytes, uint32_t state);
void pf_sock_set_state(struct pf_bsock *sock, uint32_t set, uint32_t clear);
void pf_sock_names(struct pf_bsock *sock);
/* It never was one, or is one of another slot now: it takes nobody's share. */
void pf_sock_uncount(struct pf_bsock *sock);
/* The connection broke: completes what waits with -error. */
void pf_sock_broken(struct pf_bsock *sock, int error);
/* Shows the error once every byte that came before it has reached the client's ring. */
void pf_sock_show_error(struct pf_bsock *sock);
void pf_sock_begin_close(struct pf_bsock *sock, bool abort);
void pf_sock_check_close(struct pf_bsock *sock);
void pf_sock_free(struct pf_bsock *sock);
bool pf_op_push(struct pf_bsock *sock, struct pf_op_queue *queue, const struct pf_op *op);
struct pf_op *pf_op_first(const struct pf_bsock *sock, const struct pf_op_queue *queue);
void pf_ops_fail(struct pf_bsock *sock, struct pf_op_queue *queue, int opcode, int result);

/* setopt.c */
int pf_do_setopt(struct pf_bsock *sock, const struct pf_sqe *sqe, const struct pf_op *op);
int pf_do_query(struct pf_bsock *sock, const struct pf_sqe *sqe, const struct pf_op *op);
/* From which on the client is asked to tell what it consumed: in proportion to the window. */
void pf_sock_size_credit(struct pf_bsock *sock);

/* dispatch.c */
/* The best of what was asked for and what the client is granted. */
void pf_sock_set_priority(struct pf_bsock *sock, uint64_t wanted);
/* datagram.c: handlers as in dispatch.c, of sockets that have a dgram, and events of the stack. */
/* What a handler returns when the operation completes later; otherwise its result, or -errno. */
#define PF_OP_PENDING INT32_MAX
int pf_dgram_open(struct pf_bsock *sock, const struct pf_sqe *sqe);
int pf_dgram_bind(struct pf_bsock *sock, const struct pf_sqe *sqe, const struct pf_op *op);
int pf_dgram_connect(struct pf_bsock *sock, const struct pf_sqe *sqe, const struct pf_op *op);
int pf_dgram_sendto(struct pf_bsock *sock, const struct pf_sqe *sqe, const struct pf_op *op);
int pf_dgram_recv(struct pf_bsock *sock, const struct pf_sqe *sqe, const struct pf_op *op);
int pf_dgram_shutdown(struct pf_bsock *sock, const struct pf_sqe *sqe, const struct pf_op *op);
int pf_dgram_group(struct pf_bsock *sock, const struct pf_sqe *sqe, const struct pf_op *op);
int pf_dgram_unsupported(struct pf_bsock *sock, const struct pf_sqe *sqe, const struct pf_op *op);
/* The socket moves to another slot: with it what the client of the old one, which is at `tail` of
 * its ring, has not taken, as far as there is room. */
void pf_dgram_pass(struct pf_bsock *old, struct pf_bsock *sock, uint32_t tail);
void pf_dgram_arrived(void *owner, const struct stk_packet *packet);
/* Nothing that the socket has is kept any more. */
void pf_dgram_forget(struct pf_bsock *sock);
/* Answers receive operations with the datagrams that are there, one each. */
void pf_dgram_answer(struct pf_bsock *sock);
void pf_dgram_failed(void *owner, int error);

/* transfer.c */
/* Puts a receive behind the others. 0 or -errno. */
int pf_recv_push(struct pf_bsock *sock, const struct pf_sqe *sqe, const struct pf_op *op);
extern const struct stk_events pf_stack_events;
/* How far the client has read; a place that cannot be ends it. */
uint32_t pf_rx_tail(struct pf_bsock *sock);
void pf_tx_pump(struct pf_bsock *sock);
void pf_rx_flush(struct pf_bsock *sock);
void pf_rx_credit(struct pf_bsock *sock);
void pf_rx_answer(struct pf_bsock *sock);
void pf_accept_report(struct pf_bsock *sock);

/* post.c */
void pf_post(struct pf_bsock *sock, const struct pf_op *op, int opcode, int64_t result);
/* Room for another completion of a multishot operation; without, the client is asked to tell when
 * there is, which is `work`. */
bool pf_cq_room_for_more(struct pf_bsock *sock, uint32_t work);
void pf_post_flagged(struct pf_bsock *sock, const struct pf_op *op, int opcode, int64_t result,
                     int flags);
/* All of a write was acknowledged. */
void pf_post_written(struct pf_bsock *sock, const struct pf_op *op);
/* With a page of information. */
void pf_post_page(struct pf_bsock *sock, const struct pf_op *op, const uint8_t page[32]);
/* Of the receive of a datagram: with its sender. */
void pf_post_from(struct pf_bsock *sock, const struct pf_op *op, int64_t result,
                  const struct pf_addr *source);
/* A completion that does not end its operation, with a connection. False: no room in the CQ. */
bool pf_post_accept(struct pf_bsock *sock, const struct pf_op *op, uint64_t token,
                    const struct pf_addr *peer, bool more);
uint32_t pf_cq_room(struct pf_bsock *sock);
bool pf_cq_takes_more(struct pf_bsock *sock);
/* The client is to notice a change of this socket. */
void pf_wake(struct pf_bsock *sock);
/* Publishes and wakes what the last step changed. */
void pf_post_flush(struct pf_backend *backend);

/* bell.c */
/* The client waits by descriptor from now on, also for what was published before. */
void pf_bell_attach(struct pf_session *session, int fd);
/* Completions were published, and a full fence passed: wakes who waits for them by its bell. */
void pf_bell_ring(struct pf_session *session);
/* Nothing more comes: the client's end hangs up. Twice is no error. */
void pf_bell_close(struct pf_session *session);

/* readiness.c */
/* Brings the mirror descriptor in line: a token in it when there is something to read, drained when
 * there is room to write, each at most once per arming by the client; and its ends. Only for a
 * socket that has one; after an error it has none any more. */
void pf_mirror_update(struct pf_bsock *sock);
/* Of a socket without one, behind the fence after what was published: the client has asked
 * (pf_watch), and there is something to read. True once for each question. */
bool pf_watch_answered(struct pf_bsock *sock);

/* ready.c */
void pf_ready_add(struct pf_bsock *sock, uint32_t work);
void pf_ready_remove(struct pf_bsock *sock);
/* The next socket to serve at this priority, moved to the back of its rings; NULL: none. */
struct pf_bsock *pf_ready_take(struct pf_backend *backend, int priority);

/* loop.c */
void *pf_loop(void *backend);

#endif
