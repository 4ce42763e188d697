/* native/lwip/pcb_index.c and the choice of ports: many connections, found without walks, and more
 * of them in a minute than there are ports. */
#include "backend/stack.h"

#include <errno.h>

#include "check.h"
#include "lwip/conn.h"
#include "lwip/priv/tcp_priv.h"

enum {
    SERVER = 5000,
    OTHER_SERVER = 5001,
    PORTS = 60999 - 32768 + 1,
    EVERYTHING = 1000000, /* lost */
};

static void on_owner(void *owner) { (void)owner; }
static void on_number(void *owner, uint32_t number) {
    (void)owner;
    (void)number;
}
static void on_failed(void *owner, int error) {
    (void)owner;
    (void)error;
}

static const struct stk_events events = {.connected = on_owner,
                                         .acceptable = on_owner,
                                         .readable = on_owner,
                                         .acknowledged = on_number,
                                         .failed = on_failed};
static int owner;

static struct pf_addr addr_of(uint16_t port) {
    return (struct pf_addr){.family = PF_FAMILY_IPV4, .port = port, .ip = {127, 0, 0, 1}};
}

/* Until nothing is under way any more. */
static void run(void) {
    for (bool any = true; any;) {
        any = false;
        while (stk_tcp_reset_some(STK_FRAMES_AT_ONCE)) {
        }
        (void)stk_collect_frames(STK_FRAMES_AT_ONCE);
        for (int p = 0; p < PF_PRIORITIES; p++) {
            for (; stk_frame_waiting(p); any = true) {
                stk_process_frame(p);
            }
        }
        any = any || stk_frames_pending();
    }
}

static struct stk_conn *open_conn(void) {
    struct stk_conn *conn;
    CHECK_EQ(stk_tcp_open(PF_FAMILY_IPV4, PF_PRIORITY_LOW, &owner, &conn), 0);
    return conn;
}

static struct stk_conn *listen_at(uint16_t port) {
    struct pf_addr addr = addr_of(port);
    struct stk_conn *listener = open_conn();
    CHECK_EQ(stk_tcp_bind(listener, &addr), 0);
    CHECK_EQ(stk_tcp_listen(listener, 4096), 0);
    return listener;
}

static int connect_to(struct stk_conn *conn, uint16_t port) {
    struct pf_addr addr = addr_of(port);
    return stk_tcp_connect(conn, &addr);
}

static void finish(struct stk_conn *conn) {
    CHECK_EQ(stk_tcp_finish(conn), 0);
    stk_tcp_push(conn);
    run();
}

/* The one that connected closes first, and waits in TIME_WAIT. */
static int short_connection(struct stk_conn *listener, uint16_t port) {
    struct stk_conn *near = open_conn();
    int result = connect_to(near, port);
    if (result == 0) {
        run();
        struct stk_conn *far = stk_tcp_accept(listener);
        CHECK(far);
        finish(near);
        finish(far);
        stk_tcp_close(far);
    }
    stk_tcp_close(near);
    return result;
}

static void time_wait_passes(void) {
    tcp_ticks += 2 * TCP_MSL / TCP_SLOW_INTERVAL + 2;
    tcp_slowtmr();
    CHECK(!tcp_tw_pcbs);
    CHECK(!tcp_pcb_index_oldest_tw());
}

/* Every pcb is where it belongs, and nothing else is. */
static void check_index(void) {
    uint32_t listed = 0;
    uint32_t chained = 0;
    uint32_t waiting = 0;
    for (int list = 0; list < NUM_TCP_PCB_LISTS; list++) {
        const struct tcp_pcb *before = NULL;
        for (struct tcp_pcb *pcb = *tcp_pcb_lists[list]; pcb; before = pcb, pcb = pcb->next) {
            const struct tcp_pcb *same = tcp_pcb_index_port(pcb->local_port);
            listed++;
            waiting += pcb->state == TIME_WAIT;
            CHECK(pcb->prev == before);
            while (same && same != pcb) {
                same = same->port_next;
            }
            CHECK(same);
            CHECK((tcp_pcb_index_listener(pcb->local_port) == pcb) == (pcb->state == LISTEN));
            if (pcb->state != LISTEN && pcb->state != CLOSED) {
                CHECK(tcp_pcb_index_find(&pcb->local_ip, pcb->local_port, &pcb->remote_ip,
                                         pcb->remote_port, NULL) == pcb);
            }
        }
        if (tcp_pcb_lists[list] == &tcp_tw_pcbs) {
            CHECK(before == tcp_pcb_index_oldest_tw());
        }
    }
    for (uint32_t port = 0; port < 65536; port++) {
        for (struct tcp_pcb *pcb = tcp_pcb_index_port((u16_t)port); pcb; pcb = pcb->port_next) {
            CHECK_EQ(pcb->local_port, port);
            chained++;
        }
    }
    CHECK_EQ(listed, chained);
    CHECK_EQ(waiting, tcp_pcb_index_tw_count());
}

/* Made and ended in any order, in any way. */
static void test_index_follows_the_lists(void) {
    enum { ENDS = 600, TURNS = 8000 };
    static struct stk_conn *near[ENDS];
    static struct stk_conn *far[ENDS];
    struct stk_conn *listener = listen_at(SERVER);
    for (int turn = 0; turn < TURNS; turn++) {
        uint32_t at = check_random(ENDS);
        if (!near[at]) {
            near[at] = open_conn();
            CHECK_EQ(connect_to(near[at], SERVER), 0);
            run();
            far[at] = stk_tcp_accept(listener);
            CHECK(far[at]);
        } else {
            bool near_first = check_random(2);
            struct stk_conn *first = near_first ? near[at] : far[at];
            struct stk_conn *second = near_first ? far[at] : near[at];
            near[at] = NULL;
            if (check_random(4) == 0) {
                stk_tcp_abort(first);
                run();
            } else {
                finish(first);
                finish(second);
                stk_tcp_close(first);
            }
            stk_tcp_close(second);
        }
        if (turn % 400 == 0) {
            tcp_ticks += TCP_MSL / TCP_SLOW_INTERVAL;
            tcp_slowtmr();
            check_index();
        }
    }
    for (int at = 0; at < ENDS; at++) {
        if (near[at]) {
            stk_tcp_abort(near[at]);
            run();
            stk_tcp_close(far[at]);
        }
    }
    time_wait_passes();
    stk_tcp_close(listener);
    check_index();
    CHECK(!tcp_active_pcbs);
    CHECK(!tcp_bound_pcbs);
}

/* TIME_WAIT ends for each when its own time is up. */
static void test_time_wait_ends_in_order(void) {
    struct stk_conn *listener = listen_at(SERVER);
    CHECK_EQ(short_connection(listener, SERVER), 0);
    struct tcp_pcb *first = tcp_tw_pcbs;
    tcp_ticks += TCP_MSL / TCP_SLOW_INTERVAL;
    CHECK_EQ(short_connection(listener, SERVER), 0);
    CHECK(tcp_pcb_index_oldest_tw() == first);
    CHECK(tcp_tw_pcbs != first);
    tcp_ticks += TCP_MSL / TCP_SLOW_INTERVAL + 1;
    tcp_slowtmr();
    CHECK(tcp_tw_pcbs && !tcp_tw_pcbs->next);
    CHECK(tcp_pcb_index_oldest_tw() == tcp_tw_pcbs);
    time_wait_passes();
    stk_tcp_close(listener);
}

/* The peer's FIN came again, because our acknowledgement was lost: TIME_WAIT starts anew, and the
 * list stays in the order of the ends. */
static void test_time_wait_starts_anew(void) {
    struct stk_conn *listener = listen_at(SERVER);
    struct stk_conn *near = open_conn();
    CHECK_EQ(connect_to(near, SERVER), 0);
    run();
    struct stk_conn *far = stk_tcp_accept(listener);
    finish(near);
    CHECK_EQ(stk_tcp_finish(far), 0);
    stk_tcp_push(far);
    (void)stk_collect_frames(STK_FRAMES_AT_ONCE);
    stk_process_frame(PF_PRIORITY_LOW); /* its FIN */
    const struct tcp_pcb *first = tcp_tw_pcbs;
    CHECK(first);
    stk_inject_loss(EVERYTHING, 1); /* our acknowledgement */
    run();
    stk_inject_loss(0, 1);
    CHECK_EQ(short_connection(listener, SERVER), 0);
    CHECK(tcp_pcb_index_oldest_tw() == first);
    const struct tcp_pcb *second = tcp_tw_pcbs;
    while (!stk_tcp_gone(far)) {
        CHECK(tcp_pcb_index_oldest_tw() == first);
        tcp_slowtmr();
        run();
    }
    CHECK(tcp_pcb_index_oldest_tw() == second);
    CHECK(tcp_tw_pcbs == first);
    check_index();
    stk_tcp_close(near);
    stk_tcp_close(far);
    time_wait_passes();
    stk_tcp_close(listener);
}

/* One client and one server: more connections than ports, within one TIME_WAIT. */
static void test_more_connections_than_ports(void) {
    enum { CONNECTIONS = 40000 };
    struct stk_conn *listener = listen_at(SERVER);
    uint32_t start = tcp_ticks;
    for (int i = 0; i < CONNECTIONS; i++) {
        CHECK_EQ(short_connection(listener, SERVER), 0);
        if (i % 1000 == 999) { /* a thousand in a second */
            tcp_ticks += 1000 / TCP_SLOW_INTERVAL;
        }
    }
    CHECK(tcp_ticks - start < 2 * TCP_MSL / TCP_SLOW_INTERVAL);
    check_index();
    time_wait_passes();
    stk_tcp_close(listener);
}

/* Every port has a connection to one peer: none is left for another one to it, but to any other
 * peer there are as many again. No port of a listener is ever taken. */
static void test_ports_are_shared_between_peers(void) {
    struct stk_conn *listener = listen_at(SERVER);
    struct stk_conn *other = listen_at(OTHER_SERVER);
    struct stk_conn *among = listen_at(40000);
#ifdef PIFUS_SANITIZE /* only there the pcbs come from malloc, and are enough */
    for (int i = 0; i < PORTS - 1; i++) {
        CHECK_EQ(short_connection(listener, SERVER), 0);
    }
    CHECK_EQ(short_connection(listener, SERVER), -EADDRNOTAVAIL);
#endif
    for (int i = 0; i < 1000; i++) {
        CHECK_EQ(short_connection(other, OTHER_SERVER), 0);
        CHECK(tcp_tw_pcbs->local_port != 40000);
    }
    time_wait_passes();
    stk_tcp_close(listener);
    stk_tcp_close(other);
    stk_tcp_close(among);
}

/* Another connection of the same 4-tuple, also from a socket that chose its port. */
static void test_four_tuples_are_unique(void) {
    struct stk_conn *listener = listen_at(SERVER);
    struct pf_addr from = addr_of(6000);
    struct stk_conn *conns[2];
    for (int i = 0; i < 2; i++) {
        conns[i] = open_conn();
        CHECK_EQ(stk_tcp_set_option(conns[i], PF_OPT_REUSEADDR, 1), 0);
        CHECK_EQ(stk_tcp_bind(conns[i], &from), 0);
    }
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(stk_tcp_set_option(conns[i], PF_OPT_REUSEADDR, 0), 0);
    }
    CHECK_EQ(connect_to(conns[0], SERVER), 0);
    CHECK(connect_to(conns[1], SERVER) < 0);
    run();
    check_index();
    stk_tcp_abort(conns[0]);
    run();
    stk_tcp_close(conns[1]);
    stk_tcp_close(listener);
}

/* A server that accepts nothing, and clients without end: others still get their connections. */
static void test_floods_leave_room(void) {
    enum { CLIENTS = 4000, OTHERS = 100 };
    static struct stk_conn *clients[CLIENTS + OTHERS];
    struct stk_conn *flooded = listen_at(SERVER);
    struct stk_conn *other = listen_at(OTHER_SERVER);
    for (int i = 0; i < CLIENTS + OTHERS; i++) {
        clients[i] = open_conn();
        CHECK_EQ(connect_to(clients[i], i < CLIENTS ? SERVER : OTHER_SERVER), 0);
        run();
    }
    CHECK_EQ(pf_tcp_unaccepted_count(), PF_UNACCEPTED_MAX / 2 + PF_UNACCEPTED_SHARE);
    for (uint32_t i = 0; i < PF_UNACCEPTED_SHARE; i++) {
        struct stk_conn *far = stk_tcp_accept(other);
        CHECK(far);
        if (i % 2) {
            stk_tcp_abort(far);
        } else {
            stk_tcp_unaccept(other, far);
        }
    }
    CHECK_EQ(pf_tcp_unaccepted_count(), PF_UNACCEPTED_MAX / 2 + PF_UNACCEPTED_SHARE / 2);
    /* They are reset a few at a time; somebody else may have the address before. */
    uint32_t left = pf_tcp_unaccepted_count();
    stk_tcp_close(flooded);
    stk_tcp_close(other);
    CHECK_EQ(pf_tcp_unaccepted_count(), left);
    stk_tcp_close(listen_at(SERVER));
    for (bool more = true; more;) {
        more = stk_tcp_reset_some(4);
        CHECK(left - pf_tcp_unaccepted_count() <= 4);
        left = pf_tcp_unaccepted_count();
    }
    CHECK_EQ(left, 0);
    for (int i = 0; i < CLIENTS + OTHERS; i++) {
        stk_tcp_abort(clients[i]);
    }
    run();
    check_index();
}

/* Both ends close, and nobody acknowledges their FINs. */
static void close_unheard(struct stk_conn *near, struct stk_conn *far, bool crossing) {
    if (crossing) { /* each FIN arrives: lwIP has the two to itself, in CLOSING */
        CHECK_EQ(stk_tcp_finish(near), 0);
        CHECK_EQ(stk_tcp_finish(far), 0);
        stk_tcp_push(near);
        stk_tcp_push(far);
        (void)stk_collect_frames(STK_FRAMES_AT_ONCE);
    }
    stk_inject_loss(EVERYTHING, 1);
    run();
    stk_tcp_close(near);
    stk_tcp_close(far);
    run();
    stk_inject_loss(0, 1);
}

/* As many as there are pcbs close, and nobody acknowledges their FINs: others still connect, and
 * the connections that have an owner stay. */
static void closed_ones_make_room(bool crossing) {
    enum { CLOSED = MEMP_NUM_TCP_PCB / 2, OTHERS = 100 };
    struct stk_conn *listener = listen_at(SERVER);
    struct stk_conn *kept[2];
    struct stk_conn *others[2 * OTHERS];
    kept[0] = open_conn();
    CHECK_EQ(connect_to(kept[0], SERVER), 0);
    run();
    kept[1] = stk_tcp_accept(listener);
    for (int i = 0; i < CLOSED; i++) {
        struct stk_conn *near = open_conn();
        CHECK_EQ(connect_to(near, SERVER), 0);
        run();
        struct stk_conn *far = stk_tcp_accept(listener);
        CHECK(far);
        stk_tcp_set_owner(far, &owner);
        close_unheard(near, far, crossing);
    }
    for (int i = 0; i < 2 * OTHERS; i += 2) {
        others[i] = open_conn();
        CHECK_EQ(connect_to(others[i], SERVER), 0);
        run();
        others[i + 1] = stk_tcp_accept(listener);
        CHECK(others[i + 1]);
        CHECK(lwip_stats.memp[MEMP_TCP_PCB]->used <= MEMP_NUM_TCP_PCB);
    }
    for (int i = 0; i < 2; i++) {
        CHECK(!stk_tcp_gone(kept[i]));
        stk_tcp_abort(kept[i]);
    }
    for (int i = 0; i < 2 * OTHERS; i++) {
        stk_tcp_abort(others[i]);
    }
    run();
    while (tcp_active_pcbs) {
        tcp_abort(tcp_active_pcbs);
    }
    run();
    check_index();
    stk_tcp_close(listener);
}

static void test_closed_ones_make_room(void) { closed_ones_make_room(false); }

static void test_closing_ones_make_room(void) { closed_ones_make_room(true); }

/* Who looks for a place in a full stack, as each SYN of a flood does, walks over no connection: not
 * even where the list of them cannot be seen. The first that was left goes first. */
static void test_no_walk_for_room(void) {
    enum { LEFT = 3 };
    struct stk_conn *listener = listen_at(SERVER);
    struct tcp_pcb *left[LEFT];
    for (int i = 0; i < LEFT; i++) {
        struct stk_conn *near = open_conn();
        CHECK_EQ(connect_to(near, SERVER), 0);
        run();
        struct stk_conn *far = stk_tcp_accept(listener);
        left[i] = near->pcb;
        stk_tcp_set_owner(far, &owner);
        stk_inject_loss(EVERYTHING, 1);
        stk_tcp_close(near);
        run();
        stk_tcp_abort(far);
        run();
        stk_inject_loss(0, 1);
    }
    struct stk_conn *near = open_conn(); /* the first of the list */
    CHECK_EQ(connect_to(near, SERVER), 0);
    mem_size_t *used = &lwip_stats.memp[MEMP_TCP_PCB]->used;
    mem_size_t before = *used;
    struct tcp_pcb *all = tcp_active_pcbs;
    CHECK(all == near->pcb);
    for (int i = 0; i <= LEFT; i++) {
        tcp_active_pcbs = NULL;
        *used = MEMP_NUM_TCP_PCB;
        CHECK_EQ(pf_tcp_make_room(), i < LEFT);
        CHECK_EQ(*used, MEMP_NUM_TCP_PCB - (i < LEFT));
        *used = before - (mem_size_t)LWIP_MIN(i + 1, LEFT);
        tcp_active_pcbs = all;
        for (int j = 0; j < LEFT; j++) {
            const struct tcp_pcb *pcb = all;
            while (pcb && pcb != left[j]) {
                pcb = pcb->next;
            }
            CHECK_EQ(pcb == NULL, j <= i);
        }
    }
    run();
    stk_tcp_abort(near);
    stk_tcp_close(listener);
    run();
    check_index();
}

int main(void) {
    char error[200];
    check_random_init();
    check_watchdog(120);
    CHECK_EQ(stk_init(&events), 0);
    CHECK_EQ(stk_add_loopback(error, sizeof(error)), 0);
    RUN(test_index_follows_the_lists);
    RUN(test_time_wait_ends_in_order);
    RUN(test_time_wait_starts_anew);
    RUN(test_more_connections_than_ports);
    RUN(test_ports_are_shared_between_peers);
    RUN(test_four_tuples_are_unique);
    RUN(test_floods_leave_room);
    RUN(test_closed_ones_make_room);
    RUN(test_closing_ones_make_room);
    RUN(test_no_walk_for_room);
    stk_shutdown();
    return 0;
}
