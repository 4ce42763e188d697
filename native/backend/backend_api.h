/* backend.h for C: with a guard and what it needs. */
#ifndef PF_BACKEND_API_H
#define PF_BACKEND_API_H

#include <stddef.h>
#include <stdint.h>

#include "shm/layout.h"

#include "backend/backend.h"

#endif
