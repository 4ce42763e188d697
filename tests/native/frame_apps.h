/* Endpoints of every kind, and what programs could do with them between two packets. */
#ifndef PF_TESTS_FRAME_APPS_H
#define PF_TESTS_FRAME_APPS_H

#include "wire_sim.h"

#include <errno.h>

#include "lwip/conn.h"
#include "lwip/datagram.h"

enum { CONNS = 8, LISTENERS = 2, DGRAMS = 8, PIECES = 32, PORT = 7000, UDP_PORT = 7100 };

/* Bytes that lwIP refers to until it says that it does not: freed at once, so that ASan sees any
 * later look. */
struct piece {
    uint8_t *data;
    uint32_t length;
};

struct app {
    struct stk_conn *conn;
    struct piece pieces[PIECES];
    uint32_t first;
    uint32_t count;
    uint32_t done; /* bytes of the first piece that are acknowledged */
    uint32_t uncredited;
    bool failed;
};

static struct app apps[CONNS];
static struct stk_conn *listeners[LISTENERS];
static struct stk_dgram *dgrams[DGRAMS];
static struct stk_account *account;
static bool in_program; /* the stack never calls up from within a call down */
static struct {
    uint64_t connected;
    uint64_t accepted;
    uint64_t acknowledged;
    uint64_t received;
    uint64_t failed;
    uint64_t ended;
    uint64_t datagrams;
    uint64_t datagrams_failed;
} seen;

/* ---- events ---- */

static void drop_piece(struct app *app) {
    free(app->pieces[app->first].data);
    app->first = (app->first + 1) % PIECES;
    app->count--;
    app->done = 0;
}

static void drop_pieces(struct app *app) {
    while (app->count) {
        drop_piece(app);
    }
}

static void on_connected(void *owner) {
    CHECK(!in_program && owner != NULL);
    seen.connected++;
}

static void on_acceptable(void *owner) { CHECK(!in_program && owner == listeners); }

static void on_readable(void *owner) { CHECK(!in_program && owner != NULL); }

static void on_acknowledged(void *owner, uint32_t bytes) {
    struct app *app = owner;
    CHECK(!in_program);
    seen.acknowledged += bytes;
    while (bytes > 0) {
        CHECK(app->count > 0);
        uint32_t left = app->pieces[app->first].length - app->done;
        uint32_t part = bytes < left ? bytes : left;
        app->done += part;
        bytes -= part;
        if (part == left) {
            drop_piece(app);
        }
    }
}

static void on_failed(void *owner, int error) {
    struct app *app = owner;
    CHECK(!in_program && !app->failed && error >= 0);
    app->failed = true;
    drop_pieces(app);
    seen.failed++;
}

static void on_datagram(void *owner, const struct stk_packet *packet) {
    CHECK(!in_program && owner == dgrams);
    CHECK(packet->header.length <= 65535);
    uint8_t *copy = malloc(packet->header.length + 1U);
    CHECK(copy != NULL);
    stk_packet_copy(packet, 0, copy, packet->header.length);
    free(copy);
    seen.datagrams++;
}

static void on_datagram_failed(void *owner, int error) {
    CHECK(!in_program && owner == dgrams && error > 0);
    seen.datagrams_failed++;
}

static const struct stk_events events = {.connected = on_connected,
                                         .acceptable = on_acceptable,
                                         .readable = on_readable,
                                         .acknowledged = on_acknowledged,
                                         .failed = on_failed,
                                         .datagram = on_datagram,
                                         .datagram_failed = on_datagram_failed};

/* ---- TCP ---- */

static struct pf_addr some_peer(bool six, uint16_t port) {
    struct pf_addr addr = wire_addr(six, true, port);
    if (check_random(4) == 0) {
        addr.ip[1] = 2; /* on the Ethernet */
    }
    return addr;
}

static void set_some_option(struct stk_conn *conn) {
    static const uint32_t options[] = {
        PF_OPT_NODELAY,      PF_OPT_KEEPALIVE, PF_OPT_KEEPIDLE, PF_OPT_KEEPINTVL,   PF_OPT_KEEPCNT,
        PF_OPT_PRIORITY,     PF_OPT_TOS,       PF_OPT_TTL,      PF_OPT_RCVBUF,      PF_OPT_MAXSEG,
        PF_OPT_USER_TIMEOUT, PF_OPT_QUICKACK,  PF_OPT_SYNCNT,   PF_OPT_DEFER_ACCEPT};
    uint32_t option = options[check_random(sizeof(options) / sizeof(options[0]))];
    uint64_t value = check_random(2);
    if (option == PF_OPT_RCVBUF || option == PF_OPT_MAXSEG || option == PF_OPT_USER_TIMEOUT) {
        value = check_random(2) ? check_random(300000) : check_random(2000);
    } else if (option == PF_OPT_PRIORITY) {
        value = check_random(PF_PRIORITIES);
    } else if (option != PF_OPT_NODELAY && option != PF_OPT_KEEPALIVE) {
        value = check_random(8);
    }
    (void)stk_tcp_set_option(conn, option, value);
}

static void open_listener(int which) {
    struct pf_addr addr = {.family = which ? PF_FAMILY_IPV6 : PF_FAMILY_IPV4,
                           .port = (uint16_t)(PORT + which)};
    struct stk_conn **listener = &listeners[which];
    CHECK(stk_tcp_open(addr.family, 1, listeners, listener) == 0);
    (void)stk_tcp_set_option(*listener, PF_OPT_REUSEADDR, 1);
    if (check_random(2)) {
        stk_tcp_set_account(*listener, account);
    }
    int result = stk_tcp_bind(*listener, &addr);
    result = result ? result : stk_tcp_listen(*listener, 1 + check_random(6));
    if (result != 0) {
        CHECK_EQ(result, -EADDRINUSE);
        stk_tcp_close(*listener);
        *listener = NULL;
    } else if (check_random(4) == 0) {
        (void)stk_tcp_set_option(*listener, PF_OPT_DEFER_ACCEPT, 1 + check_random(3));
    }
}

static void close_listener(int which) {
    if (listeners[which]) {
        stk_tcp_close(listeners[which]);
        listeners[which] = NULL;
    }
}

static void open_conn(struct app *app) {
    uint32_t which = check_random(2);
    bool six = check_random(2);
    struct pf_addr addr = some_peer(six, (uint16_t)(PORT + (six ? 1 : which)));
    memset(app, 0, sizeof(*app));
    CHECK(stk_tcp_open(addr.family, 1, app, &app->conn) == 0);
    if (check_random(2)) {
        stk_tcp_set_account(app->conn, account);
    }
    for (uint32_t i = check_random(3); i > 0; i--) {
        set_some_option(app->conn);
    }
    if (stk_tcp_connect(app->conn, &addr) != 0) {
        stk_tcp_close(app->conn);
        app->conn = NULL;
        return;
    }
    stk_tcp_push(app->conn);
}

static void accept_conn(struct app *app) {
    struct stk_conn *listener = listeners[check_random(LISTENERS)];
    struct stk_conn *conn = listener ? stk_tcp_accept(listener) : NULL;
    if (!conn) {
        return;
    }
    if (check_random(8) == 0) {
        stk_tcp_unaccept(listener, conn);
    } else if (check_random(16) == 0) {
        stk_tcp_abort_later(conn);
    } else {
        memset(app, 0, sizeof(*app));
        app->conn = conn;
        app->failed = stk_tcp_error(conn) != 0;
        stk_tcp_set_owner(conn, app);
        seen.accepted++;
    }
}

static void write_some(struct app *app) {
    static const uint32_t most[] = {10, 100, 1460, 5000, 65000, 200000};
    if (app->count == PIECES || app->failed) {
        return;
    }
    struct piece *piece = &app->pieces[(app->first + app->count) % PIECES];
    uint32_t length = 1 + check_random(most[check_random(6)]);
    piece->data = malloc(length);
    CHECK(piece->data != NULL);
    memset(piece->data, (int)check_random(256), length);
    int64_t taken = stk_tcp_write(app->conn, piece->data, length, check_random(2));
    CHECK(taken <= (int64_t)length);
    if (taken <= 0) {
        free(piece->data);
        return;
    }
    piece->length = (uint32_t)taken;
    app->count++;
    if (check_random(16) == 0) {
        stk_tcp_urgent(app->conn);
    }
    if (check_random(8)) {
        stk_tcp_push(app->conn);
    }
}

static void read_some(struct app *app) {
    static uint8_t buffer[65536];
    uint32_t limit = 1 + check_random(check_random(2) ? 2000 : sizeof(buffer));
    uint32_t before = stk_tcp_unread(app->conn);
    uint32_t got = stk_tcp_read(app->conn, buffer, limit);
    CHECK_EQ(got, limit < before ? limit : before);
    seen.received += got;
    if (got && check_random(16) == 0) {
        uint32_t back = 1 + check_random(got);
        CHECK(stk_tcp_unread_back(app->conn, buffer + got - back, back) == 0);
        got -= back;
    }
    app->uncredited += got;
    seen.ended += stk_tcp_at_end(app->conn);
}

static void credit_some(struct app *app) {
    uint32_t part = check_random(2) ? app->uncredited : check_random(app->uncredited + 1);
    stk_tcp_credit(app->conn, part);
    app->uncredited -= part;
}

/* In good order only if nothing is referenced any more. */
static void end_conn(struct app *app, bool orderly) {
    if (orderly && !app->failed && (app->count || !stk_tcp_drained(app->conn))) {
        return;
    }
    if (orderly) {
        if (check_random(2)) {
            credit_some(app);
        }
        stk_tcp_close(app->conn);
    } else {
        stk_tcp_abort(app->conn);
    }
    drop_pieces(app);
    app->conn = NULL;
}

static void use_conn(struct app *app) {
    struct pf_tcp_info info;
    struct pf_addr names[2];
    uint32_t what = check_random(100);
    if (!app->conn) {
        if (check_random(2)) {
            open_conn(app);
        } else {
            accept_conn(app);
        }
    } else if (what < 35) {
        write_some(app);
    } else if (what < 60) {
        read_some(app);
    } else if (what < 80) {
        credit_some(app);
    } else if (what < 83) {
        if (stk_tcp_finish(app->conn) == 0) {
            stk_tcp_push(app->conn);
        }
    } else if (what < 90) {
        set_some_option(app->conn);
    } else if (what < 94) {
        stk_tcp_info(app->conn, &info);
        CHECK(info.notsent_bytes <= TCP_SND_BUF && stk_tcp_unsent(app->conn) <= TCP_SND_BUF);
        stk_tcp_names(app->conn, &names[0], &names[1]);
        (void)stk_tcp_window(app->conn);
        (void)stk_tcp_segment(app->conn);
    } else if (app->failed || stk_tcp_gone(app->conn) || what < 98) {
        end_conn(app, true);
    } else if (what == 98 && check_random(2)) {
        end_conn(app, false);
    }
}

/* ---- datagrams ---- */

static void open_dgram(struct stk_dgram **dgram) {
    int family = check_random(2) ? PF_FAMILY_IPV6 : PF_FAMILY_IPV4;
    struct pf_addr addr = {.family = (uint16_t)family, .port = (uint16_t)check_random(4)};
    uint32_t kind = check_random(6);
    addr.port += kind == 1 ? 7200 : UDP_PORT;
    if (kind == 0) {
        CHECK(stk_raw_open(family, 1, 1, dgrams, dgram) == 0);
    } else if (kind == 1) {
        CHECK(stk_ping_open(family, 1, 1, dgrams, dgram) == 0);
        (void)stk_udp_bind(*dgram, &addr);
    } else {
        CHECK(stk_udp_open(family, check_random(PF_PRIORITIES), 1, dgrams, dgram) == 0);
        (void)stk_udp_set_option(*dgram, PF_OPT_REUSEADDR, check_random(4) > 0);
        (void)stk_udp_set_option(*dgram, PF_OPT_REUSEPORT, check_random(2));
        (void)stk_udp_set_option(*dgram, PF_OPT_V6ONLY, check_random(2));
        (void)stk_udp_set_option(*dgram, PF_OPT_BROADCAST, check_random(2));
        (void)stk_udp_bind(*dgram, &addr);
    }
}

static void join_or_leave(struct stk_dgram *dgram) {
    bool six = dgram->family == PF_FAMILY_IPV6;
    uint8_t link[4] = {10, (uint8_t)(1 + check_random(2)), 0, 1};
    struct pf_addr group = {.family = six ? PF_FAMILY_IPV6 : PF_FAMILY_IPV4};
    if (six) {
        group.ip[0] = 0xff;
        group.ip[1] = 0x15;
        group.ip[15] = (uint8_t)(9 + check_random(2));
    } else {
        group.ip[0] = 239;
        group.ip[1] = group.ip[2] = 1;
        group.ip[3] = (uint8_t)(1 + check_random(2));
    }
    (void)stk_udp_group(dgram, check_random(2), &group, 0, link);
}

static void send_some(struct stk_dgram *dgram) {
    struct pf_addr to =
        some_peer(dgram->family == PF_FAMILY_IPV6, (uint16_t)(UDP_PORT + check_random(6)));
    uint32_t length = check_random(8) ? check_random(3000) : check_random(66000);
    uint8_t *data = calloc(1, length + 8);
    CHECK(data != NULL);
    if (dgram->kind != PF_DGRAM_UDP) {
        data[0] = dgram->family == PF_FAMILY_IPV6 ? 128 : 8;
        to.port = 0;
    }
    uint64_t how = check_random(4) ? 0 : 1 + check_random(200);
    (void)stk_udp_send(dgram, check_random(4) ? &to : NULL, data, length, how);
    free(data);
}

static void use_dgram(struct stk_dgram **dgram) {
    struct pf_addr names[2];
    if (!*dgram) {
        open_dgram(dgram);
        return;
    }
    names[0] =
        some_peer((*dgram)->family == PF_FAMILY_IPV6, (uint16_t)(UDP_PORT + check_random(4)));
    switch (check_random(16)) {
    case 0:
        (void)stk_udp_connect(*dgram, &names[0]);
        break;
    case 1:
        (void)stk_udp_disconnect(*dgram);
        break;
    case 2:
        join_or_leave(*dgram);
        break;
    case 3:
        (void)stk_udp_set_option(*dgram, PF_OPT_TTL + check_random(8), check_random(256));
        break;
    case 4:
        stk_udp_names(*dgram, &names[0], &names[1]);
        break;
    case 5:
        stk_udp_close(*dgram);
        *dgram = NULL;
        break;
    default:
        send_some(*dgram);
    }
}

/* ---- all of them ---- */

static void use_something(void) {
    uint32_t which = check_random(64);
    in_program = true;
    if (which == 0) {
        close_listener((int)check_random(LISTENERS));
    } else if (which < 4) {
        which = check_random(LISTENERS);
        if (!listeners[which]) {
            open_listener((int)which);
        } else if (check_random(8) == 0) {
            (void)stk_tcp_listen(listeners[which], 1 + check_random(8));
        } else {
            set_some_option(listeners[which]);
        }
    } else if (which < 56) {
        use_conn(&apps[check_random(CONNS)]);
    } else {
        use_dgram(&dgrams[check_random(DGRAMS)]);
    }
    in_program = false;
}

static void open_all(void) {
    account = stk_account_new(1000);
    CHECK(account != NULL);
    for (int i = 0; i < LISTENERS; i++) {
        open_listener(i);
    }
}

static void close_all(void) {
    in_program = true;
    for (int i = 0; i < CONNS; i++) {
        if (apps[i].conn) {
            end_conn(&apps[i], true);
        }
        if (apps[i].conn) {
            end_conn(&apps[i], false);
        }
    }
    for (int i = 0; i < LISTENERS; i++) {
        close_listener(i);
    }
    for (int i = 0; i < DGRAMS; i++) {
        if (dgrams[i]) {
            stk_udp_close(dgrams[i]);
            dgrams[i] = NULL;
        }
    }
    stk_account_free(account);
    in_program = false;
}

#endif
