// The functions that Python calls through cffi: control and reading, never a hot path (each call drops the GIL). Those
// that need the GIL are called through the extension module (py_capture.h).
#ifndef TT_ABI_H
#define TT_ABI_H
#include <stdint.h>
#include <stddef.h>

// How many records each section gets (bytes for strings). Zero: the default. A NULL tt_sizes: all defaults.
typedef struct tt_sizes {
    uint32_t strings, frames, stacks, sites, cells, threads, events, blame, starts, contended, pools;
} tt_sizes;

// Maps the process's capture: a new file at `path` (0600, never through a symlink, never over an existing one unless
// `force`), or a memfd when `path` is NULL. At most one per process, and one more in a forked child, which has a private one.
// Needs no interpreter lock: it is used from tt_capture_move on. Returns 0, or -1 with a one-line reason in tt_capture_error().
int tt_capture_open(const char *path, int force, const tt_sizes *sizes, const char *program, const char *python);
const char *tt_capture_error(void);

// The mapped capture, NULL before the first tt_capture_move, and its length in bytes.
const void *tt_capture_base(void);
uint64_t tt_capture_size(void);
// A descriptor of the memfd behind it, -1 when there is none. It is not to be closed.
int tt_capture_descriptor(void);
uint64_t tt_capture_size_for(const tt_sizes *sizes);

int tt_recording_get(void);

// Waits of at least this long also become events (nanoseconds; default 1 ms).
void tt_event_threshold_set(uint64_t ns);
uint64_t tt_event_threshold_get(void);

// A wait of this long (nanoseconds; 0: none; default 5 s) looks for a deadlock it is part of, and says so on the descriptor
// `fd` (-1, the default: only in the capture).
void tt_deadlock_watch_set(uint64_t ns, int fd);

// Keeps an audit trail of thread starts from here on (TT_STARTS), or no longer.
void tt_trail_set(int on);

// The clock, for tests and benchmarks.
uint64_t tt_clock_ticks(void);
double tt_clock_ns_per_tick(void);
uint32_t tt_clock_kind(void);
uint32_t tt_histogram_index(uint64_t ns);
uint32_t tt_abi_version(void);
#endif
