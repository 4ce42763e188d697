/* How long a write takes through lwIP's own netconn API, with many sockets (thesis Table 6.4).
 *
 * What is measured: n TCP connections over lwIP's loopback interface, both ends in one lwIP
 * instance. On the client side each connection has a thread of its own, which repeats: write 64
 * bytes, read until 64 bytes have come back. One sample is the time from before the write until the
 * last byte is there. One server thread echoes on all connections, told by netconn's events which
 * one has data. An echo can be measured in the same way through any API; it contains the
 * acknowledgement, which travels with it. All connections are made before the first sample; no
 * pinning, no spinning.
 *
 * Output: one line of JSON:
 *   {"sockets": n, "n": samples taken, "active": sockets with at least one sample,
 *    "seconds": measured, "min_ns": , "mean_ns": , "max_ns": , "samples_ns": [at most 20000]}
 * min, mean and max are over all samples; samples_ns is an even selection of them. */
#define _GNU_SOURCE
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "lwip/api.h"
#include "lwip/priv/memp_priv.h"
#include "lwip/stats.h"
#include "lwip/tcp.h"
#include "lwip/tcpip.h"

enum {
    MESSAGE_BYTES = 64,
    PORT = 7,
    OUTPUT_SAMPLES = 20000,
    STORED_SAMPLES = 1 << 22, /* of all threads */
    MIN_STORED_SAMPLES = 1 << 10,
    CLIENT_STACK_BYTES = 128 * 1024,
    EVENTS = 8 * BENCH_MAX_SOCKETS,
    STUCK_MS = 60000,
};

#define NS_PER_S UINT64_C(1000000000)

#define FAIL(message) bench_fail((message), __FILE__, __LINE__)

static void must(err_t error, const char *what, int line) {
    if (error != ERR_OK) {
        char text[100];
        (void)snprintf(text, sizeof(text), "%s: lwIP error %d", what, error);
        bench_fail(text, __FILE__, line);
    }
}
#define MUST(call) must((call), #call, __LINE__)

/* Every `stride`-th sample is stored. When there is no room, every second one goes and the stride
 * doubles: the memory is bounded, and the selection stays even over the whole time. */
struct samples {
    uint32_t *stored;
    uint32_t capacity;
    uint32_t count;
    uint64_t stride;
    uint64_t total;
    uint64_t sum_ns;
    uint64_t min_ns;
    uint64_t max_ns;
};

struct client {
    pthread_t thread;
    struct netconn *conn;
    pthread_barrier_t *start;
    const uint64_t *end_ns;
    struct samples samples;
};

struct server {
    pthread_t thread;
    struct netconn *listener;
    sys_mbox_t events;
    uint32_t expected;
    uint32_t ended;
    uint32_t accepted;
    struct netconn *conns[BENCH_MAX_SOCKETS];
};

static struct server server;

static uint64_t now_ns(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

/* ---- samples ---- */

static void samples_init(struct samples *samples, uint32_t capacity) {
    memset(samples, 0, sizeof(*samples));
    samples->stored = calloc(capacity, sizeof(*samples->stored));
    if (!samples->stored) {
        FAIL("out of memory");
    }
    samples->capacity = capacity;
    samples->stride = 1;
    samples->min_ns = UINT64_MAX;
}

static void samples_halve(struct samples *samples) {
    for (uint32_t i = 0; 2 * i < samples->count; i++) {
        samples->stored[i] = samples->stored[2 * i];
    }
    samples->count = (samples->count + 1) / 2;
    samples->stride *= 2;
}

static void samples_add(struct samples *samples, uint64_t took_ns) {
    if (samples->count == samples->capacity) {
        samples_halve(samples);
    }
    if (samples->total % samples->stride == 0) {
        samples->stored[samples->count++] = took_ns > UINT32_MAX ? UINT32_MAX : (uint32_t)took_ns;
    }
    samples->total++;
    samples->sum_ns += took_ns;
    samples->min_ns = took_ns < samples->min_ns ? took_ns : samples->min_ns;
    samples->max_ns = took_ns > samples->max_ns ? took_ns : samples->max_ns;
}

/* ---- the server: one thread for all connections ---- */

static void disable_nagle(struct netconn *conn) {
    LOCK_TCPIP_CORE();
    if (conn->pcb.tcp) {
        tcp_nagle_disable(conn->pcb.tcp);
    }
    UNLOCK_TCPIP_CORE();
}

/* Called by lwIP for the listener and for what it accepted. */
static void on_event(struct netconn *conn, enum netconn_evt event, u16_t length) {
    (void)length;
    if (event == NETCONN_EVT_RCVPLUS && sys_mbox_trypost(&server.events, conn) != ERR_OK) {
        FAIL("the server's queue of events is full");
    }
}

static void server_accept(void) {
    struct netconn *conn = NULL;
    MUST(netconn_accept(server.listener, &conn));
    if (server.accepted == BENCH_MAX_SOCKETS) {
        FAIL("more connections than there are sockets");
    }
    disable_nagle(conn);
    netconn_set_nonblocking(conn, 1); /* an event may be one of which the data are taken already */
    server.conns[server.accepted++] = conn;
}

/* An ended connection is kept until the end: events that name it may still be in the queue. */
static void server_end(struct netconn *conn) {
    if (netconn_get_callback_arg(conn) == &server) {
        return;
    }
    netconn_set_callback_arg(conn, &server);
    netconn_set_nonblocking(conn, 0);
    (void)netconn_close(conn);
    server.ended++;
}

static void server_echo(struct netconn *conn) {
    struct pbuf *data = NULL;
    err_t error = netconn_recv_tcp_pbuf(conn, &data);
    if (error == ERR_WOULDBLOCK) {
        return;
    }
    if (error != ERR_OK) {
        server_end(conn);
        return;
    }
    for (const struct pbuf *part = data; part; part = part->next) {
        /* At most 64 bytes are under way: there is room, and a non-blocking write takes all. */
        size_t written = 0;
        MUST(netconn_write_partly(conn, part->payload, part->len, NETCONN_COPY, &written));
        if (written != part->len) {
            FAIL("an echo did not fit");
        }
    }
    (void)pbuf_free(data);
}

static void *server_main(void *argument) {
    (void)argument;
    while (server.ended < server.expected) {
        void *message = NULL;
        if (sys_arch_mbox_fetch(&server.events, &message, STUCK_MS) == SYS_ARCH_TIMEOUT) {
            FAIL("no event for a minute");
        }
        struct netconn *conn = message;
        if (conn == server.listener) {
            server_accept();
        } else {
            server_echo(conn);
        }
    }
    return NULL;
}

static void server_start(uint32_t sockets) {
    server.expected = sockets;
    MUST(sys_mbox_new(&server.events, EVENTS));
    server.listener = netconn_new_with_callback(NETCONN_TCP, on_event);
    if (!server.listener) {
        FAIL("no listener");
    }
    MUST(netconn_bind(server.listener, IP_ADDR_ANY, PORT));
    MUST(netconn_listen_with_backlog(server.listener, 255));
    if (pthread_create(&server.thread, NULL, server_main, NULL) != 0) {
        FAIL("cannot create a thread");
    }
}

static void server_stop(void) {
    (void)pthread_join(server.thread, NULL);
    for (uint32_t i = 0; i < server.accepted; i++) {
        MUST(netconn_delete(server.conns[i]));
    }
    MUST(netconn_delete(server.listener));
}

/* ---- the clients: one thread per connection ---- */

static void read_back(struct netconn *conn) {
    for (uint32_t got = 0; got < MESSAGE_BYTES;) {
        struct pbuf *data = NULL;
        MUST(netconn_recv_tcp_pbuf(conn, &data));
        got += data->tot_len;
        (void)pbuf_free(data);
    }
}

static void *client_main(void *argument) {
    struct client *client = argument;
    static const uint8_t message[MESSAGE_BYTES] = "pifus";
    (void)pthread_barrier_wait(client->start); /* all are here */
    (void)pthread_barrier_wait(client->start); /* the end is known */
    uint64_t start = now_ns();
    while (start < *client->end_ns) {
        MUST(netconn_write(client->conn, message, sizeof(message), NETCONN_COPY));
        read_back(client->conn);
        uint64_t end = now_ns();
        samples_add(&client->samples, end - start);
        start = end;
    }
    MUST(netconn_close(client->conn));
    MUST(netconn_delete(client->conn));
    return NULL;
}

static void client_connect(struct client *client) {
    ip_addr_t loopback;
    IP_ADDR4(&loopback, 127, 0, 0, 1);
    client->conn = netconn_new(NETCONN_TCP);
    if (!client->conn) {
        FAIL("no netconn left");
    }
    netconn_set_recvtimeout(client->conn, STUCK_MS);
    MUST(netconn_connect(client->conn, &loopback, PORT));
    disable_nagle(client->conn);
}

static void run_clients(struct client *clients, uint32_t sockets, double seconds) {
    pthread_barrier_t start;
    pthread_attr_t attributes;
    uint64_t end_ns = 0;
    uint32_t capacity = STORED_SAMPLES / sockets;
    capacity = capacity < MIN_STORED_SAMPLES ? MIN_STORED_SAMPLES : capacity;
    (void)pthread_barrier_init(&start, NULL, sockets + 1);
    (void)pthread_attr_init(&attributes);
    (void)pthread_attr_setstacksize(&attributes, CLIENT_STACK_BYTES);
    for (uint32_t i = 0; i < sockets; i++) {
        samples_init(&clients[i].samples, capacity);
        clients[i].start = &start;
        clients[i].end_ns = &end_ns;
        client_connect(&clients[i]);
        if (pthread_create(&clients[i].thread, &attributes, client_main, &clients[i]) != 0) {
            FAIL("cannot create a thread");
        }
    }
    (void)pthread_barrier_wait(&start);
    end_ns = now_ns() + (uint64_t)(seconds * (double)NS_PER_S);
    (void)pthread_barrier_wait(&start);
    for (uint32_t i = 0; i < sockets; i++) {
        (void)pthread_join(clients[i].thread, NULL);
    }
    (void)pthread_attr_destroy(&attributes);
    (void)pthread_barrier_destroy(&start);
}

/* ---- the report ---- */

static void print_samples(struct client *clients, uint32_t sockets) {
    uint64_t stride = 1;
    uint64_t stored = 0;
    for (uint32_t i = 0; i < sockets; i++) {
        stride = clients[i].samples.stride > stride ? clients[i].samples.stride : stride;
    }
    /* The same share of everyone's samples. */
    for (uint32_t i = 0; i < sockets; i++) {
        while (clients[i].samples.stride < stride) {
            samples_halve(&clients[i].samples);
        }
        stored += clients[i].samples.count;
    }
    uint64_t every = (stored + OUTPUT_SAMPLES - 1) / OUTPUT_SAMPLES;
    uint64_t index = 0;
    const char *separator = "";
    for (uint32_t i = 0; i < sockets; i++) {
        for (uint32_t k = 0; k < clients[i].samples.count; k++, index++) {
            if (index % every == 0) {
                printf("%s%" PRIu32, separator, clients[i].samples.stored[k]);
                separator = ",";
            }
        }
    }
}

static void report(struct client *clients, uint32_t sockets, double seconds) {
    uint64_t total = 0;
    uint64_t sum_ns = 0;
    uint64_t min_ns = UINT64_MAX;
    uint64_t max_ns = 0;
    uint32_t active = 0;
    for (uint32_t i = 0; i < sockets; i++) {
        const struct samples *samples = &clients[i].samples;
        total += samples->total;
        sum_ns += samples->sum_ns;
        min_ns = samples->min_ns < min_ns ? samples->min_ns : min_ns;
        max_ns = samples->max_ns > max_ns ? samples->max_ns : max_ns;
        active += samples->total > 0;
    }
    if (total == 0) {
        FAIL("no sample was taken");
    }
    printf("{\"sockets\": %" PRIu32 ", \"n\": %" PRIu64 ", \"active\": %" PRIu32
           ", \"seconds\": %.3f, \"min_ns\": %" PRIu64 ", \"mean_ns\": %.1f, \"max_ns\": %" PRIu64
           ", \"samples_ns\": [",
           sockets, total, active, seconds, min_ns, (double)sum_ns / (double)total, max_ns);
    print_samples(clients, sockets);
    printf("]}\n");
}

/* Whatever was opened has been closed; what is left are connections in TIME_WAIT. */
static void check_nothing_left(void) {
    LOCK_TCPIP_CORE();
    unsigned conns = (unsigned)lwip_stats.memp[MEMP_NETCONN]->used;
    unsigned segments = (unsigned)lwip_stats.memp[MEMP_TCP_SEG]->used;
    unsigned listeners = (unsigned)lwip_stats.memp[MEMP_TCP_PCB_LISTEN]->used;
    UNLOCK_TCPIP_CORE();
    if (conns || listeners) {
        fprintf(stderr, "netconn: left behind: %u netconns, %u listeners, %u segments\n", conns,
                listeners, segments);
        FAIL("leak");
    }
}

static void started(void *argument) { sys_sem_signal(argument); }

static int usage(void) {
    fprintf(stderr, "usage: netconn_bench [--sockets 1..%d] [--seconds 0.1..600]\n",
            BENCH_MAX_SOCKETS);
    return 2;
}

int main(int argc, char **argv) {
    static const struct option options[] = {{"sockets", required_argument, NULL, 'n'},
                                            {"seconds", required_argument, NULL, 's'},
                                            {NULL, 0, NULL, 0}};
    long sockets = 1;
    double seconds = 5;
    for (int option; (option = getopt_long(argc, argv, "n:s:", options, NULL)) != -1;) {
        char *rest = NULL;
        if (option == 'n') {
            sockets = strtol(optarg, &rest, 10);
        } else if (option == 's') {
            seconds = strtod(optarg, &rest);
        }
        if (!rest || *rest) {
            return usage();
        }
    }
    if (sockets < 1 || sockets > BENCH_MAX_SOCKETS || !(seconds >= 0.1 && seconds <= 600) ||
        optind != argc) {
        return usage();
    }
    (void)alarm((unsigned)seconds + 120); /* whatever happens, this program ends */
    srandom((unsigned)now_ns());

    sys_sem_t ready;
    MUST(sys_sem_new(&ready, 0));
    tcpip_init(started, &ready);
    sys_sem_wait(&ready);
    sys_sem_free(&ready);

    struct client *clients = calloc((size_t)sockets, sizeof(*clients));
    if (!clients) {
        FAIL("out of memory");
    }
    server_start((uint32_t)sockets);
    run_clients(clients, (uint32_t)sockets, seconds);
    server_stop();
    report(clients, (uint32_t)sockets, seconds);
    for (long i = 0; i < sockets; i++) {
        free(clients[i].samples.stored);
    }
    free(clients);
    check_nothing_left();
    sys_mbox_free(&server.events);
    return 0;
}
