/* What the control plane (Python) sees of the backend core (C).
 *
 * Read by C through backend/backend_api.h and, verbatim, by cffi. The stack runs in one thread that
 * pf_backend_start makes and that never touches Python; every function here is called from the
 * control thread and hands its work over. Failures are NULL or -errno with a sentence in `error`.
 */

struct pf_backend;

struct pf_backend_config {
    uint32_t spin_ns;        /* how long the idle stack thread spins before it sleeps */
    uint32_t client_spin_ns; /* what clients are told */
    uint32_t spin_follows;   /* 1: both follow what a wake-up costs, from these on */
    uint32_t max_pcbs;       /* sockets over all clients, 1..20000 */
    uint32_t
        min_share_medium;   /* percent of operations that MEDIUM gets while HIGH has work; 0..50 */
    uint32_t min_share_low; /* percent that LOW gets while others have work; 0..50 */
    int32_t cpu;            /* the stack thread's processor; -1: any */
    int32_t realtime_priority;        /* SCHED_FIFO 1..99; 0: normal scheduling */
    int32_t lock_memory;              /* 1: mlockall */
    uint32_t loss_per_million;        /* for tests: received frames to lose; 0..1000000 */
    uint64_t fault_seed;              /* which ones */
    uint64_t max_held_bytes;          /* received for one application and not read; 0: no limit */
    uint64_t max_held_bytes_per_user; /* for all of one user; 0: no limit */
    char address[108]; /* where clients reach the control plane: part of the names of mirrors */
};

struct pf_session_request {
    uint32_t max_sockets;
    uint32_t queue_depth;
    uint32_t rx_bytes;
    uint32_t best_priority; /* the best priority this client is granted */
    uint64_t arena_bytes;
    uint32_t uid;
    uint32_t pid;
    uint32_t raw; /* 1: this client may have raw sockets */
};

/* Descriptors for the client: the caller sends them and then closes them. */
struct pf_session_fds {
    int32_t c2b;
    int32_t b2c;
    int32_t public_region;
    int32_t doorbell;
    uint64_t c2b_bytes;
    uint64_t b2c_bytes;
};

struct pf_tap_options {
    const char *interface; /* created if absent and allowed */
    const char *ipv4;      /* the stack's "a.b.c.d/n", or NULL */
    const char *ipv6;      /* the stack's "x::y/n", or NULL */
    const char *gateway4;  /* or NULL */
    const char *gateway6;  /* or NULL */
    const char
        *host_ipv4; /* address given to the kernel's end of a device that we create, or NULL */
    const char *host_ipv6;
    uint32_t mtu;
    int32_t offload; /* 1: virtio-net header, checksum and segmentation offload */
};

struct pf_backend *pf_backend_new(const struct pf_backend_config *config, char *error,
                                  size_t error_bytes);
int pf_backend_add_loopback(struct pf_backend *backend, char *error, size_t error_bytes);
int pf_backend_add_tap(struct pf_backend *backend, const struct pf_tap_options *options,
                       char *error, size_t error_bytes);
int pf_backend_start(struct pf_backend *backend, char *error, size_t error_bytes);
/* Ends every session (clients are told), stops the stack thread, frees all. */
void pf_backend_free(struct pf_backend *backend);

/* Makes a session. Its id (> 0), or -errno. */
int64_t pf_session_create(struct pf_backend *backend, const struct pf_session_request *request,
                          struct pf_session_fds *fds, char *error, size_t error_bytes);
/* The client's control connection is gone (or `reason` says otherwise): frees all that it had. */
int pf_session_end(struct pf_backend *backend, uint64_t session, int reason);
/* Makes `count` mirror descriptors for the session: the client's ends in `fds` (send and close
 * them), numbered from *first_id. 0 or -errno. */
int pf_session_mirrors(struct pf_backend *backend, uint64_t session, uint32_t count, int32_t *fds,
                       uint64_t *first_id);
/* Makes the bell of the session, by which its client waits for completions: the client's end in
 * *fd (send and close it). An earlier bell hangs up. 0 or -errno. */
int pf_session_bell(struct pf_backend *backend, uint64_t session, int32_t *fd);
/* The client has shown `fd`, a mirror descriptor: the ticket by which it can adopt the socket that
 * it stands for. 0, or -errno: it is no UNIX socket. (Whether it is a mirror shows at the
 * adoption.) */
int pf_session_show(struct pf_backend *backend, uint64_t session, int32_t fd, uint64_t *ticket);
/* Readable when pf_backend_next_ended has something. */
int pf_backend_event_fd(struct pf_backend *backend);
/* The next session that the stack thread ended by itself, or whose resources are all free again:
 * 1 and *session, *reason (enum pf_ended), *freed; 0: none. */
int pf_backend_next_ended(struct pf_backend *backend, uint64_t *session, int32_t *reason,
                          int32_t *freed);
const struct pf_public *pf_backend_public(const struct pf_backend *backend);
