/* Model of native/futex/doorbell.h: no wake-up is lost.
 *
 * Three protocols, chosen by -D:
 *   (default)  the backend's: one sleeper with a flag and an eventfd, two ringers (two clients);
 *   -DBELL     a client's event loop (pf_bell_arm, pf_bell_ring): one sleeper that counts its
 *              armings and waits for a descriptor; the ringer rings once for each arming. (There
 *              is one, the stack thread; two are the harder case.)
 *   -DCLIENT   the clients': two sleeping threads that count themselves and wait on a futex word,
 *              one ringer (the backend).
 * Sleepers end when they have seen all news. A lost wake-up leaves a sleeper asleep for ever while
 * nobody else can move: spin reports an invalid end state.
 *
 * Memory: each process has a store buffer, from which stores reach memory at any later time, those to
 * different words in any order; loads look into their own buffer first. A release store waits for the
 * earlier stores of its side; a full fence waits until the own buffer is empty; an exchange or
 * addition waits as well and works on memory. A system call acts as a full fence (the kernel's futex
 * code takes a lock and has a barrier between counting a waiter and comparing the word). Loads are
 * performed in program order. `spurious` allows one wake-up for no reason (a signal).
 *
 *   spin -a doorbell.pml && gcc -O2 -o pan pan.c && ./pan              no errors
 *   spin -a -DCLIENT doorbell.pml && gcc -O2 -o pan pan.c && ./pan     no errors
 *
 * also: -DCLIENT -DBELL
 *
 * Variants that must FAIL, with and without -DCLIENT unless said otherwise:
 *   NO_FENCE           no side has a fence between its write and its look
 *   NO_FENCE_RINGER, NO_FENCE_SLEEPER    one side only. With -DCLIENT the sleeper's fences are the
 *                      locked addition and the kernel's: the variant has neither of them
 *   NO_RECHECK         backend: sleeps without a second look
 *   LATE_WORD          -DCLIENT: takes the futex word after the look instead of before
 *   SAME_ARM           -DBELL: arms with the same number each time
 *   NO_BUMP            -DCLIENT: rings without changing the futex word
 *   WAKE_ONE           -DCLIENT: wakes one sleeper instead of all
 */

#ifdef NO_FENCE
#define NO_FENCE_RINGER
#define NO_FENCE_SLEEPER
#endif

/* Processes that have a store buffer, and the words of shared memory. */
#define PARTIES 3
#define WORDS 4
#define SLEEPING 0 /* backend: the flag. CLIENT: `waiting` */
#define EVENT 1    /* CLIENT: the futex word */
#define NEWS(ringer) (2 + (ringer))
#define PENDING(who, word) ((who) * WORDS + (word))

byte memory[WORDS];
bool pending[12];
byte value[12];

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
     !pending[PENDING(who, 3)])

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

#ifndef CLIENT

/* ---- the backend sleeps, two clients ring ---- */

#define SLEEPER 0
#define RINGERS 2
#define CHANGES 3

bool eventfd;
byte spurious = 1;

proctype sleeper() {
    byte seen0, seen1, news0, news1, arm;
    do
    :: load(SLEEPER, NEWS(0), news0);
        load(SLEEPER, NEWS(1), news1);
        if
        :: news0 != seen0 || news1 != seen1 ->
            seen0 = news0;
            seen1 = news1
        :: else ->
            if
            :: seen0 == CHANGES && seen1 == CHANGES -> break
            :: else
            fi;
            /* pf_doorbell_announce; BELL: pf_bell_arm */
#if defined(BELL) && !defined(SAME_ARM)
            arm++;
#else
            arm = 1;
#endif
#ifdef NO_FENCE_SLEEPER
            store_release(SLEEPER, SLEEPING, arm);
#else
            store_fence(SLEEPER, SLEEPING, arm);
#endif
#ifndef NO_RECHECK
            load(SLEEPER, NEWS(0), news0);
            load(SLEEPER, NEWS(1), news1);
#endif
            if
            :: news0 != seen0 || news1 != seen1
            :: else ->
                atomic { /* read(eventfd): sleeps until it was rung */
                    if
                    :: eventfd -> eventfd = false
                    :: spurious > 0 -> spurious--
                    fi
                }
            fi;
#ifdef BELL
            skip /* the arming counts as long as it was not answered */
#else
            /* pf_doorbell_awake */
            store_relaxed(SLEEPER, SLEEPING, 0)
#endif
        fi
    od
}

proctype ringer(byte who) {
    byte news, sleeping, answered;
    do
    :: news < CHANGES ->
        news++;
        store_release(who, NEWS(who - 1), news);
        /* pf_doorbell_must_ring */
#ifndef NO_FENCE_RINGER
        DRAINED(who);
#endif
        load(who, SLEEPING, sleeping);
        if
#ifdef BELL
        :: sleeping != answered -> /* pf_bell_ring */
            answered = sleeping;
            eventfd = true
#else
        :: sleeping -> eventfd = true
#endif
        :: else
        fi
    :: else -> break
    od
}

init {
    atomic {
        run buffers();
        run sleeper();
        run ringer(1);
        run ringer(2)
    }
}

#else

/* ---- two threads of a client sleep, the backend rings ---- */

#define RINGER 2
#define CHANGES 3

bool asleep[2];
byte spurious = 1;

proctype sleeper(byte who) {
    byte seen, news, word, count;
    bool sleeps;
    do
    :: 
#ifndef LATE_WORD
        load(who, EVENT, word);
#endif
        load(who, NEWS(0), news);
        if
        :: news != seen ->
            seen = news
        :: else ->
            if
            :: seen == CHANGES -> break
            :: else
            fi;
#ifdef LATE_WORD
            load(who, EVENT, word);
#endif
            /* pf_event_sleep: count, wait, count down */
#ifdef NO_FENCE_SLEEPER
            /* A plain store cannot count two threads: each adds its own bit. */
            atomic {
                load(who, SLEEPING, count);
                !pending[PENDING(who, SLEEPING)];
                pending[PENDING(who, SLEEPING)] = true;
                value[PENDING(who, SLEEPING)] = count | (1 << who)
            }
#else
            atomic {
                DRAINED(who);
                memory[SLEEPING] = memory[SLEEPING] + 1
            }
#endif
            /* FUTEX_WAIT: compares and goes to sleep in one step, under the kernel's lock. */
            atomic {
#ifndef NO_FENCE_SLEEPER
                DRAINED(who);
#endif
                sleeps = memory[EVENT] == word;
                asleep[who] = sleeps
            }
            if
            :: sleeps ->
                if
                :: !asleep[who]
                :: atomic { spurious > 0 -> spurious--; asleep[who] = false }
                fi
            :: else
            fi;
            sleeps = false;
#ifdef NO_FENCE_SLEEPER
            atomic {
                DRAINED(who);
                memory[SLEEPING] = memory[SLEEPING] & (255 - (1 << who));
                count = 0
            }
#else
            atomic {
                DRAINED(who);
                memory[SLEEPING] = memory[SLEEPING] - 1
            }
#endif
        fi
    od
}

proctype ringer() {
    byte news, event, waiting;
    do
    :: news < CHANGES ->
        news++;
        store_release(RINGER, NEWS(0), news);
        /* pf_event_ring */
#ifndef NO_BUMP
        event++;
#endif
#ifdef NO_FENCE_RINGER
        store_release(RINGER, EVENT, event);
#else
        store_fence(RINGER, EVENT, event);
#endif
        load(RINGER, SLEEPING, waiting);
        if
        :: waiting != 0 ->
            /* FUTEX_WAKE */
            atomic {
                DRAINED(RINGER);
#ifdef WAKE_ONE
                if
                :: asleep[0] -> asleep[0] = false
                :: else -> asleep[1] = false
                fi
#else
                asleep[0] = false;
                asleep[1] = false
#endif
            }
        :: else
        fi
    :: else -> break
    od
}

init {
    atomic {
        run buffers();
        run sleeper(0);
        run sleeper(1);
        run ringer()
    }
}

#endif
