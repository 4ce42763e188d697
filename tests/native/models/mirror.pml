/* Model of native/client/mirror.c and native/backend/mirror.c: the descriptor that a program polls
 * never stays silent, and says nothing wrong to a program that waits for it.
 *
 * Three protocols, chosen by -D:
 *   (default)  readable: the program reads only when the descriptor says so. Checked: it reads
 *              everything; each time it is told there is something; at most one token is in it.
 *   -DEAGER    readable: the program also reads without having been told. Checked: it reads
 *              everything; after a settle nothing stands there that has been read.
 *   -DWRITE    writable: room for one write, the program writes when the descriptor says so.
 *              Checked: it writes everything; each time it is told there is room.
 * A lost wake-up leaves the program waiting while the backend has nothing to do: an invalid end.
 *
 * Memory: as in doorbell.pml: each side has a store buffer; a release store waits for its side's
 * earlier ones, a full fence until the buffer is empty; system calls on the descriptor are full
 * fences. A hint is one word here: hint_ring.pml has the proof that none is lost.
 *
 * No errors: spin -a mirror.pml && gcc -O2 -DSAFETY -o pan pan.c && ./pan -m100000
 * also: -DEAGER -DWRITE
 *
 * Variants that must FAIL:
 *   NO_FENCE       (default, WRITE) arms without a fence before it looks or hints
 *   NO_FENCE_BACKEND  (default) no fence between publishing bytes and looking for a question
 *   NO_LOOK        (default) arms without a second look
 *   NO_HINT        (default, WRITE) tells the backend nothing after arming
 *   ONLY_ANSWERED  (WRITE) does not fill again before the answer to the last question is seen
 *   LATE_REAPED    (WRITE) tells how far it has reaped after it has armed
 *   NO_SETTLE      (EAGER) does not wait for the backend before the last look
 */

#define CLIENT 0
#define BACKEND 1
#define WORDS 6
#define HEAD 0  /* backend: bytes received; WRITE: writes completed */
#define TOKEN 1 /* backend: the question that was answered */
#define TAIL 2  /* client: bytes read; WRITE: writes submitted */
#define ARM 3   /* client: questions asked */
#define REAPED 4 /* client, WRITE: completions reaped */
#define SETTLED 5 /* backend: settles answered */
#define PENDING(who, word) ((who) * WORDS + (word))
#define LAST 3 /* bytes, or writes */

byte memory[WORDS];
bool pending[12];
byte value[12];
byte tokens;  /* in the descriptor: bytes to read, or WRITE: 1 when its buffer is full */
bool hint;
byte settles; /* asked for by the client; an operation, so with a fence of its own */

inline load(who, place, out) {
    atomic {
        if
        :: pending[PENDING(who, place)] -> out = value[PENDING(who, place)]
        :: else -> out = memory[place]
        fi
    }
}

#define DRAINED(who)                                                                               \
    (!pending[PENDING(who, 0)] && !pending[PENDING(who, 1)] && !pending[PENDING(who, 2)] &&        \
     !pending[PENDING(who, 3)] && !pending[PENDING(who, 4)] && !pending[PENDING(who, 5)])

inline fence(who) { DRAINED(who) }

inline store_release(who, place, what) {
    atomic {
        DRAINED(who);
        pending[PENDING(who, place)] = true;
        value[PENDING(who, place)] = what
    }
}

inline store_fence(who, place, what) {
#ifdef NO_FENCE
    store_release(who, place, what)
#else
    atomic {
        DRAINED(who);
        memory[place] = what
    }
#endif
}

/* pf_hint: fences by itself when it has something to push; the one outstanding is enough. */
inline push_hint() {
#ifdef NO_HINT
    skip
#else
    atomic {
#ifndef NO_FENCE
        DRAINED(CLIENT);
#endif
        hint = true
    }
#endif
}

/* A store of either side reaches memory. */
active [2] proctype buffer() {
    byte place;
end:
    do
    :: atomic { pending[PENDING(_pid, 0)] -> memory[0] = value[PENDING(_pid, 0)]; pending[PENDING(_pid, 0)] = false }
    :: atomic { pending[PENDING(_pid, 1)] -> memory[1] = value[PENDING(_pid, 1)]; pending[PENDING(_pid, 1)] = false }
    :: atomic { pending[PENDING(_pid, 2)] -> memory[2] = value[PENDING(_pid, 2)]; pending[PENDING(_pid, 2)] = false }
    :: atomic { pending[PENDING(_pid, 3)] -> memory[3] = value[PENDING(_pid, 3)]; pending[PENDING(_pid, 3)] = false }
    :: atomic { pending[PENDING(_pid, 4)] -> memory[4] = value[PENDING(_pid, 4)]; pending[PENDING(_pid, 4)] = false }
    :: atomic { pending[PENDING(_pid, 5)] -> memory[5] = value[PENDING(_pid, 5)]; pending[PENDING(_pid, 5)] = false }
    od
}

#ifndef WRITE

inline update() {
#ifndef NO_FENCE_BACKEND
    fence(BACKEND);
#endif
    load(BACKEND, ARM, arm);
    if
    :: arm != token ->
        load(BACKEND, TAIL, tail);
        if
        :: head != tail ->
            atomic {
                fence(BACKEND);
                tokens++;
                assert(tokens <= 1)
            }
            token = arm;
            store_release(BACKEND, TOKEN, token)
        :: else
        fi
    :: else
    fi
}

active proctype backend() {
    byte head, token, tail, arm, settled;
end:
    do
    :: head < LAST ->
        head++;
        store_release(BACKEND, HEAD, head);
        update()
    :: atomic { hint -> fence(BACKEND); hint = false }
        update()
    :: settled != settles ->
        update();
        settled++;
        store_release(BACKEND, SETTLED, settled)
    od
}

/* take_token of native/client/mirror.c: nothing to read, so nothing must stand there. */
inline take() {
    load(CLIENT, HEAD, head);
    if
    :: head == tail ->
        load(CLIENT, TOKEN, token);
        atomic {
            fence(CLIENT);
            got = tokens;
            tokens = 0
        }
        if
        :: token == arm || got ->
            arm++;
            store_fence(CLIENT, ARM, arm);
#ifndef NO_LOOK
            load(CLIENT, HEAD, head);
            if
            :: head != tail -> push_hint()
            :: else
            fi
#endif
        :: else
        fi
    :: else
    fi
}

active proctype client() {
    byte head, tail, arm, token, got;
    bool told;
    arm = 1;
    store_fence(CLIENT, ARM, arm);
    push_hint();
    do
    :: tail == LAST -> break
    :: else ->
        if
        :: tokens > 0 -> told = true
#ifdef EAGER
        :: told = false
#endif
        fi;
        load(CLIENT, HEAD, head);
#ifndef EAGER
        assert(head != tail);
#endif
        if
        :: head != tail ->
            tail = head;
            store_release(CLIENT, TAIL, tail)
        :: else
        fi;
        take()
    od;
#ifdef EAGER
#ifndef NO_SETTLE
    atomic { fence(CLIENT); settles = 1 }
    memory[SETTLED] == 1;
#endif
    take();
    (!hint); /* whatever else the backend may still do */
    assert(tokens == 0)
#endif
}

#else /* WRITE: room for one write that is not acknowledged */

inline update() {
    load(BACKEND, ARM, arm);
    if
    :: arm != token ->
        load(BACKEND, TAIL, tail);
        load(BACKEND, REAPED, reaped);
        if
        :: done == tail || done != reaped ->
            atomic {
                fence(BACKEND);
                tokens = 0
            }
            token = arm;
            store_release(BACKEND, TOKEN, token)
        :: else
        fi
    :: else
    fi
}

active proctype backend() {
    byte done, token, tail, reaped, arm;
end:
    do
    :: memory[TAIL] > done ->
        done++;
        store_release(BACKEND, HEAD, done);
        update()
    :: atomic { hint -> fence(BACKEND); hint = false }
        update()
    od
}

active proctype client() {
    byte sent, reaped, arm, token;
    bool was;
    do
    :: sent == LAST -> break
    :: else ->
        tokens == 0; /* poll says writable */
        load(CLIENT, HEAD, reaped);
        assert(sent == reaped); /* there is room */
        sent++;
        store_release(CLIENT, TAIL, sent);
        push_hint();
        load(CLIENT, HEAD, reaped);
        if
        :: sent != reaped -> /* full: fill() of native/client/mirror.c */
            load(CLIENT, TOKEN, token);
#ifdef ONLY_ANSWERED
            if
            :: token != arm -> goto asked
            :: else
            fi;
#endif
            atomic {
                fence(CLIENT);
                was = tokens;
                tokens = 1
            }
            load(CLIENT, TOKEN, token);
            if
            :: was && token != arm
            :: else ->
#ifndef LATE_REAPED
                store_release(CLIENT, REAPED, reaped);
#endif
                arm++;
                store_fence(CLIENT, ARM, arm);
#ifdef LATE_REAPED
                store_release(CLIENT, REAPED, reaped);
#endif
                push_hint()
            fi
        :: else
        fi;
asked:
        skip
    od
}

#endif
