/* Model of native/shm/hint_ring.h: no hint is lost, the ring never overflows.
 *
 * The producer changes the news of a slot and pushes a hint, unless one for that slot is outstanding.
 * The consumer takes hints, may say how far it has taken them (in a completion), publishes, and looks
 * at the news. The producer pushes without fence and look where it knows the earlier hint taken.
 * Asserted in every interleaving:
 *   - when everything has come to rest and no hint is left, all news have been seen;
 *   - with twice as many entries as slots, push never finds the ring full, nor an impossible index;
 *   - a hint names the slot that was pushed (its entry is never read before it was written), whether
 *     it is read from the ring or from the line of the tail (two entries here).
 *
 * Memory: as in ring.pml, each side has a store buffer, from which stores to different words reach
 * memory in any order and at any later time; loads look into their own buffer first. A release store
 * waits for the earlier stores of its side. A full fence waits until the own buffer is empty;
 * pf_store_fence is an exchange: the buffer is empty and the value is in memory. Loads are performed
 * in program order.
 *
 *   spin -a hint_ring.pml && gcc -O2 -o pan pan.c && ./pan        no errors
 *
 * Variants that must FAIL (spin -a -D<name> hint_ring.pml):
 *   NO_FENCE           neither side has a fence: each store of an index or of news may still be in
 *                      its buffer while the other word is read, and a hint is lost
 *   NO_FENCE_PRODUCER, NO_FENCE_CONSUMER    one side only: the other one's fence is not enough
 *   LOOK_FIRST         the consumer looks at the news before it gives the hint back
 *   NO_RELEASE         the tail may be seen before the entry
 *   NO_DEDUPE          every change of news pushes: the ring overflows (-DCHANGES=7)
 *   TAKE_AGAIN         the consumer takes more before it has looked at what it took: news are lost
 *                      (-DCHANGES=5)
 *   NO_SECOND_LOOK     the line of the tail is believed although the tail has moved on
 */

#ifdef NO_FENCE
#define NO_FENCE_PRODUCER
#define NO_FENCE_CONSUMER
#endif

#define SLOTS 3
#define ENTRIES 6 /* a power of two in C; here any number does */
#define RECENT 2
#define WRAP 12  /* the shared indices run modulo this */
#define START 10 /* so that they wrap early */
#ifndef CHANGES
#define CHANGES 4
#endif

#define TAIL 0
#define HEAD 1
#define ENTRY(i) (2 + (i))
#define NEWS(slot) (8 + (slot))
#define LINE(i) (11 + (i))
#define TAKEN 13
#define WORDS 14
#define PRODUCER 0
#define CONSUMER 1
#define PENDING(who, word) ((who) * WORDS + (word))
#define NOTHING 255

byte memory[WORDS];
bool pending[28];
byte value[28];
byte names[WRAP]; /* which slot the hint at a position was about */
byte seen[SLOTS];
bool producer_done;

inline load(who, word, out) {
    atomic {
        if
        :: pending[PENDING(who, word)] -> out = value[PENDING(who, word)]
        :: else -> out = memory[word]
        fi
    }
}

inline store_relaxed(who, word, what) {
    atomic {
        !pending[PENDING(who, word)]; /* stores to one word keep their order */
        pending[PENDING(who, word)] = true;
        value[PENDING(who, word)] = what
    }
}

#define DRAINED(who)                                                                               \
    (!pending[PENDING(who, 0)] && !pending[PENDING(who, 1)] && !pending[PENDING(who, 2)] &&        \
     !pending[PENDING(who, 3)] && !pending[PENDING(who, 4)] && !pending[PENDING(who, 5)] &&        \
     !pending[PENDING(who, 6)] && !pending[PENDING(who, 7)] && !pending[PENDING(who, 8)] &&        \
     !pending[PENDING(who, 9)] && !pending[PENDING(who, 10)] && !pending[PENDING(who, 11)] &&      \
     !pending[PENDING(who, 12)] && !pending[PENDING(who, 13)])

inline store_release(who, word, what) {
    atomic {
        DRAINED(who);
        pending[PENDING(who, word)] = true;
        value[PENDING(who, word)] = what
    }
}

inline store_fence(who, word, what) {
    atomic {
        DRAINED(who);
        memory[word] = what
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
    :: FLUSH(12)
    :: FLUSH(13)
    :: FLUSH(14)
    :: FLUSH(15)
    :: FLUSH(16)
    :: FLUSH(17)
    :: FLUSH(18)
    :: FLUSH(19)
    :: FLUSH(20)
    :: FLUSH(21)
    :: FLUSH(22)
    :: FLUSH(23)
    :: FLUSH(24)
    :: FLUSH(25)
    :: FLUSH(26)
    :: FLUSH(27)
    od
}

#define USED(tail, head) (((tail) + WRAP - (head)) % WRAP)

proctype producer() {
    /* The private tail and the marks are 64 bits wide in C: they do not wrap. */
    byte tail = START, known = START, mark[SLOTS], news[SLOTS], head, used, slot, changes;
    bool push;
    do
    :: changes < CHANGES ->
        changes++;
        if
        :: slot = 0
        :: slot = 1
        :: slot = 2
        fi;
        news[slot]++;
        store_release(PRODUCER, NEWS(slot), news[slot]);
        /* pf_hint_learn: a completion came, or did not */
        if
        :: load(PRODUCER, TAKEN, head);
           known = tail - USED(tail % WRAP, head)
        :: true
        fi;
        /* pf_hint_push */
        if
#ifdef NO_DEDUPE
        :: true ->
            push = true
#endif
        :: mark[slot] <= known ->
            push = true
        :: mark[slot] > known ->
#ifndef NO_FENCE_PRODUCER
            DRAINED(PRODUCER);
#endif
            load(PRODUCER, HEAD, head);
            used = USED(tail % WRAP, head);
            assert(used <= ENTRIES);
            push = (mark[slot] <= tail - used)
        fi;
        if
        :: push ->
            /* More than the ring holds: the consumer would find its tail impossible. */
            assert(USED(tail % WRAP, memory[HEAD]) < ENTRIES);
            names[tail % WRAP] = slot;
            store_relaxed(PRODUCER, ENTRY(tail % ENTRIES), slot);
            store_release(PRODUCER, LINE(tail % RECENT), slot);
            tail++;
            mark[slot] = tail;
#ifdef NO_RELEASE
            store_relaxed(PRODUCER, TAIL, tail % WRAP)
#else
            store_release(PRODUCER, TAIL, tail % WRAP)
#endif
        :: else
        fi;
        push = false;
        head = 0;
        used = 0
    :: else -> break
    od;
    producer_done = true
}

#define AT_REST (producer_done && DRAINED(PRODUCER) && DRAINED(CONSUMER))

proctype consumer() {
    byte head = START, tail, count, i, news, slots[ENTRIES];
    bool from_line;
again:
    do
    :: /* Nothing can change any more while it is at rest: the last look is a look at everything. */
        memory[TAIL] != head || AT_REST;
        load(CONSUMER, TAIL, tail);
        if
        :: tail == head ->
            if
            :: AT_REST -> break
            :: else
            fi
        :: else ->
            /* pf_hint_pop: one hint, or all of them */
            assert(USED(tail, head) <= ENTRIES);
            if
            :: count = 1
            :: count = USED(tail, head)
            fi;
            i = 0;
            from_line = (count < RECENT);
            if
            :: from_line ->
                load(CONSUMER, LINE(head % RECENT), slots[0]);
#ifndef NO_SECOND_LOOK
                load(CONSUMER, TAIL, tail);
                from_line = (USED(tail, head) < RECENT)
#endif
            :: else
            fi;
            do
            :: i < count ->
                if
                :: !from_line -> load(CONSUMER, ENTRY((head + i) % ENTRIES), slots[i])
                :: else
                fi;
                assert(slots[i] == names[(head + i) % WRAP]);
                i++
            :: else -> break
            od;
            head = (head + count) % WRAP;
            /* A completion tells: at once, or never. */
            if
            :: store_release(CONSUMER, TAKEN, head)
            :: true
            fi;
#ifdef TAKE_AGAIN
            if
            :: memory[TAIL] != head -> goto again
            :: true
            fi;
#endif
#ifndef LOOK_FIRST
#ifdef NO_FENCE_CONSUMER
            store_release(CONSUMER, HEAD, head);
#else
            store_fence(CONSUMER, HEAD, head);
#endif
#endif
            /* and only now: look */
            i = 0;
            do
            :: i < count ->
                load(CONSUMER, NEWS(slots[i]), news);
                assert(news >= seen[slots[i]]);
                seen[slots[i]] = news;
                slots[i] = 0;
                i++
            :: else -> break
            od;
#ifdef LOOK_FIRST
            store_fence(CONSUMER, HEAD, head);
#endif
            i = 0;
            news = 0;
            count = 0;
            from_line = false
        fi
    od;
    assert(seen[0] == memory[NEWS(0)]);
    assert(seen[1] == memory[NEWS(1)]);
    assert(seen[2] == memory[NEWS(2)])
}

init {
    atomic {
        memory[TAIL] = START;
        memory[HEAD] = START;
        memory[TAKEN] = START;
        memory[ENTRY(0)] = NOTHING;
        memory[ENTRY(1)] = NOTHING;
        memory[ENTRY(2)] = NOTHING;
        memory[ENTRY(3)] = NOTHING;
        memory[ENTRY(4)] = NOTHING;
        memory[ENTRY(5)] = NOTHING;
        memory[LINE(0)] = NOTHING;
        memory[LINE(1)] = NOTHING;
        run buffers();
        run producer();
        run consumer()
    }
}
