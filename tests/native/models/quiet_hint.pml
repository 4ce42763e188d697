/* Model of a hint that goes without a ring (pf_hint_quietly in native/client/reap.c, tell() in
 * native/client/submit.c): a receive of a connection to which nothing has come.
 *
 * The client submits receives, and at any time between them something that is to be served at once.
 * Bytes come at any time: the network wakes the backend for each. The backend, when it wakes: takes
 * the hints, then what the network brought, and publishes that; serves what was submitted; sleeps
 * when there is nothing to do. Of the hint ring there is one slot: a hint is pushed when the one
 * before was taken (hint_ring.pml), and what is submitted is found only by a hint.
 * The client waits for the answer of what it has submitted: a receive is answered when there is a
 * byte for it, the other at once. Some of the bytes come only after that one was answered, so
 * nothing but its own ring can wake the backend for it. A lost wake-up leaves the client waiting and
 * the backend asleep: spin reports an invalid end state.
 *
 * Memory: as in doorbell.pml.
 *
 *   spin -a quiet_hint.pml && gcc -O2 -o pan pan.c && ./pan        no errors
 *
 * Variants that must FAIL (spin -a -D<name> quiet_hint.pml):
 *   NO_LOOK            the client does not look for what came after its hint
 *   NO_FENCE_CLIENT    nothing between its hint and that look
 *   NO_FENCE_BACKEND   nothing between "I sleep" and the look for hints
 *   NO_RECHECK         the backend sleeps without that look
 *   FORGET             what is submitted behind a hint without a ring takes it for one with a ring
 */

#define CLIENT 0
#define BACKEND 1
#define SLEEPING 0
#define RECVS 1 /* submitted: receives, */
#define ASKS 2  /* and what is to be served at once */
#define HINT 3  /* the hint ring's tail, */
#define TAKEN 4 /* and its head */
#define CAME 5  /* bytes in the receive ring */
#define WORDS 6
#define PENDING(who, word) ((who) * WORDS + (word))
#define RECEIVES 2

byte memory[WORDS];
bool pending[12];
byte value[12];
bool eventfd;
byte brought;  /* by the network */
byte answered; /* receives */
byte asked;    /* the others, */
byte told;     /* and their answers */
bool finished;

inline load(who, place, out) {
    atomic {
        if
        :: pending[PENDING(who, place)] -> out = value[PENDING(who, place)]
        :: else -> out = memory[place]
        fi
    }
}

inline store_relaxed(who, place, what) {
    atomic {
        !pending[PENDING(who, place)]; /* stores to one word keep their order */
        pending[PENDING(who, place)] = true;
        value[PENDING(who, place)] = what
    }
}

#define DRAINED(who)                                                                               \
    (!pending[PENDING(who, 0)] && !pending[PENDING(who, 1)] && !pending[PENDING(who, 2)] &&        \
     !pending[PENDING(who, 3)] && !pending[PENDING(who, 4)] && !pending[PENDING(who, 5)])

inline store_release(who, place, what) {
    atomic {
        DRAINED(who);
        pending[PENDING(who, place)] = true;
        value[PENDING(who, place)] = what
    }
}

inline store_fence(who, place, what) {
    atomic {
        DRAINED(who);
        memory[place] = what
    }
}

#define FLUSH(i) atomic { pending[i] -> memory[i % WORDS] = value[i]; pending[i] = false; value[i] = 0 }

proctype buffers() {
end: /* nothing buffered is a proper end; and no step is possible then, so that a hang shows */
    do
    :: FLUSH(0)
    :: FLUSH(1)
    :: FLUSH(2)
    :: FLUSH(3)
    :: FLUSH(4)
    :: FLUSH(5)
    :: FLUSH(6)
    :: FLUSH(7)
    :: FLUSH(8)
    :: FLUSH(9)
    :: FLUSH(10)
    :: FLUSH(11)
    od
}

/* pf_hint_push: between what was submitted and the look at the head there is a fence. */
inline push(pushed) {
    atomic { DRAINED(CLIENT) };
    load(CLIENT, TAKEN, taken);
    if
    :: taken == hints ->
        hints++;
        store_release(CLIENT, HINT, hints);
        pushed = true
    :: else -> pushed = false
    fi
}

/* pf_hint */
inline loud() {
    push(pushed);
#ifdef FORGET
    due = pushed;
#else
    due = pushed || unrung;
#endif
    unrung = false;
    if
    :: due ->
        atomic { DRAINED(CLIENT) };
        load(CLIENT, SLEEPING, sleeping);
        if
        :: sleeping -> eventfd = true
        :: else
        fi
    :: else
    fi
}

proctype client() {
    byte receives, hints, taken, sleeping, came;
    bool pushed, due, unrung;
    do
    :: receives < RECEIVES ->
        receives++;
        store_release(CLIENT, RECVS, receives);
        push(pushed); /* pf_hint_quietly */
        unrung = unrung || pushed;
#ifndef NO_FENCE_CLIENT
        atomic { DRAINED(CLIENT) };
#endif
        came = 0;
#ifndef NO_LOOK
        load(CLIENT, CAME, came); /* nothing_came */
#endif
        if
        :: came >= receives -> loud()
        :: else
        fi;
        if
        :: true -> /* something else, while the receive waits */
            asked++;
            store_release(CLIENT, ASKS, asked);
            loud();
            told == asked
        :: true
        fi;
        answered >= receives
    :: else -> break
    od;
    finished = true;
    eventfd = true
}

/* Bytes: each wakes the backend. None comes while something else waits for its answer. */
proctype network() {
    do
    :: brought < RECEIVES ->
        atomic {
            asked == told;
            brought++;
            eventfd = true
        }
    :: else -> break
    od
}

proctype backend() {
    byte hints, taken, came, receives, asks;
    bool news;
    do
    :: finished -> break
    :: else ->
        /* take_hints */
        load(BACKEND, HINT, hints);
        if
        :: hints != taken ->
            taken = hints;
            store_fence(BACKEND, TAKEN, taken);
            load(BACKEND, RECVS, receives);
            load(BACKEND, ASKS, asks)
        :: else
        fi;
        told = asks;
        if
        :: came != brought -> /* a frame: pf_rx_flush */
            came = brought;
            store_release(BACKEND, CAME, came)
        :: else
        fi;
        answered = (receives < came -> receives : came);
        /* sleep_until_news */
#ifdef NO_FENCE_BACKEND
        store_release(BACKEND, SLEEPING, 1);
#else
        store_fence(BACKEND, SLEEPING, 1);
#endif
#ifndef NO_RECHECK
        load(BACKEND, HINT, hints);
#endif
        news = hints != taken || came != brought;
        if
        :: !news -> atomic { eventfd -> eventfd = false }
        :: else
        fi;
        store_relaxed(BACKEND, SLEEPING, 0)
    od
}

init {
    atomic {
        run buffers();
        run client();
        run network();
        run backend()
    }
}
