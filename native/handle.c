#include "handle.h"
#include <stdlib.h>

// Every handle there is. A fork's child walks it, whatever another thread was doing to it: it is linked so that `next` leads
// on at every moment.
static tt_handle *registry;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;   // nobody takes another lock under it

tt_handle *tt_handle_new(void)
{
    tt_handle *h = calloc(1, sizeof *h);
    if (!h) return NULL;
    atomic_init(&h->references, 1);
    h->state = TT_HANDLE_NOT_STARTED;
    pthread_mutex_lock(&mutex);
    h->next = registry;
    if (registry) registry->previous = h;
    __atomic_store_n(&registry, h, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&mutex);
    return h;
}

tt_handle *tt_handle_ref(tt_handle *h)
{
    atomic_fetch_add_explicit(&h->references, 1, memory_order_relaxed);
    return h;
}

// Takes the handle out of the registry if it has no references any more: under the mutex nobody finds it and takes one.
static bool let_go(tt_handle *h)
{
    pthread_mutex_lock(&mutex);
    bool last = atomic_fetch_sub_explicit(&h->references, 1, memory_order_acq_rel) == 1;
    if (last) {
        if (h->previous)
            __atomic_store_n(&h->previous->next, h->next, __ATOMIC_RELEASE);
        else
            __atomic_store_n(&registry, h->next, __ATOMIC_RELEASE);
        if (h->next) h->next->previous = h->previous;
    }
    pthread_mutex_unlock(&mutex);
    return last;
}

void tt_handle_unref(tt_handle *h)
{
    if (!let_go(h)) return;
    if (h->has_thread) pthread_detach(h->thread);
    free(h);
}

void tt_handle_await(tt_handle *h, bool awaited)
{
    pthread_mutex_lock(&mutex);
    h->awaited = awaited;
    pthread_mutex_unlock(&mutex);
}

tt_handle *tt_handle_awaited(uint64_t ident)
{
    pthread_mutex_lock(&mutex);
    tt_handle *h = registry;
    while (h && !(h->awaited && h->ident != ident)) h = h->next;
    if (h) tt_handle_ref(h);
    pthread_mutex_unlock(&mutex);
    return h;
}

uint32_t tt_handles_in_use(void)
{
    uint32_t count = 0;
    pthread_mutex_lock(&mutex);
    for (tt_handle *h = registry; h; h = h->next)
        count += h->state < TT_HANDLE_RUNNING || h->awaited;
    pthread_mutex_unlock(&mutex);
    return count;
}

void tt_handle_started(tt_handle *h, uint64_t ident, pthread_t thread)
{
    h->ident = ident;
    h->thread = thread;
    h->has_thread = true;
    h->state = TT_HANDLE_RUNNING;
}

void tt_handle_adopt(tt_handle *h, uint64_t ident)
{
    h->ident = ident;
    h->state = TT_HANDLE_RUNNING;
}

static void done(tt_handle *h)
{
    h->has_thread = h->joining = false;
    h->state = TT_HANDLE_DONE;
    atomic_store_explicit(&h->exiting, 1, memory_order_release);
    atomic_store_explicit(&h->joined, 1, memory_order_release);
}

void tt_handle_failed(tt_handle *h) { done(h); }

void tt_handle_exit(tt_handle *h)
{
    tt_handle_await(h, false);
    tt_unpark_all(&h->exiting);
    tt_handle_unref(h);
}

tt_status tt_handle_sleep(tt_handle *h, int64_t deadline_ns) { return tt_park(&h->exiting, deadline_ns); }

bool tt_handle_join_begin(tt_handle *h)
{
    if (h->joining || h->state == TT_HANDLE_DONE) return false;
    if (!h->has_thread) {
        h->state = TT_HANDLE_DONE;
        return false;
    }
    atomic_store_explicit(&h->joined, 0, memory_order_relaxed);
    h->joining = true;
    return true;
}

int tt_handle_join_thread(tt_handle *h) { return pthread_join(h->thread, NULL); }

void tt_handle_join_end(tt_handle *h, int error)
{
    h->joining = false;
    if (!error) {
        h->has_thread = false;
        h->state = TT_HANDLE_DONE;
    }
    tt_unpark_all(&h->joined);
}

void tt_handle_join_wait(tt_handle *h)
{
    while (tt_park(&h->joined, -1) == TT_INTR) {}
}

int tt_handle_set_done(tt_handle *h)
{
    if (h->has_thread && pthread_detach(h->thread) != 0) return -1;
    done(h);
    tt_unpark_all(&h->exiting);
    return 0;
}

void tt_handles_after_fork(void)
{
    uint64_t ident = (uint64_t)pthread_self();
    mutex = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;   // its holder may not have come along
    tt_handle *previous = NULL;
    for (tt_handle *h = registry; h; previous = h, h = h->next) {
        h->previous = previous;   // the one link that may have been in the making
        if (h->state == TT_HANDLE_NOT_STARTED || h->ident == ident) continue;
        h->awaited = false;
        done(h);
    }
}
