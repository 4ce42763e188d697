/* bench.h and floors.h for C: with a guard and what they need. */
#ifndef PF_BENCH_API_H
#define PF_BENCH_API_H

#include <stdint.h>

#include "client/client_api.h"

#include "bench/bench.h"

#include "bench/floors.h"

#endif
