/* The loops of `pifus bench`: C programs over the client core, filling arrays of times.
 *
 * Read by C through bench/bench_api.h and, verbatim, by cffi. Times are nanoseconds of
 * CLOCK_MONOTONIC; a loop runs until `end_ns`. One sample contains one reading of the clock.
 * Results below zero are -errno. */

/* Every stride-th time, from the first on. When there is no room, every second one goes and the
 * stride (a power of two) doubles: bounded memory, an even selection. The rest is over all. */
struct pf_bench_samples {
    uint32_t *stored_ns;
    uint32_t capacity;
    uint32_t count;
    uint64_t stride;
    uint64_t total;
    uint64_t sum_ns;
    uint64_t min_ns;
    uint64_t max_ns;
    double squares;
};

/* For a fresh structure: its array and its room. */
void pf_bench_samples_init(struct pf_bench_samples *samples, uint32_t *stored_ns,
                           uint32_t capacity);

/* One NOP after the other: from before its submission until its completion is in hand. */
int pf_bench_nop(struct pf_client *client, uint32_t slot, uint64_t end_ns,
                 struct pf_bench_samples *samples);
/* `bytes` there and back over a connection whose peer echoes. */
int pf_bench_echo(struct pf_client *client, uint32_t slot, uint32_t bytes, uint64_t end_ns,
                  struct pf_bench_samples *samples);
/* Keeps `in_flight` NOPs (write_bytes 0) or writes under way. A write starts with the time of its
 * submission, for pf_bench_kernel_reader. `taken`: from submission until the completion is in hand;
 * `served`: until the backend had completed it (start of that step). */
int pf_bench_flood(struct pf_client *client, uint32_t slot, uint32_t write_bytes,
                   uint32_t in_flight, uint64_t end_ns, struct pf_bench_samples *taken,
                   struct pf_bench_samples *served);
/* Bulk: the number of bytes sent, until end_ns or until `limit` bytes. */
int64_t pf_bench_send(struct pf_client *client, uint32_t slot, uint32_t chunk, uint64_t limit,
                      uint64_t end_ns);
/* Bulk: the number of bytes received, until end_ns, `limit` bytes or the end of the stream. */
int64_t pf_bench_receive(struct pf_client *client, uint32_t slot, uint32_t chunk, uint64_t limit,
                         uint64_t end_ns);

/* Many sockets of one client, each with one message under way; the number of sockets that got a
 * sample. With a thread for each socket and blocking calls: */
int pf_bench_sockets_threads(struct pf_client *client, const uint32_t *slots, uint32_t count,
                             uint32_t bytes, uint64_t end_ns, struct pf_bench_samples *samples);
/* The same in one thread, with completions: */
int pf_bench_sockets_single(struct pf_client *client, const uint32_t *slots, uint32_t count,
                            uint32_t bytes, uint64_t end_ns, struct pf_bench_samples *samples);
/* Their server: starts to accept, once for ever; */
int pf_bench_echo_accept(struct pf_client *client, uint32_t listener);
/* takes the next `connections` of the listener and echoes on all of them, in this one thread, until
 * all have ended. */
int pf_bench_echo_server(struct pf_client *client, uint32_t listener, uint32_t connections);

/* The kernel's sockets: the peer that echoes until the connection ends; the client; and the reader
 * of messages of pf_bench_flood, timed from submission until read. */
int pf_bench_kernel_echo_peer(int fd);
int pf_bench_kernel_echo(int fd, uint32_t bytes, uint64_t end_ns, struct pf_bench_samples *samples);
int pf_bench_kernel_reader(int fd, uint32_t bytes, struct pf_bench_samples *samples);

/* The calling process ends with the process that started it. */
int pf_bench_end_with_parent(int parent);
