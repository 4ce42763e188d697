/* Many sockets of one client: in many threads, or in one with completions; and their server. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "bench/samples.h"
#include "futex/futex.h"

enum {
    MESSAGE_BYTES_MAX = 4096,
    THREAD_STACK_BYTES = 128 * 1024,
    SAMPLES_MIN = 1024,
    STUCK_S = 60
};

#define STUCK_NS (STUCK_S * INT64_C(1000000000))

/* ---- a thread for each socket ---- */

struct player {
    pthread_t thread;
    struct pf_client *client;
    pthread_rwlock_t *gate; /* held by the maker of the threads until all are there */
    uint64_t end_ns;
    uint32_t slot;
    uint32_t bytes;
    int result;
    struct pf_bench_samples samples;
};

static void *player_main(void *argument) {
    struct player *player = argument;
    (void)pthread_rwlock_rdlock(player->gate);
    (void)pthread_rwlock_unlock(player->gate);
    player->result = pf_bench_echo(player->client, player->slot, player->bytes, player->end_ns,
                                   &player->samples);
    return NULL;
}

static void merge(struct pf_bench_samples *into, struct pf_bench_samples *from, uint64_t stride) {
    while (from->stride < stride) {
        pf_bench_samples_halve(from);
    }
    uint32_t room = into->capacity - into->count;
    uint32_t take = from->count < room ? from->count : room;
    memcpy(into->stored_ns + into->count, from->stored_ns, take * sizeof(*from->stored_ns));
    into->count += take;
    into->total += from->total;
    into->sum_ns += from->sum_ns;
    into->squares += from->squares;
    into->min_ns = from->min_ns < into->min_ns ? from->min_ns : into->min_ns;
    into->max_ns = from->max_ns > into->max_ns ? from->max_ns : into->max_ns;
}

/* The same share of everyone's samples. */
static void merge_all(struct player *players, uint32_t count, struct pf_bench_samples *samples) {
    uint64_t stride = 1;
    for (uint32_t i = 0; i < count; i++) {
        stride = players[i].samples.stride > stride ? players[i].samples.stride : stride;
    }
    uint64_t stored = UINT64_MAX;
    while (stored > samples->capacity) {
        stored = 0;
        for (uint32_t i = 0; i < count; i++) {
            uint64_t every = stride / players[i].samples.stride;
            stored += (players[i].samples.count + every - 1) / every;
        }
        stride *= stored > samples->capacity ? 2 : 1;
    }
    samples->stride = stride;
    for (uint32_t i = 0; i < count; i++) {
        merge(samples, &players[i].samples, stride);
    }
}

/* Runs them all to their end. 0, or -errno: a thread could not be made. */
static int run_players(struct player *players, uint32_t count) {
    pthread_rwlock_t gate;
    pthread_attr_t attributes;
    (void)pthread_rwlock_init(&gate, NULL);
    (void)pthread_attr_init(&attributes);
    (void)pthread_attr_setstacksize(&attributes, THREAD_STACK_BYTES);
    (void)pthread_rwlock_wrlock(&gate);
    uint32_t made = 0;
    int failed = 0;
    while (made < count && !failed) {
        players[made].gate = &gate;
        failed = pthread_create(&players[made].thread, &attributes, player_main, &players[made]);
        made += !failed;
    }
    for (uint32_t i = 0; failed && i < made; i++) {
        players[i].end_ns = 0; /* one message each, and over */
    }
    (void)pthread_rwlock_unlock(&gate);
    for (uint32_t i = 0; i < made; i++) {
        (void)pthread_join(players[i].thread, NULL);
    }
    (void)pthread_attr_destroy(&attributes);
    (void)pthread_rwlock_destroy(&gate);
    return -failed;
}

int pf_bench_sockets_threads(struct pf_client *client, const uint32_t *slots, uint32_t count,
                             uint32_t bytes, uint64_t end_ns, struct pf_bench_samples *samples) {
    if (count == 0) {
        return -EINVAL;
    }
    uint32_t each = samples->capacity / count;
    each = each < SAMPLES_MIN ? SAMPLES_MIN : each;
    struct player *players = calloc(count, sizeof(*players));
    uint32_t *stored = calloc((size_t)count * each, sizeof(*stored));
    int result = players && stored ? 0 : -ENOMEM;
    int active = 0;
    if (!result) {
        for (uint32_t i = 0; i < count; i++) {
            players[i] = (struct player){
                .client = client, .end_ns = end_ns, .slot = slots[i], .bytes = bytes};
            pf_bench_samples_init(&players[i].samples, stored + (size_t)i * each, each);
        }
        result = run_players(players, count);
        for (uint32_t i = 0; i < count; i++) {
            result = players[i].result ? players[i].result : result;
            active += players[i].samples.total > 0;
        }
        merge_all(players, count, samples);
    }
    free(stored);
    free(players);
    return result ? result : active;
}

/* ---- one thread, with completions ---- */

struct turn {
    uint64_t start_ns;
    uint64_t samples;
    uint32_t slot;
    uint32_t missing;
};

struct table {
    struct pf_client *client;
    uint32_t bytes;
    uint8_t message[MESSAGE_BYTES_MAX];
};

static int ask(const struct table *table, const struct turn *turn) {
    int64_t op = pf_submit(table->client, turn->slot, PF_OP_RECV, 0, 0, 0, turn->missing, NULL,
                           PF_DELIVER_QUEUE);
    return op < 0 ? (int)op : 0;
}

static int serve(const struct table *table, struct turn *turn, uint64_t now) {
    turn->start_ns = now;
    turn->missing = table->bytes;
    int64_t op = pf_write(table->client, turn->slot, table->message, table->bytes, PF_DELIVER_NONE);
    return op < 0 ? (int)op : ask(table, turn);
}

/* 0, 1: the message is complete; or -errno. */
static int take_answer(struct table *table, struct turn *turn, const struct pf_done *done) {
    if (done->opcode != PF_OP_RECV || done->result <= 0) {
        return done->result < 0 ? done->result : -EPIPE;
    }
    int64_t got = pf_rx_read(table->client, turn->slot, table->message, turn->missing, 0);
    if (got < 0) {
        return (int)got;
    }
    turn->missing -= (uint32_t)got;
    return turn->missing ? ask(table, turn) : 1;
}

static int play(struct table *table, struct turn *turns, const uint32_t *turn_of_slot,
                uint32_t playing, uint64_t end_ns, struct pf_bench_samples *samples) {
    struct pf_done done;
    while (playing) {
        int got = pf_wait_any(table->client, STUCK_NS, &done);
        if (got != 1) {
            return got ? got : -ETIMEDOUT;
        }
        struct turn *turn = &turns[turn_of_slot[done.slot]];
        int result = take_answer(table, turn, &done);
        if (result == 1) {
            uint64_t now = pf_now_ns();
            pf_bench_add(samples, now - turn->start_ns);
            turn->samples++;
            if (now < end_ns) {
                result = serve(table, turn, now);
            } else {
                playing--;
            }
        }
        if (result < 0) {
            return result;
        }
    }
    return 0;
}

int pf_bench_sockets_single(struct pf_client *client, const uint32_t *slots, uint32_t count,
                            uint32_t bytes, uint64_t end_ns, struct pf_bench_samples *samples) {
    if (count == 0 || bytes == 0 || bytes > MESSAGE_BYTES_MAX) {
        return -EINVAL;
    }
    struct table table = {.client = client, .bytes = bytes, .message = "pifus"};
    struct turn *turns = calloc(count, sizeof(*turns));
    uint32_t *turn_of_slot = calloc(pf_client_max_sockets(client), sizeof(*turn_of_slot));
    int result = turns && turn_of_slot ? 0 : -ENOMEM;
    for (uint32_t i = 0; i < count && !result; i++) {
        turns[i].slot = slots[i];
        turn_of_slot[slots[i]] = i;
        result = serve(&table, &turns[i], pf_now_ns());
    }
    result = result ? result : play(&table, turns, turn_of_slot, count, end_ns, samples);
    int active = 0;
    for (uint32_t i = 0; i < count && !result; i++) {
        active += turns[i].samples > 0;
    }
    free(turn_of_slot);
    free(turns);
    return result ? result : active;
}

/* ---- the server ---- */

static int server_ask(struct pf_client *client, uint32_t slot) {
    int64_t op =
        pf_submit(client, slot, PF_OP_RECV, 0, 0, 0, MESSAGE_BYTES_MAX, NULL, PF_DELIVER_QUEUE);
    return op < 0 ? (int)op : 0;
}

/* At most one message per connection is under way: the arena has room once it was sized for it. */
static int server_echo(struct pf_client *client, uint32_t slot, uint8_t *buffer) {
    int64_t got = pf_rx_read(client, slot, buffer, MESSAGE_BYTES_MAX, 0);
    if (got <= 0) {
        return got == -EAGAIN ? server_ask(client, slot) : (int)got;
    }
    int64_t sent = pf_send(client, slot, buffer, (uint32_t)got, STUCK_NS);
    if (sent != got) {
        return sent < 0 ? (int)sent : -ENOBUFS;
    }
    return server_ask(client, slot);
}

static int server_accepted(struct pf_client *client, const struct pf_done *done) {
    if (done->result < 0) {
        return done->result;
    }
    int slot = pf_socket_adopt(client, done->token, PF_PRIORITY_MEDIUM);
    return slot < 0 ? slot : server_ask(client, (uint32_t)slot);
}

int pf_bench_echo_accept(struct pf_client *client, uint32_t listener) {
    int64_t op = pf_submit(client, listener, PF_OP_ACCEPT, PF_SQE_MULTISHOT, 0, 0, 0, NULL,
                           PF_DELIVER_QUEUE);
    return op < 0 ? (int)op : 0;
}

int pf_bench_echo_server(struct pf_client *client, uint32_t listener, uint32_t connections) {
    uint8_t buffer[MESSAGE_BYTES_MAX];
    struct pf_done done;
    for (uint32_t ended = 0; ended < connections;) {
        int result = pf_wait_any(client, STUCK_NS, &done);
        if (result != 1) {
            return result ? result : -ETIMEDOUT;
        }
        if (done.slot == listener) {
            result = server_accepted(client, &done);
        } else if (done.result > 0) {
            result = server_echo(client, done.slot, buffer);
        } else {
            result = pf_socket_release(client, done.slot, PF_CLOSE_GRACEFUL);
            ended++;
        }
        if (result < 0) {
            return result;
        }
    }
    return 0;
}
