/* Structure-aware fuzzing of submissions: sequences that a client could send, with some fields
 * wrong. */
#ifndef PF_TESTS_HOSTILE_FUZZ_H
#define PF_TESTS_HOSTILE_FUZZ_H

#include <pthread.h>

#include "raw_client.h"

#define FUZZ_SLOTS 8
#define FUZZ_BATCH 24

struct fuzz {
    struct rig *rig;
    struct raw_client raw;
    uint64_t state; /* of the generator */
    bool open[FUZZ_SLOTS];
    uint64_t tokens[8]; /* of accepts, to adopt */
    uint64_t consumed;  /* submissions that the backend took up */
    uint64_t pushed;
    uint64_t sessions;
    uint64_t violations;
    pthread_mutex_t lock; /* held while the mapping is exchanged */
};

static inline uint32_t fuzz_random(struct fuzz *fuzz, uint32_t below) {
    return (uint32_t)(check_random_next(&fuzz->state) % below);
}

static inline uint32_t fuzz_edge(struct fuzz *fuzz) {
    const uint32_t edges[] = {0,
                              1,
                              63,
                              4095,
                              4096,
                              65535,
                              65536,
                              65537,
                              (uint32_t)fuzz->raw.layout.arena_bytes - 1,
                              (uint32_t)fuzz->raw.layout.arena_bytes,
                              PF_MAX_WRITE_BYTES,
                              PF_MAX_WRITE_BYTES + 1,
                              UINT32_C(1) << 31,
                              UINT32_MAX - 1,
                              UINT32_MAX};
    uint32_t which = fuzz_random(fuzz, sizeof(edges) / sizeof(edges[0]) + 1);
    return which < sizeof(edges) / sizeof(edges[0]) ? edges[which]
                                                    : (uint32_t)check_random_next(&fuzz->state);
}

static inline struct pf_addr fuzz_addr(struct fuzz *fuzz) {
    struct pf_addr addr = fuzz_random(fuzz, 2) ? rig_addr(0) : rig_addr6(0);
    addr.port = (uint16_t)(6000 + fuzz_random(fuzz, 6));
    uint32_t odd = fuzz_random(fuzz, 16);
    if (odd == 0) {
        addr.ip[fuzz_random(fuzz, 16)] = (uint8_t)fuzz_random(fuzz, 256);
    } else if (odd == 1) {
        addr.port = (uint16_t)fuzz_random(fuzz, 65536);
    } else if (odd == 2) {
        addr.family = (uint16_t)fuzz_random(fuzz, 8);
    } else if (odd == 3) { /* link-local, a zone, mapped, multicast */
        static const uint8_t first[][2] = {{0xfe, 0x80}, {0xff, 0x02}, {0, 0}, {0xe0, 0}};
        memcpy(addr.ip, first[fuzz_random(fuzz, 4)], 2);
        addr.scope_id = fuzz_edge(fuzz);
        memset(addr.ip + 10, 0xff, 2);
    }
    return addr;
}

/* What a client that keeps the protocol could send next. */
static inline struct pf_sqe fuzz_valid(struct fuzz *fuzz, uint32_t slot) {
    struct raw_slot *own = &fuzz->raw.slots[slot];
    struct pf_sqe sqe = {.opcode = (uint8_t)(PF_OP_BIND + fuzz_random(fuzz, PF_OP_COUNT - 3))};
    if (!fuzz->open[slot]) {
        fuzz->open[slot] = true;
        own->generation++;
        sqe.opcode = fuzz_random(fuzz, 3) ? PF_OP_OPEN : PF_OP_ADOPT;
        sqe.flags = fuzz_random(fuzz, 2) ? PF_FAMILY_IPV4 : PF_FAMILY_IPV6;
        sqe.token =
            sqe.opcode == PF_OP_OPEN ? fuzz_random(fuzz, 3) : fuzz->tokens[fuzz_random(fuzz, 8)];
        sqe.length = fuzz_random(fuzz, 2) ? 4096 : 0;
        if (sqe.opcode == PF_OP_OPEN) {
            sqe.offset = fuzz_random(fuzz, PF_KIND_RAW + 2);
        }
    } else if (sqe.opcode == PF_OP_CLOSE) {
        if (fuzz_random(fuzz, 3)) {
            sqe.opcode = PF_OP_NOP; /* so that sockets live for a while */
        }
        sqe.flags = (uint8_t)fuzz_random(fuzz, 2);
    } else if (sqe.opcode == PF_OP_WRITE) {
        sqe.length = 1 + fuzz_random(fuzz, fuzz_random(fuzz, 8) ? 2000 : 65536);
        sqe.offset = fuzz_random(fuzz, (uint32_t)fuzz->raw.layout.arena_bytes - sqe.length + 1);
    } else if (sqe.opcode == PF_OP_SENDTO) {
        sqe.length = fuzz_random(fuzz, fuzz_random(fuzz, 8) ? 2000 : 65508);
        sqe.offset = fuzz_random(fuzz, (uint32_t)fuzz->raw.layout.arena_bytes - sqe.length + 1);
        sqe.addr = fuzz_addr(fuzz);
        if (fuzz_random(fuzz, 4) == 0) {
            sqe.addr.family = PF_FAMILY_NONE;
        }
        if (fuzz_random(fuzz, 4) == 0) {
            sqe.token = check_random_next(&fuzz->state);
        }
    } else if (sqe.opcode == PF_OP_GROUP) {
        sqe.flags = (uint8_t)fuzz_random(fuzz, 2);
        sqe.addr = fuzz_addr(fuzz);
        memcpy(sqe.addr.ip, sqe.addr.family == PF_FAMILY_IPV4 ? "\xe0" : "\xff\x02", 2);
        sqe.token = fuzz_random(fuzz, 3);
    } else if (sqe.opcode == PF_OP_SETOPT) {
        sqe.offset = fuzz_random(fuzz, 8) ? fuzz_random(fuzz, PF_OPT_MULTICAST_IF + 2)
                                          : PF_OPT_ICMP_FILTER + fuzz_random(fuzz, 5);
        sqe.token = fuzz_random(fuzz, 3);
    } else if (sqe.opcode == PF_OP_CANCEL) {
        sqe.token = fuzz->raw.next_op - fuzz_random(fuzz, 16);
        sqe.flags = fuzz_random(fuzz, 4) ? 0 : PF_SQE_ALL;
    } else {
        sqe.flags = (uint8_t)fuzz_random(fuzz, sqe.opcode == PF_OP_SHUTDOWN ? 4 : 2);
        sqe.length = 1 + fuzz_random(fuzz, 5000);
        sqe.addr = fuzz_addr(fuzz);
    }
    if (fuzz_random(fuzz, 4) == 0) {
        sqe.general = PF_SQE_LINK;
    }
    if (fuzz_random(fuzz, 4) == 0) { /* up to a millisecond ago, or ahead */
        sqe.deadline_ns = pf_now_ns() + fuzz_random(fuzz, 2000000) - 1000000;
    }
    sqe.generation = own->generation;
    sqe.op_id = ++fuzz->raw.next_op;
    return sqe;
}

/* One field of it wrong. */
static inline void fuzz_mutate(struct fuzz *fuzz, struct pf_sqe *sqe) {
    uint64_t any = check_random_next(&fuzz->state);
    uint8_t bytes[sizeof(*sqe)];
    switch (fuzz_random(fuzz, 12)) {
    case 0:
        sqe->opcode = (uint8_t)any;
        break;
    case 1:
        sqe->flags = (uint8_t)any;
        break;
    case 2:
        sqe->generation += (uint32_t)(any % 5) - 2;
        break;
    case 3:
        sqe->op_id = any % 4 ? any : 0;
        break;
    case 4:
        sqe->token = any % 2 ? any : UINT64_MAX;
        break;
    case 5:
        sqe->offset = fuzz_edge(fuzz);
        break;
    case 6:
        sqe->length = fuzz_edge(fuzz);
        break;
    case 7:
        sqe->general = (uint16_t)any;
        sqe->deadline_ns = any;
        break;
    case 8:
        memcpy(&sqe->addr, &any, sizeof(any));
        break;
    case 9:
        sqe->opcode = (uint8_t)(any % PF_OP_COUNT);
        break;
    default:
        memcpy(bytes, sqe, sizeof(bytes));
        bytes[any % sizeof(bytes)] ^= (uint8_t)(any >> 32);
        memcpy(sqe, bytes, sizeof(bytes));
        break;
    }
}

/* An index, a hint or a page that no client of ours would ever touch like this. */
static inline void fuzz_words(struct fuzz *fuzz) {
    struct raw_client *raw = &fuzz->raw;
    struct pf_socket_c2b *c2b = raw_c2b(raw, fuzz_random(fuzz, FUZZ_SLOTS));
    uint32_t p = fuzz_random(fuzz, PF_PRIORITIES);
    uint32_t change = fuzz_random(fuzz, 2) ? fuzz_edge(fuzz) : 1 + fuzz_random(fuzz, 4);
    uint32_t *words[] = {&c2b->sq_tail,
                         &c2b->cq_head,
                         &c2b->rx_tail,
                         &c2b->waiting,
                         &c2b->read_arm,
                         &c2b->write_arm,
                         &c2b->write_room,
                         &raw->control->hint_tail[p],
                         &raw->control->hint_recent[fuzz_random(fuzz, 12)],
                         &raw->control->event_head[p],
                         &raw->control->waiting};
    uint32_t which = fuzz_random(fuzz, 12);
    if (which < sizeof(words) / sizeof(words[0])) {
        pf_store_release(words[which], pf_load_relaxed(words[which]) + change);
    } else if (which == 9) {
        pf_store_relaxed(&raw->hints[p].ring[fuzz_random(fuzz, raw->layout.hint_entries)], change);
    } else {
        uint64_t page = check_random_next(&fuzz->state) % (raw->layout.c2b_bytes / 4096);
        CHECK_EQ(madvise(raw->c2b + page * 4096, 4096, MADV_REMOVE), 0);
    }
}

static inline void fuzz_attach(struct fuzz *fuzz) {
    struct pf_session_request request = {.max_sockets = FUZZ_SLOTS,
                                         .queue_depth = 8,
                                         .rx_bytes = fuzz_random(fuzz, 2) ? 4096 : 65536,
                                         .best_priority = fuzz_random(fuzz, PF_PRIORITIES),
                                         .arena_bytes = 131072,
                                         .raw = fuzz_random(fuzz, 4) != 0};
    raw_attach(fuzz->rig, &fuzz->raw, &request);
    memset(fuzz->open, 0, sizeof(fuzz->open));
    fuzz->sessions++;
}

static inline void fuzz_exchange(struct fuzz *fuzz) {
    (void)pthread_mutex_lock(&fuzz->lock);
    uint32_t ended = raw_ended(&fuzz->raw);
    CHECK(ended == PF_ENDED_NOT || ended == PF_ENDED_VIOLATION);
    fuzz->violations += ended == PF_ENDED_VIOLATION;
    raw_detach(fuzz->rig, &fuzz->raw, ended == PF_ENDED_NOT);
    fuzz_attach(fuzz);
    (void)pthread_mutex_unlock(&fuzz->lock);
    if (fuzz->sessions % 64 == 0) {
        rig_skip_time_wait();
    }
}

/* Takes completions, or, sometimes, does not. */
static inline void fuzz_reap(struct fuzz *fuzz) {
    struct raw_client *raw = &fuzz->raw;
    for (uint32_t slot = 0; slot < FUZZ_SLOTS; slot++) {
        struct raw_slot *own = &raw->slots[slot];
        if (fuzz_random(fuzz, 40) == 0) {
            continue;
        }
        for (; pf_cq_ready(raw_cq(raw, slot), raw->layout.cq_depth, own->cq_head); own->cq_head++) {
            const struct pf_cqe *cqe =
                &raw_cq(raw, slot)[own->cq_head & (raw->layout.cq_depth - 1)];
            if (cqe->opcode == PF_OP_ACCEPT && cqe->result == 0) {
                fuzz->tokens[fuzz_random(fuzz, 8)] = cqe->token;
            } else if (cqe->opcode == PF_OP_CLOSE && fuzz_random(fuzz, 50)) {
                fuzz->open[slot] = false;
                raw_level(raw, slot);
            }
        }
        pf_store_release(&raw_c2b(raw, slot)->cq_head, own->cq_head);
        if (fuzz_random(fuzz, 3) == 0) {
            raw_level(raw, slot);
        }
        raw_hint(raw, slot, (int)fuzz_random(fuzz, PF_PRIORITIES));
    }
}

static inline uint64_t fuzz_taken(const struct raw_client *raw) {
    uint64_t taken = 0;
    for (uint32_t slot = 0; slot < FUZZ_SLOTS; slot++) {
        taken += pf_load_acquire(&raw_b2c(raw, slot)->sq_head);
    }
    return taken;
}

/* Some submissions, mutated with a chance of one in `odds`, and word damage one in `words`. */
static inline void fuzz_batch(struct fuzz *fuzz, uint32_t odds, uint32_t words) {
    struct raw_client *raw = &fuzz->raw;
    uint64_t before = fuzz_taken(raw);
    uint32_t burst = 0;
    for (uint32_t i = 0; i < FUZZ_BATCH; i++) {
        uint32_t slot = fuzz_random(fuzz, FUZZ_SLOTS);
        if (pf_ring_used(raw->slots[slot].sq_tail, pf_load_acquire(&raw_b2c(raw, slot)->sq_head)) >=
            raw->layout.sq_depth) {
            continue;
        }
        struct pf_sqe sqe = fuzz_valid(fuzz, slot);
        if (fuzz_random(fuzz, odds) == 0) {
            fuzz_mutate(fuzz, &sqe);
        }
        if (raw_push(raw, slot, &sqe)) {
            burst++;
            raw_hint(raw, slot, (int)fuzz_random(fuzz, PF_PRIORITIES));
        }
    }
    if (words && fuzz_random(fuzz, words) == 0) {
        fuzz_words(fuzz);
    }
    fuzz->pushed += burst;
    /* Until it is taken up, or the session has ended, or clearly never will be (a damaged index).
     */
    uint64_t end = pf_now_ns() + 2000000;
    while (fuzz_taken(raw) - before < burst && !raw_ended(raw) && pf_now_ns() < end) {
        raw_ring(raw);
        pf_cpu_relax();
    }
    fuzz->consumed += fuzz_taken(raw) - before;
    fuzz_reap(fuzz);
}

#endif
