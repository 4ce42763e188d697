/* Model of native/client/mirror.c and native/backend/readiness.c: the descriptor that a program polls
 * never stays silent, and says nothing wrong to a program that waits for it.
 *
 * Three protocols, chosen by -D:
 *   (default)  readable: the program reads only when the descriptor says so. Checked: it reads
 *              everything; each time it is told there is something; at most one token is in it.
 *   -DEAGER    readable: the program also reads without having been told. Checked: it reads
 *              everything; after a settle nothing stands there that has been read.
 *   -DWRITE    writable: room for one write, the program writes when the descriptor says so; other
 *              operations complete meanwhile.
 *              Checked: it writes everything; each time it is told there is room.
 *   -DBOLD     writable: the program also writes without having been told. Checked: it writes
 *              everything; after a settle it is told only if there is room; in the end it is told.
 * A lost wake-up leaves the program waiting while the backend has nothing to do: an invalid end.
 *
 * Memory: as in doorbell.pml: each side has a store buffer; a release store waits for its side's
 * earlier ones, a full fence until the buffer is empty; system calls on the descriptor are full
 * fences. A hint is one word here: hint_ring.pml has the proof that none is lost.
 *
 * No errors: spin -a mirror.pml && gcc -O2 -DSAFETY -o pan pan.c && ./pan -m100000
 * also: -DEAGER -DWRITE -DBOLD
 *
 * Variants that must FAIL:
 *   NO_FENCE       (default, WRITE) arms without a fence before it looks or hints
 *   NO_FENCE_BACKEND  (default) no fence between publishing bytes and looking for a question
 *   NO_LOOK        (default) arms without a second look
 *   NO_HINT        (default, WRITE, BOLD) tells the backend nothing after arming
 *   ONLY_ANSWERED  (WRITE) does not fill again before the answer to the last question is seen
 *   ANY_COMPLETION (WRITE) room is when any operation's completion has not been reaped
 *   LATE_ROOM      (WRITE) says how much room it asks for after it has armed
 *   OLD_ROOM       (BOLD) an open question is not changed when the room has been used
 *   NO_SETTLE      (EAGER, BOLD) does not wait for the backend before the last look
 */

#define CLIENT 0
#define BACKEND 1
#define WORDS 7
#define HEAD 0  /* backend: bytes received; WRITE: writes completed */
#define TOKEN 1 /* backend: the question that was answered */
#define TAIL 2  /* client: bytes read; WRITE: writes submitted */
#define ARM 3   /* client: questions asked */
#define ROOM 4 /* client, WRITE: so many writes completed are room; ANY_COMPLETION: reaped */
#define SETTLED 5 /* backend: settles answered */
#define OTHERS 6 /* backend, WRITE: completions that are of no write */
#define PENDING(who, word) ((who) * WORDS + (word))
#define LAST 3 /* bytes, or writes */
#ifdef BOLD
#define WRITE
#endif

byte memory[WORDS];
bool pending[14];
byte value[14];
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
     !pending[PENDING(who, 3)] && !pending[PENDING(who, 4)] && !pending[PENDING(who, 5)] &&        \
     !pending[PENDING(who, 6)])

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
    :: atomic { pending[PENDING(_pid, 6)] -> memory[6] = value[PENDING(_pid, 6)]; pending[PENDING(_pid, 6)] = false }
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
    fence(BACKEND);
    load(BACKEND, ARM, arm);
    if
    :: arm != token ->
        load(BACKEND, ROOM, room);
#ifdef ANY_COMPLETION
        load(BACKEND, TAIL, tail);
#define HAS_ROOM (done == tail || done + others != room)
#else
#define HAS_ROOM (done >= room)
#endif
        if
        :: HAS_ROOM ->
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
    byte done, others, token, tail, room, arm, settled;
end:
    do
    :: memory[TAIL] > done ->
        done++;
        store_release(BACKEND, HEAD, done);
        update()
    :: others < 1 ->
        others++;
        store_release(BACKEND, OTHERS, others);
        update()
    :: atomic { hint -> fence(BACKEND); hint = false }
        update()
#ifdef BOLD
    :: settled != settles ->
        update();
        settled++;
        store_release(BACKEND, SETTLED, settled)
#endif
    od
}

inline stuff() {
    atomic {
        fence(CLIENT);
        was = tokens;
        tokens = 1
    }
}

/* fill() of native/client/mirror.c, if there is no room. */
inline fill() {
    load(CLIENT, HEAD, reaped);
    if
    :: sent != reaped ->
#ifdef ANY_COMPLETION
        load(CLIENT, OTHERS, room);
        room = room + reaped;
#else
        room = reaped + 1;
#endif
        load(CLIENT, TOKEN, token);
#ifdef ONLY_ANSWERED
        if
        :: token != arm -> goto asked
        :: else
        fi;
#endif
        stuff();
        load(CLIENT, TOKEN, token);
        open = was && token != arm;
        if
        :: was && !open -> stuff()
        :: else
        fi;
        load(CLIENT, ROOM, wanted);
        if
        :: open && wanted == room
        :: else ->
#ifdef OLD_ROOM
            if
            :: open -> goto asked
            :: else
            fi;
#endif
#ifndef LATE_ROOM
            store_release(CLIENT, ROOM, room);
#endif
            if
            :: open -> unsure = true; fence(CLIENT)
            :: else ->
                arm++;
                store_fence(CLIENT, ARM, arm)
            fi;
#ifdef LATE_ROOM
            store_release(CLIENT, ROOM, room);
#endif
            push_hint()
        fi
    :: else
    fi;
asked:
    skip
}

#define SETTLES 2

active proctype client() {
    byte sent, reaped, arm, token, room, wanted;
    bool was, open, unsure, asks;
    do
    :: sent == LAST -> break
    :: else ->
        asks = true;
#ifdef BOLD
        if
        :: settles < SETTLES
        :: asks = false
        fi;
        if
        :: asks && unsure ->
#ifndef NO_SETTLE
            atomic { fence(CLIENT); settles++ }
            memory[SETTLED] == settles;
#endif
            unsure = false;
            fill();
            unsure = false
        :: else
        fi;
#endif
        if
        :: asks -> tokens == 0 /* poll says writable */
        :: else
        fi;
        load(CLIENT, HEAD, reaped);
        assert(!asks || sent == reaped); /* there is room */
        if
        :: sent == reaped ->
            sent++;
            store_release(CLIENT, TAIL, sent);
            push_hint();
            fill()
        :: else
        fi
    od;
    tokens == 0 /* nothing is left that could make it silent */
}

#endif
