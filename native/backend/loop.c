/* The stack thread: strict priority, looked at again after every operation and every frame.
 *
 * One step serves one socket (at most one submission and one quantum of bytes to send) or feeds one
 * received frame to the stack. So HIGH work waits for at most one step of lower work, the scan of
 * the hint rings, and the collection of frames, which happens every PF_FRAMES_EVERY_OPERATIONS
 * steps and takes a bounded number of frames (of the stack's own: what the last step sent). */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "backend/identity.h"
#include "backend/internal.h"

#define TICK_NS UINT64_C(100000000)
#define ORPHAN_LOOK_NS UINT64_C(1000000) /* while busy; asleep, they wake */
#define BUSY_TIMER_NS UINT64_C(10000000)
#define TIMER_SLACK_NS UINT64_C(2000000) /* the stack counts in milliseconds */
#define NOISE_PER_TICK 2000U /* rings without news in one tick that get a doorbell muted */

/* The lines that serving this socket will need, fetched side by side instead of one after another:
 * each comes from the client's core. */
static void prefetch(const struct pf_bsock *sock) {
    const struct pf_b2c_header *layout = &sock->session->layout;
    const struct pf_sqe *sq = (const struct pf_sqe *)(sock->session->c2b + layout->c2b_sq) +
                              (size_t)sock->slot * layout->sq_depth;
    const struct pf_cqe *cq = (const struct pf_cqe *)(sock->session->b2c + layout->b2c_cq) +
                              (size_t)sock->slot * layout->cq_depth;
    __builtin_prefetch(sock->c2b, 0);
    __builtin_prefetch(&sq[sock->sq_head & (layout->sq_depth - 1)], 0);
    pf_prefetch_write(&cq[sock->cq_tail & (layout->cq_depth - 1)]);
    pf_prefetch_write(sock->b2c);
}

static struct pf_bsock *look_at(struct pf_session *session, int p, uint32_t slot) {
    struct pf_bsock *sock = pf_session_slot(session, slot);
    if (sock->phase == PF_SOCK_NONE && !sock->ready) {
        uint32_t best = session->granted.best_priority;
        sock->priority = (uint8_t)((uint32_t)p < best ? best : (uint32_t)p);
    }
    pf_ready_add(sock, PF_WORK_SQ | PF_WORK_LOOK);
    return sock;
}

/* Tells the client that its hints were taken, and looks at those slots once more: what it added
 * since came without a hint. Done a step later than taking them, because this costs a round trip
 * between two cores, and the first submission need not wait for it. */
static void publish_taken(struct pf_session *session, int p) {
    struct pf_taken_hints *taken = &session->taken[p];
    uint32_t count = taken->count;
    taken->count = 0;
    pf_hint_publish(&session->hints[p]);
    for (uint32_t h = 0; h < count; h++) {
        (void)look_at(session, p, taken->slots[h]);
    }
}

static void take_of(struct pf_session *session, int p) {
    struct pf_taken_hints *taken = &session->taken[p];
    int count = pf_hint_take(&session->hints[p], taken->slots, PF_HINTS_PER_VISIT);
    if (count < 0) {
        pf_session_violation(session, "hint ring tail out of range");
        return;
    }
    session->noise = 0;
    for (int h = 0; h < count; h++) {
        if (taken->slots[h] >= session->layout.max_sockets) {
            pf_session_violation(session, "hint for a slot that does not exist");
            return;
        }
        taken->count++;
        prefetch(look_at(session, p, taken->slots[h]));
    }
}

/* Takes new hints of all clients. Returns whether there was any. */
static bool take_hints(struct pf_backend *backend) {
    bool any = false;
    for (uint32_t i = 0; i < backend->session_count; i++) {
        struct pf_session *session = backend->sessions[i];
        if (session->dying) {
            continue;
        }
        for (int p = 0; p < PF_PRIORITIES; p++) {
            if (session->taken[p].count > 0) {
                publish_taken(session, p);
                any = true;
            } else if (pf_hint_waiting(&session->hints[p])) {
                take_of(session, p);
                any = true;
            }
        }
    }
    return any;
}

/* One bounded piece of work for one socket. */
static void serve(struct pf_bsock *sock) {
    if (sock->session->doomed) {
        pf_ready_remove(sock);
        return;
    }
    uint32_t work = sock->work;
    sock->work &= PF_WORK_SQ | PF_WORK_ABORT;
    if (work & PF_WORK_EXPIRE) {
        pf_expire(sock); /* first: what is too late goes nowhere */
    }
    if (work & PF_WORK_LOOK && sock->phase != PF_SOCK_NONE) {
        if (sock->conn && (sock->phase == PF_SOCK_CONNECTED || sock->phase == PF_SOCK_BROKEN)) {
            pf_rx_credit(sock);
            pf_rx_flush(sock);
        } else if (sock->phase == PF_SOCK_LISTENING) {
            pf_accept_report(sock);
        } else if (sock->dgram) {
            pf_sock_set_state(sock, 0, PF_STATE_WANTS_HINT);
            pf_dgram_answer(sock); /* a multishot receive may go on */
        }
        if (sock->mirror_fd >= 0) {
            pf_wake(sock);
        }
    }
    if (work & PF_WORK_SQ && !sock->session->dying) {
        if (!pf_dispatch_one(sock)) {
            sock->work &= ~(uint32_t)PF_WORK_SQ;
        }
    } else {
        sock->work &= ~(uint32_t)PF_WORK_SQ;
    }
    if (work & PF_WORK_CHAIN) {
        pf_chain_next(sock);
    }
    if (work & PF_WORK_TX) {
        pf_tx_pump(sock);
    }
    if (work & PF_WORK_ACCEPT) {
        pf_accept_report(sock);
    }
    if (work & PF_WORK_CLOSE) {
        pf_sock_check_close(sock);
    }
    if (sock->work == 0) {
        pf_ready_remove(sock);
    }
}

static bool has_work(const struct pf_backend *backend, int p) {
    return backend->ready[p] || stk_frame_waiting(p);
}

/* Strict priority, but for the minimum shares: for every 100 operations of better priority, `share`
 * of a lower one that has work. -1: nothing to do, or time to rest. */
static int choose(struct pf_backend *backend) {
    bool work[PF_PRIORITIES];
    int best = -1;
    for (int p = PF_PRIORITIES - 1; p >= 0; p--) {
        work[p] = has_work(backend, p);
        best = work[p] ? p : best;
    }
    if (pf_rest_due(&backend->rest, backend->now_ns, best == PF_PRIORITY_HIGH)) {
        return -1;
    }
    if (best < PF_PRIORITY_LOW && best >= 0 && work[PF_PRIORITY_LOW]) {
        backend->share_low += backend->config.min_share_low;
        if (backend->share_low >= 100) {
            backend->share_low -= 100;
            return PF_PRIORITY_LOW;
        }
    }
    if (best == PF_PRIORITY_HIGH && work[PF_PRIORITY_MEDIUM]) {
        backend->share_medium += backend->config.min_share_medium;
        if (backend->share_medium >= 100) {
            backend->share_medium -= 100;
            return PF_PRIORITY_MEDIUM;
        }
    }
    return best;
}

static void step(struct pf_backend *backend, int p) {
    /* Within one priority, frames and submissions take turns. */
    backend->frame_turn = !backend->frame_turn;
    if (stk_frame_waiting(p) && (backend->frame_turn || !backend->ready[p])) {
        stk_process_frame(p);
    } else {
        struct pf_bsock *sock = pf_ready_take(backend, p);
        if (sock) {
            serve(sock);
        }
    }
}

static void end_doomed(struct pf_backend *backend) {
    backend->any_doomed = false;
    for (uint32_t i = 0; i < backend->session_count; i++) {
        struct pf_session *session = backend->sessions[i];
        if (session->doomed) {
            int reason = session->doomed;
            session->doomed = 0;
            pf_session_finish(session, reason);
        }
    }
}

static void try_again(struct pf_backend *backend) {
    struct pf_link *link;
    for (int i = 0; i < PF_TICK_MOST && (link = pf_list_first(&backend->stalled)); i++) {
        pf_list_remove(link);
        pf_ready_add(PF_LIST_SOCK(link, stalled), PF_WORK_TX);
    }
}

/* Round the list, so that each has its turn. */
static void end_closing(struct pf_backend *backend) {
    const struct pf_link *last = backend->closing.prev;
    struct pf_link *link;
    for (int i = 0; i < PF_TICK_MOST && (link = pf_list_first(&backend->closing)); i++) {
        struct pf_bsock *sock = PF_LIST_SOCK(link, closing);
        pf_list_remove(link);
        pf_list_add(&backend->closing, link);
        if (backend->now_ns >= sock->close_deadline_ns) {
            pf_ready_add(sock, PF_WORK_ABORT | PF_WORK_CLOSE);
        }
        if (link == last) {
            return;
        }
    }
}

/* What is rare: dead sessions, orphans whose time is up, writes that found no memory. */
static void tick(struct pf_backend *backend) {
    for (uint32_t i = 0; i < backend->session_count; i++) {
        struct pf_session *session = backend->sessions[i];
        if (pf_load_acquire(&session->faulted) && !session->dying) {
            pf_session_violation(session, "memory fault");
        }
        if (session->doorbell_muted) {
            struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = session->id};
            session->doorbell_muted = false;
            (void)epoll_ctl(backend->epoll_fd, EPOLL_CTL_ADD, session->doorbell_fd, &event);
        }
        session->noise = 0;
    }
    try_again(backend);
    end_closing(backend);
}

static void reap_dead(struct pf_backend *backend) {
    backend->any_dying = false;
    for (uint32_t i = 0; i < backend->session_count;) {
        struct pf_session *session = backend->sessions[i];
        if (session->dying && !session->finishing && session->live_socks == 0) {
            (void)epoll_ctl(backend->epoll_fd, EPOLL_CTL_DEL, session->doorbell_fd, NULL);
            for (int p = 0; p < PF_PRIORITIES; p++) {
                while (session->ready[p].first) {
                    pf_ready_remove(session->ready[p].first);
                }
            }
            pf_sharing_forget(session);
            pf_session_reap(session); /* another one takes its place */
        } else {
            backend->any_dying |= session->dying;
            i++;
        }
    }
}

static void publish_counts(struct pf_backend *backend) {
    struct pf_public *out = backend->public_region;
    struct stk_counts counts;
    stk_count(&counts);
    pf_store64_relaxed(&out->frames_in, counts.frames_in);
    pf_store64_relaxed(&out->frames_out, counts.frames_out);
    pf_store64_relaxed(&out->frames_dropped, counts.frames_dropped);
    pf_store64_relaxed(&out->pcbs, counts.pcbs);
    pf_store64_relaxed(&out->time_wait, counts.time_wait);
    pf_store64_relaxed(&out->pbufs, counts.pbufs);
    pf_store64_relaxed(&out->segments, counts.segments);
    pf_store64_relaxed(&out->held_bytes, counts.held_bytes);
    pf_store64_relaxed(&out->promised_bytes, counts.promised_bytes);
    pf_store64_relaxed(&out->mss_raised, counts.mss_raised);
    pf_store64_relaxed(&out->refused, counts.refused);
    pf_store64_relaxed(&out->sockets, backend->sockets);
    pf_store64_relaxed(&out->mirrors, backend->mirrors);
}

/* A client that rings and has nothing to say gets its doorbell muted until the next tick; its
 * submissions are then found by looking. */
static void count_noise(struct pf_backend *backend, struct pf_session *session) {
    if (++session->noise > NOISE_PER_TICK && !session->doorbell_muted) {
        session->doorbell_muted = true;
        (void)epoll_ctl(backend->epoll_fd, EPOLL_CTL_DEL, session->doorbell_fd, NULL);
    }
}

/* The ring of this client ended a sleep that lasted from `asleep_ns` until `awake_ns`. What it says
 * of when it rang may be anything. */
static void learn_from(struct pf_backend *backend, const struct pf_session *session,
                       uint64_t asleep_ns, uint64_t awake_ns) {
    uint64_t rang_ns = pf_load64_relaxed(&session->c2b_control->rang_ns);
    if (rang_ns > asleep_ns && rang_ns < awake_ns) {
        backend->spin_ns = pf_spin_learn(backend->spin_ns, awake_ns - rang_ns);
        pf_store_relaxed(&backend->public_region->spin_ns, backend->spin_ns);
    }
}

static bool any_muted(const struct pf_backend *backend) {
    for (uint32_t i = 0; i < backend->session_count; i++) {
        if (backend->sessions[i]->doorbell_muted) {
            return true;
        }
    }
    return false;
}

/* A step may start a timer that is due earlier than those known before: asked again before each
 * sleep, and while busy at least this often. */
static void set_next_timer(struct pf_backend *backend, uint64_t now_ns) {
    uint64_t ms = stk_next_timer_ms();
    backend->next_timer_ns = now_ns + (ms < 1000 ? ms : 1000) * 1000000;
    if (backend->next_timer_ns > now_ns + BUSY_TIMER_NS) {
        backend->next_busy_timer_ns = now_ns + BUSY_TIMER_NS;
    } else {
        backend->next_busy_timer_ns = backend->next_timer_ns;
    }
}

/* One timer descriptor, set anew only when the deadline has moved: cheaper than a time-out of each
 * sleep. */
static void arm_timer(struct pf_backend *backend, uint64_t until_ns) {
    uint64_t armed = backend->armed_ns;
    if (armed > backend->now_ns && armed <= until_ns && until_ns - armed < TIMER_SLACK_NS) {
        return;
    }
    struct itimerspec spec = {.it_value = {.tv_sec = (time_t)(until_ns / 1000000000U),
                                           .tv_nsec = (long)(until_ns % 1000000000U)}};
    (void)timerfd_settime(backend->timer_fd, TFD_TIMER_ABSTIME, &spec, NULL);
    backend->armed_ns = until_ns;
}

static bool high_hints(const struct pf_backend *backend) {
    bool any = false;
    for (uint32_t i = 0; i < backend->session_count; i++) {
        const struct pf_session *session = backend->sessions[i];
        any |= !session->dying && (session->taken[PF_PRIORITY_HIGH].count > 0 ||
                                   pf_hint_waiting(&session->hints[PF_PRIORITY_HIGH]));
    }
    return any;
}

/* HIGH work has to stop, too: nothing ends this piece, or a client could keep the thread awake for
 * ever by what is not served. */
static void rest_whole(struct pf_backend *backend) {
    uint64_t from = pf_now_ns();
    struct timespec piece = {.tv_nsec = (long)pf_rest_piece(&backend->rest, from)};
    (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &piece, NULL);
    pf_rest_slept(&backend->rest, from, pf_now_ns());
}

static void sleep_until_news(struct pf_backend *backend) {
    struct epoll_event events[32];
    if (pf_rest_due(&backend->rest, backend->now_ns, true)) {
        rest_whole(backend);
        return;
    }
    /* Resting: what has time cannot end it, and is seen afterwards. */
    pf_doorbell_announce(&backend->public_region->sleeping,
                         backend->rest.resting ? PF_PRIORITY_HIGH + 1 : PF_PRIORITIES);
    /* The second look: whoever published before seeing the announcement did not ring. */
    bool hints = backend->rest.resting ? high_hints(backend) : take_hints(backend);
    bool news = hints || pf_load_acquire(&backend->commands_pending) || stk_frames_pending() ||
                pf_load_acquire(&backend->stop);
    if (!news) {
        set_next_timer(backend, backend->now_ns);
        uint64_t until = backend->next_timer_ns;
        bool muted = any_muted(backend);
        bool tick_needed =
            pf_list_first(&backend->closing) || pf_list_first(&backend->stalled) || muted;
        if (tick_needed && backend->next_tick_ns < until) {
            until = backend->next_tick_ns;
        }
        if (backend->next_deadline_ns < until) {
            until = backend->next_deadline_ns;
        }
        if (backend->rest.resting) {
            uint64_t rested = backend->now_ns + pf_rest_piece(&backend->rest, backend->now_ns);
            until = rested < until ? rested : until;
        }
        arm_timer(backend, until);
        publish_counts(backend);
        uint64_t asleep_ns = pf_now_ns();
        int count = epoll_wait(backend->epoll_fd, events, 32, muted ? 1 : -1);
        uint64_t awake_ns = pf_now_ns();
        pf_rest_slept(&backend->rest, asleep_ns, awake_ns);
        for (int i = 0; i < count; i++) {
            if (events[i].data.u64 > UINT64_MAX / 2) {
                backend->frames_told = true;
                continue;
            }
            struct pf_session *session = pf_session_find(backend, events[i].data.u64);
            if (session) {
                count_noise(backend, session);
                if (i == 0 && backend->config.spin_follows) { /* the first is what woke us */
                    learn_from(backend, session, asleep_ns, awake_ns);
                }
            }
        }
        pf_store64_relaxed(&backend->public_region->wakeups, backend->public_region->wakeups + 1);
    }
    pf_doorbell_awake(&backend->public_region->sleeping);
}

static void timers(struct pf_backend *backend) {
    if (backend->now_ns >= backend->next_deadline_ns) {
        pf_deadlines_due(backend);
    }
    if (backend->now_ns >= backend->next_busy_timer_ns) {
        stk_timers();
        set_next_timer(backend, backend->now_ns);
    }
    if (backend->orphans && backend->now_ns >= backend->next_orphan_look_ns) {
        backend->next_orphan_look_ns = backend->now_ns + ORPHAN_LOOK_NS;
        pf_identity_look(backend);
    }
    if (backend->now_ns >= backend->next_tick_ns) {
        backend->next_tick_ns = backend->now_ns + TICK_NS;
        tick(backend);
        publish_counts(backend);
    }
}

/* A few looks for news without the cost of a clock or a system call. True: there is some. */
static bool spin_look(const struct pf_backend *backend) {
    for (int look = 0; look < PF_SPIN_LOOKS; look++) {
        for (uint32_t i = 0; i < backend->session_count; i++) {
            const struct pf_session *session = backend->sessions[i];
            for (int p = 0; p < PF_PRIORITIES; p++) {
                if (pf_hint_waiting(&session->hints[p])) {
                    return true;
                }
            }
        }
        pf_spin_relax(look);
    }
    return false;
}

/* One round of spinning. False: sleep. */
static bool spin_round(struct pf_backend *backend, uint64_t idle_since) {
    uint64_t idle = backend->now_ns - idle_since;
    if (idle >= backend->spin_ns || backend->rest.resting) {
        return false;
    }
    return spin_look(backend) || pf_spin_pause(backend->now_ns, idle);
}

/* With nothing else to do: to ask a descriptor in vain costs a system call, and before sleeping the
 * kernel looks at it anyway. */
static bool look_for_frames(const struct pf_backend *backend, uint64_t idle_since) {
    return idle_since || backend->frames_told || stk_frames_pending();
}

/* Of what is done in pieces, one of each. True: there is more. */
static bool do_pieces(struct pf_backend *backend) {
    bool more = backend->finishing && pf_session_finish_piece(backend);
    more |= stk_tcp_reset_some(PF_FINISH_PIECE);
    more |= pf_sharing_piece(backend);
    return more;
}

void *pf_loop(void *argument) {
    struct pf_backend *backend = argument;
    uint64_t idle_since = 0;
    uint32_t steps = 0;
    bool woken = false; /* the first frame is served before asking whether there is a second */
    stk_adopt_thread();
    pf_spin_reset(&backend->spin);
    while (!pf_load_acquire(&backend->stop)) {
        /* First: it sets off the loads that the next step waits for. */
        (void)take_hints(backend);
        backend->now_ns = pf_now_ns();
        if (pf_load_relaxed(&backend->commands_pending)) {
            pf_commands_run(backend);
        }
        if (backend->any_doomed) {
            end_doomed(backend);
        }
        timers(backend);
        bool finishing = do_pieces(backend);
        /* At once: the loopback is one queue, and a HIGH frame would wait there behind the bursts
         * that a few steps of bulk traffic leave. */
        stk_collect_own_frames();
        int p = choose(backend);
        if ((p < 0 && look_for_frames(backend, idle_since)) ||
            ++steps >= PF_FRAMES_EVERY_OPERATIONS) {
            steps = 0;
            backend->frames_told = stk_collect_frames(woken ? 1 : STK_FRAMES_AT_ONCE);
            woken = false;
            p = choose(backend);
        }
        if (p >= 0) {
            if (idle_since) {
                pf_spin_result(&backend->spin, true);
                idle_since = 0;
            }
            step(backend, p);
            stk_flush();
            pf_post_flush(backend);
            if (backend->any_dying && steps == 0) {
                reap_dead(backend);
            }
            continue;
        }
        stk_flush();
        pf_post_flush(backend);
        if (backend->any_dying) {
            reap_dead(backend);
        }
        if (finishing) {
            for (int i = 0; i < PF_FINISH_IDLE_PIECES && pf_session_finish_piece(backend); i++) {
            }
            continue;
        }
        if (!idle_since && backend->spin_ns && !backend->rest.resting &&
            pf_spin_worthwhile(&backend->spin)) {
            idle_since = backend->now_ns;
        }
        if (idle_since) {
            if (spin_round(backend, idle_since)) {
                continue;
            }
            pf_spin_result(&backend->spin, false);
        }
        sleep_until_news(backend);
        woken = true;
        backend->next_orphan_look_ns = 0;
        idle_since = 0;
    }
    return NULL;
}
