// What the plain-C tests share: a check that says what failed, and a mutex in the place of the GIL.
#ifndef CHECK_H
#define CHECK_H
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                                                              \
    do {                                                                                              \
        if (!(condition)) {                                                                           \
            fprintf(stderr, "%s:%d: %s: failed: %s\n", __FILE__, __LINE__, __func__, #condition);     \
            abort();                                                                                  \
        }                                                                                             \
    } while (0)

static pthread_mutex_t gil = PTHREAD_MUTEX_INITIALIZER;
static inline void take_gil(void) { pthread_mutex_lock(&gil); }
static inline void drop_gil(void) { pthread_mutex_unlock(&gil); }
#endif
