/* Model of native/shm/ring.h: one producer, one consumer, an index that wraps.
 *
 * Checked in every interleaving: each entry arrives exactly once, whole and in order; the consumer
 * never finds an impossible index; full and empty are never taken for one another.
 *
 * Memory: each side has a store buffer in which a plain store may wait, and from which stores to
 * different words reach memory in any order (weaker than x86, as on ARM). A release store waits until
 * the earlier stores of its side are in memory, and may then itself wait in the buffer. Loads are
 * performed in program order, as an acquire load demands of the loads after it: so this model cannot
 * show a missing acquire (ThreadSanitizer does, in tests/native/test_ring.c).
 *
 *   spin -a ring.pml && gcc -O2 -o pan pan.c && ./pan       no errors
 *
 * Variants that must FAIL (spin -a -D<name> ring.pml): NO_RELEASE: tail is published as a plain store;
 * HEAD_EARLY: the entry is given back before it is copied; NO_FULL_CHECK; FULL_OFF_BY_ONE.
 */

#define ENTRIES 2
#define WRAP 8      /* indices run modulo this, as they do modulo 2^32 in C */
#define START 6     /* so that the wrap comes early */
#define ITEMS 5

/* Words in shared memory. An entry is two words: it can be seen half written. */
#define TAIL 0
#define HEAD 1
#define ENTRY(i, half) (2 + 2 * (i) + (half))
#define WORDS 6
#define PRODUCER 0
#define CONSUMER 1
#define PENDING(who, word) ((who) * WORDS + (word))

byte memory[WORDS];
bool pending[12];
byte value[12];

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
     !pending[PENDING(who, 3)] && !pending[PENDING(who, 4)] && !pending[PENDING(who, 5)])

inline store_release(who, word, what) {
    atomic {
        DRAINED(who);
        pending[PENDING(who, word)] = true;
        value[PENDING(who, word)] = what
    }
}

/* Buffered stores reach memory at any moment, in any order. */
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

#define USED(tail, head) (((tail) + WRAP - (head)) % WRAP)

proctype producer() {
    byte tail = START, head, item = 1;
    do
    :: item <= ITEMS ->
        load(PRODUCER, HEAD, head);
        if
#ifdef NO_FULL_CHECK
        :: true ->
#else
#ifdef FULL_OFF_BY_ONE
        :: USED(tail, head) <= ENTRIES ->
#else
        :: USED(tail, head) < ENTRIES ->
#endif
#endif
            store_relaxed(PRODUCER, ENTRY(tail % ENTRIES, 0), item);
            store_relaxed(PRODUCER, ENTRY(tail % ENTRIES, 1), item);
            tail = (tail + 1) % WRAP;
#ifdef NO_RELEASE
            store_relaxed(PRODUCER, TAIL, tail);
#else
            store_release(PRODUCER, TAIL, tail);
#endif
            item++
#if !defined(NO_FULL_CHECK)
        :: else /* full: look again */
#endif
        fi
    :: else -> break
    od
}

proctype consumer() {
    byte head = START, tail, first, second, item = 1;
    do
    :: item <= ITEMS ->
        load(CONSUMER, TAIL, tail);
        assert(USED(tail, head) <= ENTRIES);
        if
        :: tail != head ->
#ifdef HEAD_EARLY
            store_release(CONSUMER, HEAD, (head + 1) % WRAP);
#endif
            load(CONSUMER, ENTRY(head % ENTRIES, 0), first);
            load(CONSUMER, ENTRY(head % ENTRIES, 1), second);
            assert(first == item);
            assert(second == item);
            item++;
            head = (head + 1) % WRAP;
#ifndef HEAD_EARLY
            store_release(CONSUMER, HEAD, head)
#endif
        :: else /* empty: look again */
        fi
    :: else -> break
    od
}

init {
    atomic {
        memory[TAIL] = START;
        memory[HEAD] = START;
        run buffers();
        run producer();
        run consumer()
    }
}
