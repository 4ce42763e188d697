/* SipHash-1-3 over a fixed number of words: for tables whose keys a peer has a say in. */
#ifndef PF_LWIP_SIPHASH_H
#define PF_LWIP_SIPHASH_H

#include <stdint.h>

static inline uint64_t pf_sip_rotate(uint64_t value, unsigned bits) {
    return value << bits | value >> (64U - bits);
}

static inline void pf_sip_round(uint64_t v[4]) {
    v[0] += v[1];
    v[1] = pf_sip_rotate(v[1], 13) ^ v[0];
    v[0] = pf_sip_rotate(v[0], 32);
    v[2] += v[3];
    v[3] = pf_sip_rotate(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = pf_sip_rotate(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = pf_sip_rotate(v[1], 17) ^ v[2];
    v[2] = pf_sip_rotate(v[2], 32);
}

/* The length is left out: all inputs of one table are equally long. */
static inline uint64_t pf_siphash(const uint64_t key[2], const uint64_t *words, unsigned count) {
    uint64_t v[4] = {key[0] ^ 0x736f6d6570736575U, key[1] ^ 0x646f72616e646f6dU,
                     key[0] ^ 0x6c7967656e657261U, key[1] ^ 0x7465646279746573U};
    for (unsigned i = 0; i < count; ++i) {
        v[3] ^= words[i];
        pf_sip_round(v);
        v[0] ^= words[i];
    }
    v[2] ^= 0xFFU;
    pf_sip_round(v);
    pf_sip_round(v);
    pf_sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

#endif
