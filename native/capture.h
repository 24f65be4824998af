// The capture: one memory-mapped segment that the native code writes and everything else only reads.
//
// This text is read by two compilers: C, and cffi (native/build.py strips the preprocessor lines for its cdef), so
// it holds nothing but plain declarations. tracedthread/capture.py mirrors the layouts with `struct`; a test compares
// every size and offset. All integers are little-endian; times are clock ticks unless a name ends in _ns.
//
//   header | sections[TT_SECTIONS] | strings | frames | stacks | sites | stats | cells | threads | events | notes | blame
//   | starts | contended | totals | pools
//
// A record is published by the store of its section's `used`, which comes after the record's own bytes. What does not
// fit is counted in `lost`. Records are never moved or removed; `used` and the counters only grow. Only those of
// threads and of contended locks are used again.
//
// A record may grow by trailing fields; readers take those of an older capture, which are not there, for zero.
#ifndef TT_CAPTURE_H
#define TT_CAPTURE_H
#include <stdint.h>

enum {
    TT_ABI = 1,
    TT_HISTOGRAM_BUCKETS = 304,   // log-linear in ns, 8 buckets an octave: see tt_histogram_bucket in clock.h
    TT_PAGE = 4096                // every section starts on a page
};

// Sections, in file order. New ones are added at the end; readers pass over those they do not know.
enum tt_section_id {
    TT_STRINGS = 0,   // bytes: {uint32 length; char utf8[length]} at a multiple of 4; reference = offset; 0 = ""
    TT_FRAMES = 1,    // tt_frame; 0 = unknown
    TT_STACKS = 2,    // tt_stack: a tree of call stacks; reference = innermost node; 0 = no stack (the root)
    TT_SITES = 3,     // tt_site; see TT_SITE_*
    TT_STATS = 4,     // tt_site_stats; same index as TT_SITES
    TT_CELLS = 5,     // tt_wait_cell; the first TT_KINDS are the `(other)` cells, one a kind
    TT_THREADS = 6,   // tt_thread_record; 0 = threads that found no slot
    TT_EVENTS = 7,    // tt_event: a ring; `used` counts all ever written, the newest `capacity` remain
    TT_NOTES = 8,     // bytes, laid out as TT_STRINGS: JSON objects {"what":, "count":, "where":[]}: what is not covered
    TT_BLAME = 9,     // tt_blame_cell; 0 is the `(other)` cell
    TT_STARTS = 10,   // tt_start: the audit trail, a ring as TT_EVENTS
    TT_CONTENDED = 11,   // tt_contended; 0 is never used
    TT_TOTALS = 12,   // tt_totals: one
    TT_POOLS = 13,    // tt_pool; 0 is `(other)`, pools that found no room
    TT_SECTIONS = 14
};

typedef struct tt_section {
    uint64_t offset;        // from the start of the capture, bytes
    uint64_t capacity;      // records (bytes for strings)
    uint64_t used;          // records written (for the ring: ever written)
    uint64_t lost;          // records that found no room (for the ring: always 0, see `used`)
    uint32_t record_size;   // bytes a record; may grow by new trailing fields
    uint32_t id;            // tt_section_id
} tt_section;

enum tt_state { TT_STATE_RUNNING = 1, TT_STATE_EXITED = 2 };
enum tt_clock_source { TT_CLOCK_MONOTONIC = 0, TT_CLOCK_TSC = 1 };

// One moment, read on the three clocks.
typedef struct tt_anchor {
    uint64_t ticks;
    uint64_t monotonic_ns;   // CLOCK_MONOTONIC
    uint64_t wall_ns;        // CLOCK_REALTIME, since 1970-01-01 UTC
} tt_anchor;

typedef struct tt_header {
    uint8_t magic[8];          // "\x93TTC\r\n\x1a\n"
    uint32_t abi;              // TT_ABI
    uint32_t header_size;      // sizeof(tt_header)
    uint64_t size;             // of the whole capture, bytes
    uint32_t section_count;    // entries of tt_section that follow at header_size
    uint32_t pid;
    uint64_t process_start;    // field 22 of /proc/PID/stat: tells a reused pid from the same process
    uint32_t state;            // tt_state
    uint32_t clock_source;     // tt_clock_source
    uint64_t ns_per_tick;      // fixed point 32.32, as calibrated at start; used for histograms
    tt_anchor first;           // when the capture was opened
    tt_anchor last;            // the newest: seconds = (ticks - first.ticks) * slope of the two anchors
    uint64_t paused_ticks;     // time spent paused or unpatched, up to `last`
    uint32_t generation;       // of forks: 0 in the process that started recording
    uint32_t recording;        // 1 while events are being counted
    char program[128];         // the program's name, no arguments; NUL-terminated utf-8
    char python[56];           // "3.13.0"; NUL-terminated
    uint64_t pid_space;        // whose number `pid` is: FNV-1a of the boot id and the PID namespace; 0: not known
} tt_header;

typedef struct tt_frame {
    uint32_t file;       // string: co_filename
    uint32_t function;   // string: qualified name
    uint32_t line;       // 1-based; 0 = unknown
    uint32_t reserved;
} tt_frame;

typedef struct tt_stack {
    uint32_t caller;   // tt_stack: the frames outside this one; 0 = none
    uint32_t frame;    // tt_frame
} tt_stack;

// Fixed sites. Locks of UNRECORDED and WAITER sites keep no counters.
enum tt_site_id {
    TT_SITE_UNRECORDED = 0,
    TT_SITE_WAITER = 1,       // locks made by Condition.wait for its own waiting
    TT_SITE_OTHER = 2,        // `(other)`: locks whose site found no room
    TT_SITE_FIRST = 3
};
enum tt_lock_type { TT_LOCK = 0, TT_RLOCK = 1 };

// Where locks are created. Holds identity only, so that a fork can copy it and start its counters at zero.
typedef struct tt_site {
    uint32_t name;       // string: "PriceCache._lock"
    uint32_t file;       // string
    uint32_t function;   // string: qualified name of the creating function
    uint32_t line;
    uint32_t type;       // tt_lock_type
    uint32_t stack;      // tt_stack: who called the creating function first
    uint64_t fingerprint;   // the same for the same lock of another run or version; 0: not known
} tt_site;

// Everything counted about the locks of one site. Exact.
typedef struct tt_site_stats {
    uint64_t created;
    uint64_t destroyed;
    uint64_t acquisitions;      // successful ones, of an RLock the outermost
    uint64_t contended;         // waits of kinds lock and rlock, whatever their outcome
    uint64_t timeouts;          // of those, ended by their timeout
    uint64_t interrupted;       // of those, ended by an exception from a signal handler
    uint64_t failed_tries;      // acquire(False) that found the lock held
    uint64_t hold_ticks;
    uint64_t hold_max_ticks;
    uint64_t wait_ticks;
    uint64_t wait_max_ticks;
    uint64_t own_gil_ticks;     // part of wait_ticks: lock free for this waiter, GIL not
    uint64_t gil_ticks;         // others waited because whose turn it was waited for the GIL
    uint64_t handoff_ticks;     // nobody had the lock, and whose turn it was still slept
    uint64_t waiters;           // waiting now
    uint64_t pending_hold;      // 2 * ticks + 1 of the newest hold, not yet in the hold_* fields; top bit: 0 ticks; 0: none
    uint64_t hold_histogram[304];   // TT_HISTOGRAM_BUCKETS
    uint64_t wait_histogram[304];
    uint64_t holds_untimed;     // of the acquisitions: ended, but not in the histogram
    uint64_t reserved[7];       // to a whole number of cache lines, so that counters of the fast path share theirs
} tt_site_stats;

// Contention: lock, rlock. Resource: semaphore, queue.put, pool. The others are idle waiting.
enum tt_kind {
    TT_KIND_LOCK = 0,
    TT_KIND_RLOCK = 1,
    TT_KIND_CONDITION = 2,
    TT_KIND_EVENT = 3,
    TT_KIND_SEMAPHORE = 4,
    TT_KIND_QUEUE_GET = 5,
    TT_KIND_QUEUE_PUT = 6,
    TT_KIND_BARRIER = 7,
    TT_KIND_FUTURE = 8,
    TT_KIND_JOIN = 9,
    TT_KIND_POOL = 10,   // for a connection of a pool
    TT_KINDS = 11
};

// Waits of one kind, on the locks of one site, from one stack.
typedef struct tt_wait_cell {
    uint32_t site;    // of the lock; of the Condition's own lock for waits on a condition; 0 in `(other)` cells
    uint32_t stack;   // of the waiter
    uint32_t kind;    // tt_kind
    uint32_t reserved;
    uint64_t count;
    uint64_t wait_ticks;
    uint64_t own_gil_ticks;
    uint64_t max_ticks;
    uint64_t timeouts;
    uint64_t interrupted;
    uint32_t waker;   // tt_stack: who ended the newest of these waits; 0: not known. For resources
    uint32_t reserved2;
} tt_wait_cell;

// Time that holds made others wait: of the locks of one site, by where they were released.
typedef struct tt_blame_cell {
    uint32_t site;    // 0 in the `(other)` cell
    uint32_t stack;   // of the release
    uint64_t holds;         // that made somebody wait
    uint64_t blame_ticks;   // summed over those who waited
    uint64_t max_ticks;     // of one hold
    uint64_t waiters;       // threads that waited when such a hold ended, summed over the holds
} tt_blame_cell;

enum tt_thread_state { TT_THREAD_FREE = 0, TT_THREAD_STARTING = 1, TT_THREAD_RUNNING = 2, TT_THREAD_ENDED = 3 };

typedef struct tt_thread_record {
    uint64_t ident;          // threading.get_ident(); 0 in the row of threads that found no slot
    uint64_t start_ticks;    // start_new_thread was called; first contact for threads not started by us
    uint64_t run_ticks;      // the thread's first instruction; 0 = not started by us
    uint64_t end_ticks;      // 0 = alive
    uint64_t cpu_ns;         // at its end; 0 before
    uint64_t wait_ticks;     // kinds lock, rlock
    uint64_t idle_ticks;     // idle kinds
    uint64_t resource_ticks; // kinds semaphore, queue.put, pool
    uint64_t own_gil_ticks;
    uint32_t native_id;
    uint32_t name;           // string: its name in captures without `label`; 0
    uint32_t function;       // string: qualified name of what it runs
    uint32_t state;          // tt_thread_state
    uint64_t wait_count;     // waits of kinds lock, rlock
    uint32_t generation;     // how many threads had this record before; their sums are in row 0, their number is its own
    uint32_t parent;         // tt_thread_record of the thread that started it; 0: not known
    uint32_t parent_generation;
    uint32_t stack;          // tt_stack: where it was started; 0: not known
    uint64_t wait_since;     // ticks: the wait in progress; 0: it does not wait
    uint64_t wait_lock;      // address of the lock object, of a wait in progress
    uint32_t wait_site;
    uint32_t wait_stack;
    uint32_t wait_kind;      // tt_kind
    uint32_t wait_timed;     // 1: it has a timeout
    char label[64];          // its name; NUL-terminated utf-8, cut off if need be
    uint64_t blamed_ticks;   // others waited because of its holds; in row 0 also what is nobody's that is known
} tt_thread_record;

// Of all threads, also of those that found no slot and those whose slot was used again. Exact.
typedef struct tt_totals {
    uint64_t started;       // threads that we have started, and that have begun
    uint64_t start_ticks;   // of those, from the call that started them to their first instruction
    uint64_t begun;         // those, and the others that were met
    uint64_t ended;         // of those
    uint64_t start_histogram[304];   // TT_HISTOGRAM_BUCKETS
    uint64_t deadlocks;     // noticed by the threads that are in them, each once
} tt_totals;

// How a note about a deadlock begins. Notes are JSON objects.
#define TT_DEADLOCK_NOTE "{\"deadlock\": "

// Thread pools of one name, and what became of their tasks. Exact: submitted = queued + dropped + busy + ended.
typedef struct tt_pool {
    uint32_t name;               // string: the prefix of its threads' names; "ThreadPoolExecutor" for all without one
    uint32_t executors;          // that were met
    uint64_t limit;              // workers that those which are alive may have
    uint64_t queued;             // tasks that no worker has begun yet
    uint64_t busy;               // workers at a task now
    uint64_t submitted;          // tasks
    uint64_t ended;
    uint64_t dropped;            // no worker has ever begun them: cancelled, or shut down before
    uint64_t untimed;            // begun, but not in the histogram: recording was off in between
    uint64_t limit_max;          // the highest that `limit` has been
    uint64_t queue_ticks;        // from submit() to the beginning, of those in the histogram
    uint64_t queue_max_ticks;
    uint64_t busy_ticks;         // of the tasks that have ended
    uint64_t full_ticks;         // an executor's workers were all busy, summed up over executors, until one of them ended
    uint64_t queue_histogram[304];   // TT_HISTOGRAM_BUCKETS
} tt_pool;

enum tt_outcome { TT_ACQUIRED = 0, TT_TIMEOUT = 1, TT_INTERRUPTED = 2 };

// A wait longer than the threshold. `sequence` is written last: index + 1, or 0 while the record is being written.
typedef struct tt_event {
    uint64_t sequence;
    uint64_t start_ticks;
    uint64_t end_ticks;
    uint64_t own_gil_ticks;
    uint32_t site;
    uint32_t stack;
    uint32_t thread;    // tt_thread_record
    uint16_t kind;      // tt_kind
    uint16_t outcome;   // tt_outcome
    uint64_t lock;      // address of the lock object, to tell instances apart
    uint32_t thread_generation;
    uint32_t holder;    // tt_thread_record of who released it last, or, after a timeout, had it; 0: not known
    uint32_t holder_generation;
    uint32_t release_stack;   // tt_stack: where it was released; 0: it was not
    uint32_t holder_stack;    // tt_stack: where its holder was when the wait began; 0: nobody looked
    uint32_t reserved;
    uint32_t context;         // what the waiter carried when the wait was over: a number, see carry.h; 0: nothing, not known
    uint32_t holder_context;  // what `holder` carried when it released the lock or, after a timeout, at that moment
} tt_event;

// A thread was started. `sequence` as in tt_event.
typedef struct tt_start {
    uint64_t sequence;
    uint64_t ticks;
    uint64_t ident;          // of the new thread
    uint64_t parent_ident;
    uint32_t thread;         // tt_thread_record
    uint32_t generation;
    uint32_t parent;         // tt_thread_record
    uint32_t parent_generation;
    uint32_t parent_native_id;
    uint32_t function;       // string: qualified name of what it runs
    uint32_t stack;          // tt_stack: where it was started
    uint32_t reserved;
    char label[64];          // names, as in tt_thread_record
    char parent_label[64];
    uint32_t context;        // what the parent carried, as in tt_event
    uint32_t reserved2;
} tt_start;

// A lock that somebody waits for now, and who has it. Records are used again.
typedef struct tt_contended {
    uint64_t lock;             // address of the lock object; 0: the record is free
    uint64_t held_since;       // ticks: when its owner got it; 0: nobody has it, or not known
    uint32_t site;
    uint32_t type;             // tt_lock_type
    uint32_t owner;            // tt_thread_record; 0: nobody, or not known
    uint32_t owner_generation;
    uint32_t owner_stack;      // tt_stack: where the owner was when somebody last looked; 0: nobody has
    uint32_t release_stack;    // tt_stack: where it was last released while somebody waited; 0: it was not
    uint32_t waiters;
    uint32_t entered;          // 1: by a `with` statement, so its owner will release it, and nobody else; 0: not known
} tt_contended;
#endif
