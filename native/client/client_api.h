/* client.h for C: with a guard and what it needs. */
#ifndef PF_CLIENT_API_H
#define PF_CLIENT_API_H

#include <stddef.h>
#include <stdint.h>

#include "shm/layout.h"

#include "client/client.h"

#endif
