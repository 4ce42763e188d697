/* Sockets that move at random between sessions that come and go, while bytes flow both ways; every
 * byte is checked, and in the end everything is given back. PF_TEST_SEED repeats the choices. */
#define _GNU_SOURCE
#include "identity_rig.h"

enum { SESSIONS = 4, STREAMS = 5, STEPS = 4000, NOBODY = -1, PIECE = 20000 };

/* One end stays in `one`, the other one wanders. */
struct stream {
    uint32_t far;
    int fd;
    int owner; /* index of a session, NOBODY: an orphan or with one that does not know */
    uint32_t slots[SESSIONS];
    bool has[SESSIONS]; /* a slot, which may be out of date */
    uint64_t to_near;   /* bytes sent, and received, by the end */
    uint64_t at_near;
    uint64_t to_far;
    uint64_t at_far;
};

static struct rig_client wanderers[SESSIONS];
static struct stream streams[STREAMS];
static uint64_t claims;
static uint64_t stales;

static void open_stream(struct stream *s) {
    int owner = (int)check_random(SESSIONS);
    struct rig_pair p = rig_connect(wanderers[owner].client, one.client, rig_addr(++port),
                                    check_random(2) ? 4096 : 0);
    *s = (struct stream){.far = p.far, .owner = owner};
    s->slots[owner] = p.near;
    s->has[owner] = true;
    s->fd = mirror_of(&wanderers[owner], p.near);
}

static void claim_for(struct stream *s, int who) {
    int slot;
    do {
        slot = try_claim(&wanderers[who], ticket_of(wanderers[who].session, s->fd), s->fd);
        /* Until the backend has heard that this session let go of another slot. */
    } while (slot == -EAGAIN || slot == -EMFILE || (slot == -EALREADY && s->owner == NOBODY));
    if (slot == -EALREADY) {
        CHECK_EQ(s->owner, who);
        return;
    }
    CHECK_EQ(slot < 0 ? slot : 0, 0);
    if (s->has[who]) {
        let_go(&wanderers[who], s->slots[who]);
    }
    s->slots[who] = (uint32_t)slot;
    s->has[who] = true;
    s->owner = who;
    claims++;
}

/* A session that does not have the socket any more finds out, whatever it does. */
static bool have(struct stream *s, int who, int64_t result) {
    if (result != -ESTALE) {
        CHECK_EQ(s->owner, who);
        return true;
    }
    CHECK(s->owner != who);
    stales++;
    claim_for(s, who);
    return false;
}

static void near_reads(struct stream *s, int who) {
    static uint8_t data[PIECE];
    if (!s->has[who]) {
        claim_for(s, who);
    }
    int64_t got = pf_recv(wanderers[who].client, s->slots[who], data, 1 + check_random(PIECE), 0,
                          s->at_near < s->to_near && s->owner == who ? RIG_PATIENCE : 0);
    if (have(s, who, got) && got != -EAGAIN) {
        CHECK(got > 0);
        CHECK(!rig_differs(data, 1, s->at_near, (uint32_t)got));
        s->at_near += (uint64_t)got;
    }
}

static void near_writes(struct stream *s, int who) {
    static uint8_t data[PIECE];
    uint32_t length = 1 + check_random(PIECE);
    if (!s->has[who]) {
        claim_for(s, who);
    }
    rig_fill(data, 2, s->to_far, length);
    int64_t sent = pf_send(wanderers[who].client, s->slots[who], data, length, 0);
    if (have(s, who, sent) && sent != -EAGAIN) {
        CHECK(sent > 0);
        s->to_far += (uint64_t)sent;
    }
}

static void far_writes(struct stream *s) {
    static uint8_t data[PIECE];
    uint32_t length = 1 + check_random(PIECE);
    rig_fill(data, 1, s->to_near, length);
    int64_t sent = pf_send(one.client, s->far, data, length, 0);
    CHECK(sent > 0 || sent == -EAGAIN);
    s->to_near += sent > 0 ? (uint64_t)sent : 0;
}

static void far_reads(struct stream *s, int64_t patience) {
    static uint8_t data[PIECE];
    int64_t got = pf_recv(one.client, s->far, data, sizeof(data), 0, patience);
    if (got != -EAGAIN) {
        CHECK(got > 0);
        CHECK(!rig_differs(data, 2, s->at_far, (uint32_t)got));
        s->at_far += (uint64_t)got;
    }
}

/* It ends, in good order or, when it has nothing of its own, for a violation. */
static void end_session(int who) {
    bool owns = false;
    for (int i = 0; i < STREAMS; i++) {
        /* Of a stream that nobody has, the backend may not have heard yet that this one let go. */
        owns |= streams[i].owner == who || streams[i].owner == NOBODY;
        streams[i].has[who] = false;
        streams[i].owner = streams[i].owner == who ? NOBODY : streams[i].owner;
    }
    rig_detach(&rig, &wanderers[who],
               owns || check_random(2) ? PF_ENDED_CLOSED : PF_ENDED_VIOLATION);
    rig_notices(&rig);
    wanderers[who] = rig_attach(&rig);
}

static void forget_slot(struct stream *s, int who) {
    if (s->has[who]) {
        let_go(&wanderers[who], s->slots[who]);
        s->has[who] = false;
        s->owner = s->owner == who ? NOBODY : s->owner;
    }
}

static void finish(struct stream *s) {
    int who = (int)check_random(SESSIONS);
    claim_for(s, who);
    while (s->at_near < s->to_near) {
        near_reads(s, who);
    }
    for (int i = 0; i < SESSIONS; i++) {
        if (i != who) {
            forget_slot(s, i);
        }
    }
    (void)close(s->fd);
    forget_slot(s, who);
    while (s->at_far < s->to_far) {
        far_reads(s, RIG_PATIENCE);
    }
    expect_end(&one, s->far);
    rig_close(one.client, s->far, 0);
}

static void step(void) {
    struct stream *s = &streams[check_random(STREAMS)];
    int who = (int)check_random(SESSIONS);
    switch (check_random(40)) {
    case 0:
        end_session(who);
        break;
    case 1:
        forget_slot(s, who);
        break;
    case 2:
        finish(s);
        open_stream(s);
        break;
    case 3:
    case 4:
    case 5:
        claim_for(s, who);
        break;
    default:
        if (check_random(2)) {
            far_writes(s);
            far_reads(s, 0);
        }
        if (check_random(2)) {
            near_writes(s, who);
        } else {
            near_reads(s, who);
        }
    }
}

static void test_wandering_streams(void) {
    for (int i = 0; i < SESSIONS; i++) {
        wanderers[i] = rig_attach(&rig);
    }
    for (int i = 0; i < STREAMS; i++) {
        open_stream(&streams[i]);
    }
    for (int i = 0; i < STEPS; i++) {
        step();
    }
    for (int i = 0; i < STREAMS; i++) {
        finish(&streams[i]);
    }
    for (int i = 0; i < SESSIONS; i++) {
        rig_detach(&rig, &wanderers[i], PF_ENDED_CLOSED);
    }
    printf("    %llu claims, %llu found out late\n", (unsigned long long)claims,
           (unsigned long long)stales);
    CHECK(claims > 500 && stales > 100);
}

/* ---- a listener whose acceptors come and go ---- */

enum { VISITORS = 300 };

static int listener_fd;
static uint32_t listening[SESSIONS];
static int64_t waiting[SESSIONS]; /* an accept under way, 0: none */
static bool seen[VISITORS];
static uint32_t served;

static void join(int who) {
    wanderers[who] = rig_attach(&rig);
    listening[who] = claim(&wanderers[who], listener_fd);
    waiting[who] = 0;
}

static void serve(int who, uint64_t token) {
    uint8_t id[2];
    int slot = pf_accept_adopt(wanderers[who].client, listening[who], token, PF_PRIORITY_MEDIUM);
    CHECK(slot >= 0);
    rig_recv_all(wanderers[who].client, (uint32_t)slot, id, 2);
    uint32_t number = id[0] | (uint32_t)id[1] << 8;
    CHECK(number < VISITORS && !seen[number]);
    seen[number] = true;
    served++;
    rig_close(wanderers[who].client, (uint32_t)slot, 0);
}

static void accept_step(int who) {
    struct pf_done done;
    struct pf_client *client = wanderers[who].client;
    if (!waiting[who]) {
        int flags = check_random(2) ? PF_SQE_NOWAIT : 0;
        waiting[who] = RIG_SUBMIT(client, listening[who], PF_OP_ACCEPT, .flags = flags);
        CHECK(waiting[who] > 0);
    } else if (pf_await(client, listening[who], (uint64_t)waiting[who], 0, &done) == 1) {
        waiting[who] = 0;
        if (done.result == 0 && check_random(4)) {
            serve(who, done.token);
        } else if (done.result == 0) {
            CHECK_EQ(pf_accept_reject(client, listening[who], done.token), 0);
        } else {
            CHECK(done.result == -EAGAIN || done.result == -ECANCELED);
        }
    } else if (check_random(3) == 0) {
        (void)pf_submit(client, listening[who], PF_OP_CANCEL, 0, (uint64_t)waiting[who], 0, 0, NULL,
                        PF_DELIVER_NONE);
    }
}

static void test_acceptors_that_come_and_go(void) {
    struct pf_addr addr = rig_addr(++port);
    uint32_t first = rig_listener(one.client, addr, 255);
    uint32_t visitors[VISITORS];
    uint32_t arrived = 0;
    listener_fd = mirror_of(&one, first);
    for (int i = 0; i < SESSIONS; i++) {
        join(i);
    }
    let_go(&one, first);
    while (served < VISITORS) {
        int who = (int)check_random(SESSIONS);
        /* At most so many as one client of the test can have open. */
        if (arrived < VISITORS && arrived - served < 16 && check_random(2)) {
            uint8_t id[2] = {(uint8_t)arrived, (uint8_t)(arrived >> 8)};
            visitors[arrived] = rig_socket(one.client, PF_FAMILY_IPV4, 4096);
            CHECK_EQ(RIG_CALL(one.client, visitors[arrived], PF_OP_CONNECT, .addr = &addr), 0);
            rig_send_all(one.client, visitors[arrived], id, 2);
            CHECK_EQ(pf_socket_release(one.client, visitors[arrived], 0), 0);
            arrived++;
        } else if (check_random(25) == 0) {
            rig_detach(&rig, &wanderers[who],
                       check_random(2) ? PF_ENDED_CLOSED : PF_ENDED_VIOLATION);
            rig_notices(&rig);
            join(who);
        } else {
            accept_step(who);
        }
    }
    for (int i = 0; i < SESSIONS; i++) {
        rig_detach(&rig, &wanderers[i], PF_ENDED_CLOSED);
    }
    (void)close(listener_fd);
    await_word(&rig.public_region->orphans, 0);
}

int main(void) {
    check_watchdog(170);
    check_random_init();
    rig_start(&rig);
    struct rig_counts start = rig_counts(&rig);
    one = rig_attach(&rig);
    two = rig_attach(&rig);
    RUN(test_wandering_streams);
    RUN(test_acceptors_that_come_and_go);
    rig_detach(&rig, &one, PF_ENDED_CLOSED);
    rig_detach(&rig, &two, PF_ENDED_CLOSED);
    rig_settle(&rig, &start);
    rig_stop(&rig);
    return 0;
}
