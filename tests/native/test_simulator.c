/* Two ends of a connection over a bad wire, in virtual time, again and again: every byte arrives
 * once, in order and right, or the connection fails in time and says so; nothing is left behind.
 *
 * PF_TEST_SEED repeats a run, PF_SIMULATIONS sets how many there are. */
#include "wire_sim.h"

#include <errno.h>

#include "lwip/conn.h"
#include "lwip/prot/tcp.h"

#ifdef PIFUS_SANITIZE
enum { DEFAULT_RUNS = 300 };
#else
enum { DEFAULT_RUNS = 1500 };
#endif

enum { PATTERN_BYTES = 1 << 20, PORT = 7000 };
/* The SYNs, then retransmissions: lwIP gives up after minutes; a reader that pauses adds seconds.
 */
#define PATIENCE_NS (7200 * SECOND)
#define GRACE_NS (1800 * SECOND)
#define AFTERWARDS_NS (200 * SECOND) /* FINs of one that is closed, TIME_WAIT */

static uint8_t pattern[2][PATTERN_BYTES];

struct end {
    struct stk_conn *conn;
    const uint8_t *source; /* what it sends */
    const uint8_t *expected;
    uint32_t to_send;
    uint32_t written;
    uint32_t acknowledged;
    uint32_t to_receive;
    uint32_t received;
    uint32_t uncredited;
    uint64_t reads_ns; /* not before */
    uint32_t write_most;
    uint32_t read_most;
    bool fickle; /* changes its options as it goes */
    uint64_t ended_ns;
    bool waits; /* sends its FIN only when it has had the other's */
    bool holds; /* sends no FIN yet */
    bool connected;
    bool finished;
    bool ended; /* has read the end of the stream */
    bool failed;
    int error;
};

static struct end ends[2];
static struct stk_conn *listener;
static uint16_t listening_port;

static uint32_t whole;
static uint32_t broken;

static void on_connected(void *owner) { ((struct end *)owner)->connected = true; }
static void on_acceptable(void *owner) { CHECK(owner == (void *)&listener); }
static void on_readable(void *owner) { (void)owner; }
static void on_acknowledged(void *owner, uint32_t bytes) {
    struct end *end = owner;
    end->acknowledged += bytes;
    CHECK(end->acknowledged <= end->written);
}
static void on_failed(void *owner, int error) {
    struct end *end = owner;
    CHECK(!end->failed);
    end->failed = true;
    end->error = error;
}

static const struct stk_events events = {.connected = on_connected,
                                         .acceptable = on_acceptable,
                                         .readable = on_readable,
                                         .acknowledged = on_acknowledged,
                                         .failed = on_failed};

/* Any option that may change, to any value that may be. */
static void change_something(const struct end *end) {
    static const struct {
        uint32_t option;
        uint32_t values[4];
    } changes[] = {{PF_OPT_NODELAY, {0, 1, 1, 0}},
                   {PF_OPT_CORK, {0, 1, 0, 0}},
                   {PF_OPT_RCVBUF, {2048, 10000, 100000, 262144}},
                   {PF_OPT_MAXSEG, {PF_MAXSEG_MIN, 500, 1000, 1460}},
                   {PF_OPT_QUICKACK, {0, 1, 0, 1}}};
    uint32_t which = check_random(sizeof(changes) / sizeof(changes[0]));
    (void)stk_tcp_set_option(end->conn, changes[which].option,
                             changes[which].values[check_random(4)]);
}

static void put_bytes(struct end *end) {
    while (end->written < end->to_send && stk_tcp_unsent(end->conn) < 65536) {
        uint32_t left = end->to_send - end->written;
        uint32_t piece = 1 + check_random(left < end->write_most ? left : end->write_most);
        int64_t taken =
            stk_tcp_write(end->conn, end->source + end->written, piece, check_random(2));
        CHECK(taken >= 0);
        end->written += (uint32_t)taken;
        stk_tcp_push(end->conn);
        if (taken < piece) {
            return;
        }
        if (check_random(4) == 0) {
            break; /* more when the next packet has come */
        }
    }
    if (end->written == end->to_send && !end->finished && !end->holds &&
        (end->ended || !end->waits)) {
        end->finished = stk_tcp_finish(end->conn) == 0;
        stk_tcp_push(end->conn);
    }
}

static void take_bytes(struct end *end) {
    static uint8_t buffer[65536];
    if (wire.now_ns >= end->reads_ns) {
        uint32_t got = stk_tcp_read(end->conn, buffer, 1 + check_random(end->read_most));
        CHECK(got <= end->to_receive - end->received);
        CHECK(memcmp(buffer, end->expected + end->received, got) == 0);
        end->received += got;
        end->uncredited += got;
        if (check_random(50) == 0) {
            end->reads_ns = wire.now_ns + check_random(5000) * MS;
        }
    }
    if (end->uncredited && (check_random(4) || stk_tcp_unread(end->conn) == 0)) {
        uint32_t part = 1 + check_random(end->uncredited);
        stk_tcp_credit(end->conn, part);
        end->uncredited -= part;
    }
    if (stk_tcp_at_end(end->conn) && !end->ended && !end->error) {
        CHECK_EQ(end->received, end->to_receive);
        end->ended = true;
    }
}

/* Both directions are over and acknowledged, or it has failed and what came before was read. */
static bool over(const struct end *end) {
    if (end->failed && end->error) {
        return stk_tcp_unread(end->conn) == 0;
    }
    return end->ended && end->finished && end->acknowledged == end->to_send;
}

static void live(struct end *end) {
    if (!end->conn) {
        return;
    }
    if (end->connected && !end->failed) {
        put_bytes(end);
    }
    if (end->fickle && check_random(20) == 0) {
        change_something(end);
    }
    if (end->connected) {
        take_bytes(end);
    }
    if (over(end)) {
        stk_tcp_credit(end->conn, end->uncredited);
        stk_tcp_close(end->conn);
        end->conn = NULL;
        end->ended_ns = wire.now_ns;
    }
}

/* Who has nothing to send may never hear that the other has given up, if only to repeat its FIN:
 * its program would. */
static void give_up(struct end *end, const struct end *other) {
    if (end->conn && other->ended_ns && wire.now_ns - other->ended_ns > GRACE_NS &&
        stk_tcp_unread(end->conn) == 0) {
        stk_tcp_abort(end->conn);
        end->conn = NULL;
        end->error = ETIMEDOUT;
    }
}

static void some_habits(struct end *end) {
    static const uint32_t most[] = {20, 200, 3000, 65536};
    end->write_most = most[check_random(4)];
    end->read_most = most[check_random(4)];
    end->fickle = check_random(2);
}

static void begin(bool six) {
    listening_port = (uint16_t)(PORT + check_random(1000));
    struct pf_addr near = wire_addr(six, false, listening_port);
    struct pf_addr far = wire_addr(six, true, listening_port);
    int family = six ? PF_FAMILY_IPV6 : PF_FAMILY_IPV4;
    memset(ends, 0, sizeof(ends));
    for (int i = 0; i < 2; i++) {
        ends[i].source = pattern[i];
        ends[i].expected = pattern[1 - i];
        some_habits(&ends[i]);
        ends[i].waits = i == 0 && check_random(2);
    }
    for (int i = 0; i < 2; i++) {
        /* Little at a time takes long. */
        bool little = ends[i].write_most < 1000 || ends[1 - i].read_most < 1000;
        uint32_t most = check_random(3) == 0 ? 3000 : little ? 30000 : PATTERN_BYTES;
        ends[i].to_send = ends[1 - i].to_receive = check_random(most);
    }
    wire.delay_ns = (1 + check_random(50)) * MS / (check_random(2) ? 1 : 20);
    CHECK(stk_tcp_open(family, 1, (void *)&listener, &listener) == 0);
    CHECK(stk_tcp_bind(listener, &near) == 0);
    CHECK(stk_tcp_listen(listener, 4) == 0);
    CHECK(stk_tcp_open(family, 1, &ends[0], &ends[0].conn) == 0);
    CHECK(stk_tcp_connect(ends[0].conn, &far) == 0);
    stk_tcp_push(ends[0].conn);
}

static void accept_one(void) {
    struct stk_conn *conn = stk_tcp_accept(listener);
    if (conn) {
        CHECK(!ends[1].conn && !ends[1].connected);
        ends[1].conn = conn;
        ends[1].connected = true;
        ends[1].error = stk_tcp_error(conn);
        ends[1].failed = ends[1].error != 0;
        stk_tcp_set_owner(conn, &ends[1]);
    }
}

/* What of it the two may have seen: a wire this bad may keep a connection from getting anywhere. */
static bool excused(int error) {
    return wire.faults.loss + wire.faults.bit + wire.faults.cut >= 50000 &&
           (error == ETIMEDOUT || error == ECONNRESET);
}

static void turn(uint64_t until_ns) {
    wire_step(until_ns);
    accept_one();
    for (int i = 0; i < 2; i++) {
        live(&ends[i]);
        give_up(&ends[i], &ends[1 - i]);
    }
    CHECK(wire.now_ns < until_ns);
}

static void finish(void) {
    bool complete = true;
    for (int i = 0; i < 2; i++) {
        CHECK(!ends[i].error || excused(ends[i].error));
        complete &= ends[i].ended && ends[i].acknowledged == ends[i].to_send;
    }
    /* Nobody is told that all went well when it did not. */
    CHECK(complete || ends[0].error || ends[1].error);
    whole += complete;
    broken += !complete;
    stk_tcp_close(listener);
    for (uint64_t end_ns = wire.now_ns + AFTERWARDS_NS; wire.now_ns < end_ns;) {
        wire_step(end_ns);
        (void)stk_tcp_reset_some(100);
    }
    wire_check_empty();
}

static void simulate(bool six) {
    begin(six);
    uint64_t until_ns = wire.now_ns + PATIENCE_NS;
    while (ends[0].conn || ends[1].conn) {
        turn(until_ns);
    }
    finish();
}

/* While everything of the first end is under way, of the second only its FIN arrives. */
static bool lose_acknowledgements(const uint8_t *ip, uint16_t length) {
    const uint8_t *tcp = ip + 20;
    (void)length;
    return !ends[1].holds && ends[1].conn && !ends[1].conn->at_end && !(tcp[13] & TCP_FIN) &&
           (tcp[0] << 8 | tcp[1]) == listening_port;
}

/* How many bytes were under way when both closed at once. */
static uint32_t close_together(void) {
    begin(false);
    for (int i = 0; i < 2; i++) {
        ends[i].to_send = ends[1 - i].to_receive = i == 0 ? PATTERN_BYTES : 0;
        ends[i].waits = false;
        ends[i].write_most = ends[i].read_most = 65536;
        ends[i].fickle = false;
    }
    ends[1].holds = true;
    uint32_t under_way = 0;
    uint64_t until_ns = wire.now_ns + PATIENCE_NS;
    while (ends[0].conn || ends[1].conn) {
        turn(until_ns);
        if (ends[1].holds && ends[0].finished && !ends[0].conn->pcb->unsent) {
            ends[1].holds = false;
            under_way = PATTERN_BYTES - ends[0].acknowledged;
        }
    }
    finish();
    return under_way;
}

/* One acknowledgement is of more than lwIP tells of at a time. */
static void test_one_acknowledgement_of_everything(void) {
    wire.faults = (struct wire_faults){0};
    wire.lose = lose_acknowledgements;
    uint32_t most = 0;
    for (int i = 0; i < 20; i++) {
        uint32_t under_way = close_together();
        most = under_way > most ? under_way : most;
    }
    CHECK(most > 65535);
    wire.lose = NULL;
}

static struct wire_faults some_faults(void) {
    static const uint32_t most[] = {0, 0, 10000, 50000, 200000};
    struct wire_faults faults = {
        .loss = most[check_random(5)],
        .twice = most[check_random(4)],
        .late = most[check_random(5)],
        .bit = most[check_random(4)],
        .cut = most[check_random(3)],
    };
    return faults;
}

int main(void) {
    const char *runs = getenv("PF_SIMULATIONS");
    long count = runs ? strtol(runs, NULL, 10) : DEFAULT_RUNS;
    check_random_init();
    check_watchdog(250);
    for (int i = 0; i < 2; i++) {
        for (size_t at = 0; at < PATTERN_BYTES; at++) {
            pattern[i][at] = (uint8_t)check_random(256);
        }
    }
    wire_open(&events);
    RUN(test_one_acknowledgement_of_everything);
    for (long run = 0; run < count; run++) {
        wire.faults = some_faults();
        simulate(check_random(2));
    }
    printf("  %u whole, %u broken; %llu frames, %llu h of virtual time\n", whole, broken,
           (unsigned long long)wire.delivered, (unsigned long long)(wire.now_ns / SECOND / 3600));
    CHECK(whole >= 9 * broken);
    CHECK_EQ(wire.overrun, 0); /* nobody answers without end */
    stk_shutdown();
    return 0;
}
