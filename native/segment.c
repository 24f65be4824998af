#define _GNU_SOURCE
#include "segment.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "clock.h"
#include "handle.h"
#include "intern.h"
#include "thread.h"

tt_segment tt_the_segment;
uint32_t tt_recorded_from = UINT32_MAX;
uint64_t tt_session_start = UINT64_MAX;
uint32_t tt_fork_epoch = 1;
bool tt_process_ending;

static bool has_recorded;   // ever: what was before is no pause
static uint8_t *next_mapping;   // opened, until tt_capture_move; it has a header with its size
static bool lost_at_fork;       // the ids that locks and code objects have are of a capture that is gone

static char error_text[256];

// The descriptor of the memfd behind the capture, kept for other processes: `tracedthread dump` of the same user may open
// /proc/PID/fd/N where it may neither open /proc/PID/map_files (capabilities) nor /proc/PID/mem (Yama).
enum { DOOR_LEAST = 250 };   // so that the program's own descriptors keep their numbers; a higher one costs each fork more
static struct { int fd; dev_t device; ino_t inode; } door = {.fd = -1};

static const struct { uint32_t record_size, default_capacity; } layout[TT_SECTIONS] = {
    [TT_STRINGS] = {1, 512 * 1024},
    [TT_FRAMES] = {sizeof(tt_frame), 16384},
    [TT_STACKS] = {sizeof(tt_stack), 32768},
    [TT_SITES] = {sizeof(tt_site), 1024},
    [TT_STATS] = {sizeof(tt_site_stats), 1024},
    [TT_CELLS] = {sizeof(tt_wait_cell), 8192},
    [TT_THREADS] = {sizeof(tt_thread_record), 4096},
    [TT_EVENTS] = {sizeof(tt_event), 16384},
    [TT_NOTES] = {1, 16384},
    [TT_BLAME] = {sizeof(tt_blame_cell), 4096},
    [TT_STARTS] = {sizeof(tt_start), 4096},
    [TT_CONTENDED] = {sizeof(tt_contended), 1024},
    [TT_TOTALS] = {sizeof(tt_totals), 1},
    [TT_POOLS] = {sizeof(tt_pool), 64},
};

static int fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(error_text, sizeof error_text, format, args);
    va_end(args);
    return -1;
}

const char *tt_capture_error(void) { return error_text; }

static uint64_t page_align(uint64_t n) { return (n + TT_PAGE - 1) / TT_PAGE * TT_PAGE; }

// Fills `sections` for the asked sizes; returns the length of the whole.
static uint64_t plan(const tt_sizes *sizes, tt_section *sections)
{
    static const tt_sizes defaults;
    if (!sizes) sizes = &defaults;
    const uint32_t asked[TT_SECTIONS] = {sizes->strings, sizes->frames, sizes->stacks,  sizes->sites, sizes->sites,
                                         sizes->cells,   sizes->threads, sizes->events, 0,             sizes->blame, sizes->starts,
                                         sizes->contended, 0,           sizes->pools};
    static const uint32_t least[TT_SECTIONS] = {4096, 16, 16, 16, 16, 2 * TT_KINDS, 16, 16, 4096, 16, 16, 16, 1, 4};
    uint64_t offset = page_align(sizeof(tt_header) + TT_SECTIONS * sizeof(tt_section));
    for (uint32_t id = 0; id < TT_SECTIONS; id++) {
        uint64_t capacity = asked[id] ? asked[id] : layout[id].default_capacity;
        if (capacity < least[id]) capacity = least[id];
        if (capacity > 1u << 30) capacity = 1u << 30;
        sections[id] = (tt_section){.offset = offset, .capacity = capacity, .record_size = layout[id].record_size, .id = id};
        offset += page_align(capacity * layout[id].record_size);
    }
    return offset;
}

uint64_t tt_capture_size_for(const tt_sizes *sizes)
{
    tt_section sections[TT_SECTIONS];
    return plan(sizes, sections);
}

// Field 22 of /proc/self/stat. Also runs in a fork's child handler: no stdio, no memory.
static uint64_t process_start(void)
{
    char text[1024];
    int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    char *field = strrchr(text, ')');   // the program's name may hold anything; field 3 follows it
    for (int i = 3; field && i <= 22; i++) field = strchr(field + 1, ' ');
    return field ? strtoull(field, NULL, 10) : 0;
}

// As process_start.
static uint64_t pid_space(void)
{
    char boot[64], space[64];
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t n = read(fd, boot, sizeof boot), m = readlink("/proc/self/ns/pid", space, sizeof space);
    close(fd);
    return n > 0 && m > 0 ? tt_fnv1a(tt_fnv1a(TT_FNV1A, boot, (size_t)n), space, (size_t)m) : 0;
}

static void start_sections(tt_section *sections, uint8_t *base)
{
    tt_site *sites = (tt_site *)(base + sections[TT_SITES].offset);
    sites[TT_SITE_OTHER].type = TT_LOCK;
    tt_wait_cell *cells = (tt_wait_cell *)(base + sections[TT_CELLS].offset);
    for (uint32_t kind = 0; kind < TT_KINDS; kind++) cells[kind].kind = kind;
    sections[TT_STRINGS].used = 4;   // offset 0 is the empty string: four zero bytes
    sections[TT_FRAMES].used = sections[TT_STACKS].used = sections[TT_THREADS].used = 1;
    sections[TT_SITES].used = sections[TT_STATS].used = TT_SITE_FIRST;
    sections[TT_CELLS].used = TT_KINDS;
    sections[TT_BLAME].used = sections[TT_CONTENDED].used = sections[TT_TOTALS].used = 1;
    sections[TT_POOLS].used = 1;
}

// All but `base`, which says that there is a capture and is stored last.
static void point_into(uint8_t *base, uint64_t size)
{
    tt_section *s = (tt_section *)(base + sizeof(tt_header));
    tt_the_segment = (tt_segment){
        .size = size,
        .header = (tt_header *)base,
        .sections = s,
        .strings = (char *)base + s[TT_STRINGS].offset,
        .frames = (tt_frame *)(base + s[TT_FRAMES].offset),
        .stacks = (tt_stack *)(base + s[TT_STACKS].offset),
        .sites = (tt_site *)(base + s[TT_SITES].offset),
        .stats = (tt_site_stats *)(base + s[TT_STATS].offset),
        .cells = (tt_wait_cell *)(base + s[TT_CELLS].offset),
        .threads = (tt_thread_record *)(base + s[TT_THREADS].offset),
        .events = (tt_event *)(base + s[TT_EVENTS].offset),
        .notes = (char *)base + s[TT_NOTES].offset,
        .blame = (tt_blame_cell *)(base + s[TT_BLAME].offset),
        .starts = (tt_start *)(base + s[TT_STARTS].offset),
        .contended = (tt_contended *)(base + s[TT_CONTENDED].offset),
        .totals = (tt_totals *)(base + s[TT_TOTALS].offset),
        .pools = (tt_pool *)(base + s[TT_POOLS].offset),
    };
}

static void open_door(int memfd)
{
    struct stat status;
    door.fd = fcntl(memfd, F_DUPFD_CLOEXEC, DOOR_LEAST);
    if (door.fd < 0 || fstat(door.fd, &status) < 0) return;   // RLIMIT_NOFILE; it is no more than a convenience
    door.device = status.st_dev;
    door.inode = status.st_ino;
}

// The program may have closed the descriptor and given its number to something else, which is not ours.
int tt_capture_descriptor(void)
{
    struct stat now;
    bool is_ours = door.fd >= 0 && fstat(door.fd, &now) == 0 && now.st_dev == door.device && now.st_ino == door.inode;
    return is_ours ? door.fd : -1;
}

static void close_door(void)
{
    int fd = tt_capture_descriptor();
    if (fd >= 0) close(fd);
    door.fd = -1;
}

// Writes a new capture's header and section table at `base`, which is all zero; a capture it becomes by start_process.
static void start_header(uint8_t *base, uint64_t size, const tt_section *sections, const char *program, const char *python)
{
    tt_header *h = (tt_header *)base;
    h->abi = TT_ABI;
    h->header_size = sizeof(tt_header);
    h->size = size;
    h->section_count = TT_SECTIONS;
    h->state = TT_STATE_RUNNING;
    h->clock_source = tt_clock_kind();
    h->ns_per_tick = tt_the_clock.ns_per_tick;
    snprintf(h->program, sizeof h->program, "%s", program);
    snprintf(h->python, sizeof h->python, "%s", python);
    memcpy(base + sizeof(tt_header), sections, TT_SECTIONS * sizeof(tt_section));
    start_sections((tt_section *)(base + sizeof(tt_header)), base);
}

static void start_process(tt_header *h)
{
    h->pid = (uint32_t)getpid();
    h->process_start = process_start();
    h->pid_space = pid_space();
    h->first = h->last = tt_clock_anchor();
    h->recording = tt_recording_get() != 0;
    memcpy(h->magic, "\x93TTC\r\n\x1a\n", 8);
}

static uint64_t text_size(uint32_t length) { return ((uint64_t)sizeof length + length + 3) / 4 * 4; }

// All but those about deadlocks: these are of threads that a child does not have. Returns their size.
static uint64_t clone_notes(uint8_t *to, const uint8_t *from, uint64_t size)
{
    uint64_t kept = 0, taken;
    for (uint64_t at = 0; at < size; at += taken) {
        uint32_t length;
        memcpy(&length, from + at, sizeof length);
        taken = text_size(length);
        size_t prefix = sizeof TT_DEADLOCK_NOTE - 1;
        if (length >= prefix && memcmp(from + at + sizeof length, TT_DEADLOCK_NOTE, prefix) == 0) continue;
        memcpy(to + kept, from + at, taken);
        kept += taken;
    }
    return kept;
}

// What identifies counters; what refers to another one comes before it.
static const enum tt_section_id identity[] = {TT_NOTES, TT_SITES, TT_STACKS, TT_FRAMES, TT_STRINGS};
enum { IDENTITY = sizeof identity / sizeof *identity };

// As much of it was there at the last fork: afterwards the parent goes on, in the mapping that the child still shares.
static uint64_t used_at_fork[TT_SECTIONS];

static void before_fork(void)
{
    if (!tt_the_segment.base) return;
    for (int i = 0; i < IDENTITY; i++)
        used_at_fork[identity[i]] = __atomic_load_n(&tt_the_segment.sections[identity[i]].used, __ATOMIC_ACQUIRE);
}

// Starts a capture at `to` that knows the same strings, frames, stacks, sites and notes as ours, with all counters at zero,
// of what was lost, too. Ids stay valid, so locks and cached ids need no change.
static void clone_identity(uint8_t *to)
{
    const tt_segment *g = &tt_the_segment;
    tt_section sections[TT_SECTIONS];
    memcpy(sections, g->sections, sizeof sections);
    for (int id = 0; id < TT_SECTIONS; id++) sections[id].used = sections[id].lost = 0;
    start_header(to, g->size, sections, g->header->program, g->header->python);
    ((tt_header *)to)->generation = g->header->generation;
    tt_section *cloned = (tt_section *)(to + sizeof(tt_header));
    for (int i = 0; i < IDENTITY; i++) {
        tt_section *s = &cloned[identity[i]];
        s->used = used_at_fork[identity[i]];
        if (identity[i] == TT_NOTES)
            s->used = clone_notes(to + s->offset, g->base + s->offset, s->used);
        else
            memcpy(to + s->offset, g->base + s->offset, s->used * s->record_size);
    }
    cloned[TT_STATS].used = cloned[TT_SITES].used;
}

// Puts the mapping at `fresh` in the place of the present one.
static int replace_with(uint8_t *fresh)
{
    clone_identity(fresh);
    tt_thread_record self = tt_thread_current_record();
    if (mremap(fresh, tt_the_segment.size, tt_the_segment.size, MREMAP_MAYMOVE | MREMAP_FIXED, tt_the_segment.base)
        == MAP_FAILED) {
        fail("cannot move the capture: %s", strerror(errno));
        munmap(fresh, tt_the_segment.size);
        return -1;
    }
    start_process(tt_the_segment.header);
    tt_intern_forget_counters();
    tt_threads_restart(&self);
    return 0;
}

static int open_file(const char *path, int force)
{
    struct stat old;
    if (force && lstat(path, &old) == 0) {
        if (!S_ISREG(old.st_mode) && !S_ISLNK(old.st_mode)) return fail("%s is not a regular file", path);
        if (unlink(path) < 0) return fail("cannot replace %s: %s", path, strerror(errno));
    }
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0 && errno == EEXIST) return fail("%s exists (--force replaces it)", path);
    if (fd < 0) return fail("cannot create %s: %s", path, strerror(errno));
    return fd;
}

// A shared mapping whose room is really there: a write to a sparse page of a full disk would be SIGBUS.
static uint8_t *map_shared(const char *path, int force, uint64_t size)
{
    int fd = path ? open_file(path, force) : memfd_create("tracedthread", MFD_CLOEXEC);
    uint8_t *base = MAP_FAILED;
    if (fd < 0) {
        if (!path) fail("cannot create a memfd: %s", strerror(errno));
        return NULL;
    }
    int error = 0;
    if (ftruncate(fd, (off_t)size) < 0)
        error = errno;
    else if (path && fallocate(fd, 0, 0, (off_t)size) < 0)   // not posix_fallocate, which falls back to writing
        error = errno;
    else if ((base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) == MAP_FAILED)
        error = errno;
    if (!error) {
        close_door();   // a parent's
        if (!path) open_door(fd);
    }
    close(fd);   // the mapping lives on, also when the program closes all descriptors
    if (error) {
        if (path) unlink(path);
        fail("cannot reserve %llu bytes for %s: %s", (unsigned long long)size, path ? path : "the capture", strerror(error));
        return NULL;
    }
    return base;
}

static uint8_t *map_private(uint64_t size)
{
    close_door();
    uint8_t *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return base == MAP_FAILED ? NULL : base;
}

static void drop_next_mapping(void)
{
    if (next_mapping) munmap(next_mapping, ((tt_header *)next_mapping)->size);
    next_mapping = NULL;
}

// Nothing starts over, for threads may have been started, and wait, meanwhile.
int tt_capture_move(void)
{
    tt_segment *g = &tt_the_segment;
    uint8_t *fresh = next_mapping;
    if (!fresh) return 0;
    next_mapping = NULL;
    if (!g->base) {
        start_process((tt_header *)fresh);
        point_into(fresh, ((tt_header *)fresh)->size);
        g->sites[TT_SITE_OTHER].name = tt_intern_text("(other)", 7);
        __atomic_store_n(&g->base, fresh, __ATOMIC_RELEASE);
        return 0;
    }
    memcpy(fresh, g->base, g->sections[0].offset);
    for (int id = 0; id < TT_SECTIONS; id++) {
        const tt_section *s = &g->sections[id];
        uint64_t used = s->used < s->capacity ? s->used : s->capacity;
        memcpy(fresh + s->offset, g->base + s->offset, used * s->record_size);
    }
    if (mremap(fresh, g->size, g->size, MREMAP_MAYMOVE | MREMAP_FIXED, g->base) != MAP_FAILED) return 0;
    fail("cannot move the capture: %s", strerror(errno));
    munmap(fresh, g->size);
    return -1;
}

// In a forked child the parent's capture is still mapped, shared: ours must be another before anything is counted.
// Runs between fork() and its return, so it makes async-signal-safe calls only.
static void after_fork_in_child(void)
{
    tt_fork_epoch++;
    tt_process_ending = false;
    tt_handles_after_fork();
    drop_next_mapping();   // a parent's
    if (!tt_the_segment.base) return;
    uint8_t *fresh = map_shared(NULL, 0, tt_the_segment.size);
    if (!fresh) fresh = map_private(tt_the_segment.size);   // no descriptor is free
    if (!fresh || replace_with(fresh) < 0) {
        // No room: record nothing here, and above all nothing into the parent's capture. In its place come zeros, which
        // need no new address space; locks that are dropped still count into them.
        tt_recorded_from = UINT32_MAX;
        tt_session_start = UINT64_MAX;
        mmap(tt_the_segment.base, tt_the_segment.size, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
        tt_the_segment.base = NULL;
        lost_at_fork = true;
        return;
    }
    tt_the_segment.header->generation++;
    if (tt_session_start != UINT64_MAX) tt_session_start = tt_ticks();
}

int tt_capture_open(const char *path, int force, const tt_sizes *sizes, const char *program, const char *python)
{
    tt_segment *g = &tt_the_segment;
    if (g->base && (g->header->generation == 0 || !path)) return fail("a capture is already open");
    if (lost_at_fork) return fail("there was no memory for this process's recording when it was forked");
    tt_section sections[TT_SECTIONS];
    uint64_t size = g->base ? g->size : plan(sizes, sections);
    tt_clock_init();
    if (tt_fork_watch() < 0) return fail("cannot register the fork handler");
    if (!g->base && (tt_intern_init(sections) < 0 || tt_threads_init(sections[TT_THREADS].capacity) < 0))
        return fail("not enough memory");
    uint8_t *fresh = map_shared(path, force, size);
    if (!fresh) return -1;
    drop_next_mapping();
    if (g->base)
        ((tt_header *)fresh)->size = size;
    else
        start_header(fresh, size, sections, program, python);
    next_mapping = fresh;
    return 0;
}

int tt_fork_watch(void)
{
    static int hooked;
    if (!hooked) hooked = pthread_atfork(before_fork, NULL, after_fork_in_child) == 0;
    return hooked ? 0 : -1;
}

const void *tt_capture_base(void) { return tt_the_segment.base; }
uint64_t tt_capture_size(void) { return tt_the_segment.base ? tt_the_segment.size : 0; }

void tt_recording_set(bool on)
{
    if (!tt_the_segment.base || on == (tt_recording_get() != 0)) return;
    tt_session_start = on ? tt_ticks() : UINT64_MAX;
    tt_recorded_from = on ? TT_SITE_OTHER : UINT32_MAX;
    tt_header *h = tt_the_segment.header;
    tt_anchor now = tt_clock_anchor();
    if (on && has_recorded) h->paused_ticks += tt_elapsed(h->last.ticks, now.ticks);
    has_recorded = true;
    h->last = now;
    h->recording = on;
}

int tt_recording_get(void) { return tt_recorded_from != UINT32_MAX; }

void tt_capture_anchor(void)
{
    tt_header *h = tt_the_segment.header;
    if (!h) return;
    tt_anchor now = tt_clock_anchor();
    if (!h->recording && has_recorded) h->paused_ticks += tt_elapsed(h->last.ticks, now.ticks);
    h->last = now;
}

void tt_capture_finish(void)
{
    if (!tt_the_segment.base) return;
    tt_capture_anchor();
    tt_the_segment.header->state = TT_STATE_EXITED;
    tt_process_ending = true;
}

int tt_capture_note(const char *text, uint32_t length)
{
    return tt_the_segment.base && tt_segment_add_text(TT_NOTES, text, length) != UINT32_MAX ? 0 : -1;
}

uint32_t tt_abi_version(void) { return TT_ABI; }

uint32_t tt_segment_reserve(enum tt_section_id id)
{
    tt_section *s = &tt_the_segment.sections[id];
    if (s->used < s->capacity) return (uint32_t)s->used;
    s->lost++;
    return 0;
}

void tt_segment_publish(enum tt_section_id id)
{
    tt_section *s = &tt_the_segment.sections[id];
    __atomic_store_n(&s->used, s->used + 1, __ATOMIC_RELEASE);   // readers in other processes see whole records
}

uint32_t tt_segment_add_text(enum tt_section_id id, const char *text, uint32_t length)
{
    tt_section *s = &tt_the_segment.sections[id];
    uint64_t offset = s->used, end = offset + text_size(length);
    if (end > s->capacity) {
        s->lost++;
        return UINT32_MAX;
    }
    uint8_t *to = (uint8_t *)tt_the_segment.header + s->offset + offset;
    memcpy(to, &length, sizeof length);
    memcpy(to + sizeof length, text, length);
    __atomic_store_n(&s->used, end, __ATOMIC_RELEASE);
    return (uint32_t)offset;
}
