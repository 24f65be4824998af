// The capture: ids, full sections, text, the histogram's edges, files.
#define _GNU_SOURCE
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "check.h"
#include "clock.h"
#include "intern.h"
#include "record.h"
#include "thread.h"

static void test_histogram_edges(void)
{
    for (uint64_t ns = 0; ns < 8; ns++) CHECK(tt_histogram_bucket(ns) == ns);
    for (uint32_t b = 8; b < TT_HISTOGRAM_BUCKETS; b++) {
        uint64_t edge = (uint64_t)(8 + b % 8) << (b / 8 - 1);
        CHECK(tt_histogram_bucket(edge) == b);
        CHECK(tt_histogram_bucket(edge - 1) == b - 1);
    }
    CHECK(tt_histogram_bucket(UINT64_MAX) == TT_HISTOGRAM_BUCKETS - 1);
}

static void test_ticks_run_with_the_monotonic_clock(void)
{
    tt_anchor first = tt_clock_anchor();
    usleep(20000);
    tt_anchor last = tt_clock_anchor();
    double ns = (double)tt_ticks_to_ns(last.ticks - first.ticks), truth = (double)(last.monotonic_ns - first.monotonic_ns);
    CHECK(ns > truth * 0.99 && ns < truth * 1.01);
    CHECK(tt_elapsed(5, 3) == 0);
}

static void test_same_thing_has_one_id(void)
{
    uint32_t a = tt_intern_text("alpha", 5), b = tt_intern_text("beta", 4);
    CHECK(a && b && a != b && tt_intern_text("alpha", 5) == a && tt_intern_text("", 0) == 0);
    uint32_t f = tt_intern_frame(a, b, 7);
    CHECK(f && tt_intern_frame(a, b, 7) == f && tt_intern_frame(a, b, 8) != f);
    uint32_t frames[2] = {f, tt_intern_frame(a, b, 8)};
    uint32_t deep = tt_intern_stack(frames, 2);
    CHECK(deep && tt_intern_stack(frames, 2) == deep && tt_intern_stack(frames, 1) != deep);
    CHECK(tt_the_segment.stacks[deep].frame == f && tt_the_segment.stacks[deep].caller == tt_intern_stack(frames + 1, 1));
    tt_site site = {.name = a, .file = b, .line = 3};
    uint32_t s = tt_intern_site(&site);
    site.stack = deep;   // no part of what it is
    CHECK(s >= TT_SITE_FIRST && tt_intern_site(&site) == s);
    site.type = TT_RLOCK;
    CHECK(tt_intern_site(&site) != s);
    CHECK(tt_intern_cell(s, deep, TT_KIND_LOCK) == tt_intern_cell(s, deep, TT_KIND_LOCK));
    CHECK(tt_intern_cell(s, deep, TT_KIND_LOCK) != tt_intern_cell(s, deep, TT_KIND_RLOCK));
}

static void test_what_does_not_fit_is_counted(void)
{
    const tt_section *s = tt_the_segment.sections;
    for (uint32_t line = 1; s[TT_SITES].lost < 5; line++) {
        tt_site site = {.name = 0, .line = line, .type = TT_RLOCK};
        uint32_t id = tt_intern_site(&site);
        CHECK((id == TT_SITE_OTHER) == (s[TT_SITES].lost > 0) && id < s[TT_SITES].capacity);
    }
    CHECK(s[TT_SITES].used == s[TT_SITES].capacity && s[TT_STATS].used == s[TT_SITES].used);
    uint64_t before = s[TT_CELLS].lost;
    for (uint32_t i = 0; s[TT_CELLS].lost < before + 5; i++) {
        tt_wait_cell *cell = tt_intern_cell(TT_SITE_OTHER, i, TT_KIND_EVENT);
        cell->count++;
        CHECK(s[TT_CELLS].lost == before || cell == &tt_the_segment.cells[TT_KIND_EVENT]);
    }
    CHECK(tt_the_segment.cells[TT_KIND_EVENT].count == 5);
    char text[32];
    for (int i = 0; s[TT_STRINGS].lost < 5; i++) {
        int n = snprintf(text, sizeof text, "text %d", i);
        uint32_t id = tt_intern_text(text, (uint32_t)n);
        CHECK(id == 0 || (id % 4 == 0 && memcmp(tt_the_segment.strings + id + 4, text, (size_t)n) == 0));
    }
    CHECK(s[TT_STRINGS].used <= s[TT_STRINGS].capacity);
    for (uint32_t i = 0; s[TT_THREADS].lost < 3; i++) CHECK((tt_thread_announce(0, 0, "") == 0) == (s[TT_THREADS].lost > 0));
    while (s[TT_NOTES].lost == 0) tt_capture_note("a note of some length", 21);
    CHECK(s[TT_NOTES].used <= s[TT_NOTES].capacity);
}

static void test_events_are_a_ring(void)
{
    tt_event_threshold_set(0);
    const tt_section *s = &tt_the_segment.sections[TT_EVENTS];
    uint64_t capacity = s->capacity, start = tt_session_start + 1;
    for (uint64_t i = 0; i < capacity * 2 + 3; i++)
        tt_wait_record(&(tt_wait){.start = start, .end = start + i, .site = TT_SITE_OTHER, .kind = TT_KIND_LOCK});
    CHECK(s->used == capacity * 2 + 3);
    for (uint64_t i = 0; i < capacity; i++) {
        const tt_event *e = &tt_the_segment.events[i];
        CHECK(e->sequence > s->used - capacity && (e->sequence - 1) % capacity == i);
        CHECK(e->end_ticks - e->start_ticks == e->sequence - 1);
    }
}

static void test_waits_and_holds_across_a_pause_are_not_counted(void)
{
    tt_lock l = {.site = TT_SITE_OTHER};
    tt_site_stats *s = &tt_the_segment.stats[TT_SITE_OTHER];
    uint64_t acquisitions = s->acquisitions, pending = s->pending_hold, contended = s->contended, start = tt_ticks();
    uint64_t untimed = s->holds_untimed;
    tt_hold_begin(&l, tt_ticks());
    tt_recording_set(0);
    tt_recording_set(1);
    tt_hold_end(&l, tt_ticks());
    tt_wait_record(&(tt_wait){.start = start, .end = tt_ticks(), .site = TT_SITE_OTHER, .kind = TT_KIND_LOCK});
    CHECK(s->acquisitions == acquisitions + 1 && s->pending_hold == pending && s->contended == contended);
    CHECK(s->holds_untimed == untimed + 1);
    tt_recording_set(0);
    tt_hold_begin(&l, tt_ticks());
    tt_hold_end(&l, tt_ticks());
    CHECK(s->acquisitions == acquisitions + 1 && s->holds_untimed == untimed + 1 && l.held_since == 0);
    tt_recording_set(1);
}

static void test_one_capture_a_process(void)
{
    CHECK(tt_capture_open(NULL, 0, NULL, "again", "0") == -1);
    CHECK(strstr(tt_capture_error(), "already open"));
}

// Runs in a process of its own: tt_capture_open can succeed once only.
static void test_files(const char *folder)
{
    char path[4096], link[4096];
    struct stat st;
    snprintf(path, sizeof path, "%s/capture.ttc", folder);
    snprintf(link, sizeof link, "%s/link.ttc", folder);
    CHECK(tt_capture_open("/nowhere/capture.ttc", 0, NULL, "t", "0") == -1);
    CHECK(strstr(tt_capture_error(), "No such file"));
    CHECK(symlink(path, link) == 0);
    CHECK(tt_capture_open(link, 0, NULL, "t", "0") == -1 && lstat(path, &st) < 0 && errno == ENOENT);
    FILE *file = fopen(path, "w");
    CHECK(file && fputs("precious", file) >= 0 && fclose(file) == 0);
    CHECK(tt_capture_open(path, 0, NULL, "t", "0") == -1 && stat(path, &st) == 0 && st.st_size == 8);
    CHECK(tt_capture_open(folder, 1, NULL, "t", "0") == -1 && strstr(tt_capture_error(), "not a regular file"));
    umask(0);
    CHECK(tt_capture_open(path, 1, NULL, "t", "0") == 0 && tt_capture_move() == 0);
    CHECK(stat(path, &st) == 0 && (st.st_mode & 07777) == 0600 && (uint64_t)st.st_size == tt_capture_size());
}

static uint64_t acquisitions_in(const char *path)
{
    FILE *file = fopen(path, "r");
    uint64_t value = 0, at = tt_the_segment.sections[TT_STATS].offset + TT_SITE_OTHER * sizeof(tt_site_stats);
    CHECK(file && fseek(file, (long)(at + offsetof(tt_site_stats, acquisitions)), SEEK_SET) == 0);
    CHECK(fread(&value, sizeof value, 1, file) == 1 && fclose(file) == 0);
    return value;
}

static void check_child(pid_t pid)
{
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

// A forked child's file is mapped first, which takes its time, and used from the move on. Nothing of the meanwhile is lost.
static void test_a_childs_capture_moves_to_its_file(const char *folder)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/child.ttc", folder);
    CHECK(tt_capture_move() == 0);   // nothing to do
    uint64_t *acquisitions = &tt_the_segment.stats[TT_SITE_OTHER].acquisitions;
    *acquisitions = 100;
    pid_t pid = fork();
    if (pid == 0) {
        ++*acquisitions;
        CHECK(tt_capture_open(path, 0, NULL, "t", "0") == 0);
        ++*acquisitions;
        pid_t grandchild = fork();
        if (grandchild == 0) {   // it is not its file
            CHECK(tt_capture_move() == 0);
            *acquisitions = 7;
            _exit(0);
        }
        check_child(grandchild);
        CHECK(acquisitions_in(path) == 0);
        CHECK(tt_capture_move() == 0 && acquisitions_in(path) == 2);
        ++*acquisitions;
        CHECK(tt_capture_move() == 0 && acquisitions_in(path) == 3);
        _exit(0);
    }
    check_child(pid);
    CHECK(*acquisitions == 100);
}

int main(int argc, char **argv)
{
    alarm(120);
    if (argc > 1) {
        test_files(argv[1]);
        test_a_childs_capture_moves_to_its_file(argv[1]);
        puts("ok");
        return 0;
    }
    const tt_sizes small = {.strings = 4096, .frames = 64, .stacks = 64, .sites = 32, .cells = 64, .threads = 16, .events = 32};
    CHECK(tt_capture_open(NULL, 0, &small, "test_capture", "0") == 0 && tt_capture_move() == 0);
    tt_recording_set(1);
    test_histogram_edges();
    test_ticks_run_with_the_monotonic_clock();
    test_same_thing_has_one_id();
    test_waits_and_holds_across_a_pause_are_not_counted();
    test_what_does_not_fit_is_counted();
    test_events_are_a_ring();
    test_one_capture_a_process();
    puts("ok");
    return 0;
}
