#include "deadlock.h"
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "clock.h"
#include "segment.h"
#include "text.h"
#include "thread.h"

enum {
    MAX_THREADS = 64,     // in a cycle; a longer one is left to `tracedthread dump`
    MAX_REPORTED = 32
};
#define CONFIRM_NS 100000000

typedef struct edge {
    uint32_t thread, blocker;   // tt_thread_record
    const tt_contended *lock;   // NULL: the blocker is joined
} edge;

static uint64_t after_ns = 5000000000u;
static int report_to = -1;
static struct stat report_file;   // what report_to was
static uint64_t reported[MAX_REPORTED];   // the newest cycles
static uint32_t reported_count;

void tt_deadlock_watch_set(uint64_t ns, int fd)
{
    after_ns = ns;
    report_to = fd >= 0 && fstat(fd, &report_file) == 0 ? fd : -1;
}

// Whether report_to is still what it was, or a terminal or a log at least: the program may have closed it, and given its
// number to a socket or to a file of its own.
static bool may_report(void)
{
    struct stat now;
    if (report_to < 0 || fstat(report_to, &now) < 0) return false;
    if (now.st_dev == report_file.st_dev && now.st_ino == report_file.st_ino) return true;
    return isatty(report_to) || (S_ISREG(now.st_mode) && fcntl(report_to, F_GETFL) & O_APPEND);
}

tt_deadlock_watch tt_deadlock_watch_begin(void)
{
    if (after_ns == 0 || !tt_the_segment.base) return (tt_deadlock_watch){.next_ns = -1};
    return (tt_deadlock_watch){.next_ns = (int64_t)(tt_clock_monotonic_ns() + after_ns), .pause_ns = (int64_t)after_ns};
}

static const tt_contended *contended_lock(uint64_t lock)
{
    const tt_contended *all = tt_the_segment.contended;
    uint64_t used = tt_the_segment.sections[TT_CONTENDED].used;
    for (uint64_t i = 1; i < used; i++)
        if (all[i].lock == lock) return &all[i];
    return NULL;
}

// Whom the thread waits for, if it is for one thread and without a timeout.
static bool find_blocker(uint32_t thread, edge *found)
{
    const tt_thread_record *r = &tt_the_segment.threads[thread];
    if (r->state != TT_THREAD_RUNNING || r->wait_since == 0 || r->wait_timed) return false;
    *found = (edge){.thread = thread};
    if (r->wait_kind == TT_KIND_JOIN) {
        found->blocker = tt_thread_of_ident(r->wait_lock);
        return found->blocker != 0;
    }
    if (r->wait_kind != TT_KIND_LOCK && r->wait_kind != TT_KIND_RLOCK) return false;
    found->lock = contended_lock(r->wait_lock);
    if (!found->lock || !found->lock->owner) return false;
    found->blocker = found->lock->owner;
    const tt_thread_record *owner = &tt_the_segment.threads[found->blocker];
    // A thread that we have started cannot own what was taken before: it has the ident of one that is gone.
    bool impostor = owner->run_ticks && found->lock->held_since < owner->start_ticks;
    return owner->generation == found->lock->owner_generation && !impostor;
}

// Whether nobody outside of the cycle can end it. A plain lock may be released by any thread: two of them that each hold a
// lock the other wants are taken for a deadlock, but one that waits for a lock it took itself may just wait for a signal.
// The same rule is in tracedthread/deadlock.py.
static bool is_certain(const edge *edges, uint32_t count)
{
    uint32_t locks = 0, loose = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (!edges[i].lock) continue;
        locks++;
        loose += edges[i].lock->type != TT_RLOCK && !edges[i].lock->entered;
    }
    return loose == 0 || (locks == count && count > 1);
}

// The edges of the deadlock that `thread` is part of, beginning with its own; 0: there is none.
static uint32_t find_cycle(uint32_t thread, edge *edges)
{
    if (thread == 0) return 0;
    uint32_t at = thread;
    for (uint32_t count = 0; count < MAX_THREADS; at = edges[count++].blocker) {
        if (count && at == thread) return is_certain(edges, count) ? count : 0;
        if (!find_blocker(at, &edges[count])) return 0;
    }
    return 0;
}

static uint64_t mix(uint64_t hash, uint64_t value)
{
    hash = (hash ^ value) * 0x9E3779B97F4A7C15u;
    return hash ^ hash >> 29;
}

// The same from whichever of its threads one starts.
static uint64_t number_of(const edge *edges, uint32_t count)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        const tt_thread_record *r = &tt_the_segment.threads[edges[i].thread];
        uint64_t hash = mix(mix(mix(1, edges[i].thread), r->generation), r->wait_since);
        hash = mix(hash, edges[i].blocker);
        if (edges[i].lock) hash = mix(mix(hash, edges[i].lock->lock), edges[i].lock->held_since);
        sum += hash;
    }
    return sum ? sum : 1;
}

uint64_t tt_deadlock_of(uint32_t thread)
{
    edge edges[MAX_THREADS];
    uint32_t count = find_cycle(thread, edges);
    return count ? number_of(edges, count) : 0;
}

static void add_thread(tt_text *t, uint32_t thread)
{
    const tt_thread_record *r = &tt_the_segment.threads[thread];
    if (r->label[0])
        tt_text_add_bytes(t, r->label, strnlen(r->label, sizeof r->label));
    else if (r->name)
        tt_text_add_string(t, r->name);
    else
        tt_text_add(t, "thread %u", r->native_id);
}

static void add_lock(tt_text *t, uint64_t lock, const tt_site *site)
{
    if (site->name)
        tt_text_add_string(t, site->name);
    else
        tt_text_add(t, "lock 0x%llx", (unsigned long long)lock);
}

static void add_place(tt_text *t, uint32_t file, uint32_t line)
{
    tt_text_add_file(t, file);
    tt_text_add(t, ":%u", line);
}

// {"deadlock": {"length": 2, "threads": [{"thread": "t-AB", "ident": 1, "kind": "lock", "for": "B", "created": "app.py:12",
//  "held_by": "t-BA", "in": "second", "at": "app.py:20"}, ...]}}; of a join, "for" is the thread. Of a long cycle not all
// threads are listed.
static void write_note(const edge *edges, uint32_t count)
{
    char buffer[4096];
    tt_text t = tt_text_begin(buffer, sizeof buffer, true);
    tt_text_add(&t, TT_DEADLOCK_NOTE "{\"length\": %u, \"threads\": [", count);
    for (uint32_t i = 0; i < count && (i < 2 || t.size - t.length > 512); i++) {
        const tt_thread_record *r = &tt_the_segment.threads[edges[i].thread];
        tt_text_add(&t, "%s{\"thread\": \"", i ? ", " : "");
        add_thread(&t, edges[i].thread);
        tt_text_add(&t, "\", \"ident\": %llu, \"kind\": \"%s\", \"for\": \"", (unsigned long long)r->ident,
                    !edges[i].lock ? "join" : edges[i].lock->type == TT_RLOCK ? "rlock" : "lock");
        if (edges[i].lock) {
            const tt_site *site = &tt_the_segment.sites[edges[i].lock->site];
            add_lock(&t, edges[i].lock->lock, site);
            tt_text_add(&t, "\", \"created\": \"");
            add_place(&t, site->file, site->line);
        }
        else
            add_thread(&t, edges[i].blocker);
        tt_text_add(&t, "\", \"held_by\": \"");
        add_thread(&t, edges[i].blocker);
        if (r->wait_stack) {
            const tt_frame *frame = &tt_the_segment.frames[tt_the_segment.stacks[r->wait_stack].frame];
            tt_text_add(&t, "\", \"in\": \"");
            tt_text_add_string(&t, frame->function);
            tt_text_add(&t, "\", \"at\": \"");
            add_place(&t, frame->file, frame->line);
        }
        tt_text_add(&t, "\"}");
    }
    tt_text_add(&t, "]}}");
    if (t.cut)
        tt_the_segment.sections[TT_NOTES].lost++;
    else
        tt_capture_note(buffer, t.length);
}

// tracedthread: deadlock: t-AB waits for B (app.py:12) held by t-BA, which waits for A (app.py:11) held by t-AB
static void write_line(const edge *edges, uint32_t count, char line[TT_DEADLOCK_LINE])
{
    tt_text t = tt_text_begin(line, TT_DEADLOCK_LINE - 1, false);
    tt_text_add(&t, "tracedthread: deadlock: ");
    add_thread(&t, edges[0].thread);
    for (uint32_t i = 0; i < count; i++) {
        tt_text_add(&t, i ? ", which waits for " : " waits for ");
        if (edges[i].lock) {
            const tt_site *site = &tt_the_segment.sites[edges[i].lock->site];
            add_lock(&t, edges[i].lock->lock, site);
            tt_text_add(&t, " (");
            add_place(&t, site->file, site->line);
            tt_text_add(&t, ") held by ");
        }
        if (edges[i].blocker == edges[i].thread)
            tt_text_add(&t, "itself");
        else
            add_thread(&t, edges[i].blocker);
        if (!edges[i].lock) tt_text_add(&t, " to end");
    }
    memcpy(line + t.length, "\n", 2);
}

static bool is_reported(uint64_t number)
{
    for (uint32_t i = 0; i < MAX_REPORTED; i++)
        if (reported[i] == number) return true;
    return false;
}

bool tt_deadlock_look(tt_deadlock_watch *watch, char line[TT_DEADLOCK_LINE])
{
    edge edges[MAX_THREADS];
    int64_t now = (int64_t)tt_clock_monotonic_ns();
    uint32_t count = after_ns && tt_the_segment.base ? find_cycle(tt_thread_current_index(), edges) : 0;
    uint64_t number = count ? number_of(edges, count) : 0;
    bool is_news = number && !is_reported(number), confirmed = is_news && number == watch->suspect;
    watch->suspect = number;
    if (is_news && !confirmed) {
        watch->next_ns = now + CONFIRM_NS;
        return false;
    }
    watch->next_ns = now + watch->pause_ns;
    watch->pause_ns *= watch->pause_ns < INT64_MAX / 4 ? 2 : 1;
    if (!confirmed) return false;
    reported[reported_count++ % MAX_REPORTED] = number;
    tt_the_segment.totals->deadlocks++;
    write_note(edges, count);
    write_line(edges, count, line);
    return true;
}

void tt_deadlock_say(const char *line)
{
    // Not if that would block, or raise SIGPIPE.
    struct pollfd door = {.fd = report_to, .events = POLLOUT};
    if (!may_report() || poll(&door, 1, 0) != 1 || door.revents != POLLOUT) return;
    ssize_t written = write(report_to, line, strlen(line));
    (void)written;
}
