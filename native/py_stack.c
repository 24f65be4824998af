#include "py_stack.h"
#include "intern.h"
#include "lock.h"
#include "py_code.h"
#include "py_thread.h"
#include "thread.h"

enum { MAX_DEPTH = 64, FRAME_CACHE = 4096, STACK_CACHE = 4096, STACK_CACHE_DEPTH = 96 };

// Direct-mapped caches; what they forget is found again through the capture's own records.
static struct { uint32_t code, offset, frame; } frame_cache[FRAME_CACHE];   // by code and offset
static struct { uint64_t path; uint32_t stack; } stack_cache[STACK_CACHE];  // by a hash of the path: 20 frames in 40 ns, not 600

static uint32_t frame_id(tt_pyframe *frame, const tt_py_code *known)
{
    uint32_t offset = (uint32_t)tt_pyframe_offset(frame);
    uint32_t i = (known->id * 31 + offset / 2) % FRAME_CACHE;
    if (frame_cache[i].code == known->id && frame_cache[i].offset == offset) return frame_cache[i].frame;
    int line = PyCode_Addr2Line(tt_pyframe_code(frame), (int)offset);
    uint32_t id = tt_intern_frame(known->file, known->function, line > 0 ? (uint32_t)line : 0);
    frame_cache[i].code = known->id;
    frame_cache[i].offset = offset;
    frame_cache[i].frame = id;
    return id;
}

static uint32_t walk(tt_pyframe *frame)
{
    uint32_t frames[MAX_DEPTH] = {0}, depth = 0, hidden = 0;
    bool has_role = false;
    for (; frame && depth < MAX_DEPTH; frame = tt_pyframe_caller(frame)) {
        const tt_py_code *known = tt_py_code_of(frame);
        if (!known) continue;
        if (!known->hidden)
            frames[depth++] = frame_id(frame, known);
        else if (known->role >= 0 || !has_role) {   // the outermost one, and rather one that waits
            hidden = frame_id(frame, known);
            has_role = known->role >= 0;
        }
    }
    if (depth == 0 && hidden) frames[depth++] = hidden;   // Thread(target=queue.get): nobody else is there to be named
    return tt_intern_stack(frames, depth);
}

// A hash of where each frame is: addresses in bytecode, which are no other's until a code object is gone, and then
// tt_py_code_era is another. 0: too deep.
static uint64_t path_of(tt_pyframe *frame)
{
    uint64_t path = tt_py_code_era;
    for (int depth = 0; frame; frame = tt_pyframe_caller(frame)) {
        if (++depth > STACK_CACHE_DEPTH) return 0;
        path = (path ^ tt_pyframe_place(frame)) * 0x9e3779b97f4a7c15u;
        path ^= path >> 32;
    }
    return path;
}

uint32_t tt_py_stack_of(tt_pyframe *frame)
{
    uint64_t path = path_of(frame);
    uint32_t i = (uint32_t)(path % STACK_CACHE);
    if (path && stack_cache[i].path == path) return stack_cache[i].stack;
    uint64_t era = tt_py_code_era;
    uint32_t stack = walk(frame);
    if (path && stack && era == tt_py_code_era) {
        stack_cache[i].path = path;
        stack_cache[i].stack = stack;
    }
    return stack;
}

uint32_t tt_py_stack(void) { return tt_py_stack_of(tt_pyframe_current()); }

uint32_t tt_py_stack_of_holder(uint32_t record)
{
    static uint32_t still_held;
    PyThreadState *ts = tt_py_thread_state(record);
    uint32_t stack = ts ? tt_py_stack_of(tt_pyframe_current_of(ts)) : 0;
    if (stack) return stack;
    if (!still_held) {
        uint32_t frame = tt_intern_frame(0, tt_intern_text("(still held)", 12), 0);
        still_held = tt_intern_stack(&frame, frame != 0);
    }
    return still_held;
}
