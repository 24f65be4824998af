// Naming a lock after the variable it is stored in, from the bytecode that follows the call.
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include "intern.h"
#include "py_code.h"
#include "py_site.h"

// What an instruction between the call and its store does to the stack above the lock.
enum {
    STOPS = 0, NEUTRAL, PUSHES, PUSHES_TWO, PUSHES_GLOBAL, LOADS_ATTR, COPIES, EXTENDS,
    CALLS, CALLS_FUNCTION, CALLS_KW,   // 3.11: callable, self or NULL, arguments; 3.10: callable, arguments; 3.13: and names
    STORES_ATTR, STORES_NAME, STORES_GLOBAL, STORES_FAST, STORES_FAST_HIGH, STORES_DEREF
};
static uint8_t meaning[256];
enum { LOOK_AHEAD = 16 };   // instructions: `self.a.b = Condition(Lock())` has five

int tt_py_store_configure(PyObject *opcodes)
{
    // The first prefix that fits counts.
    static const struct { const char *prefix; uint8_t meaning; } table[] = {
        {"STORE_ATTR", STORES_ATTR}, {"STORE_NAME", STORES_NAME}, {"STORE_GLOBAL", STORES_GLOBAL},
        {"STORE_FAST_STORE_FAST", STORES_FAST_HIGH}, {"STORE_FAST_LOAD_FAST", STORES_FAST_HIGH},
        {"STORE_FAST_MAYBE_NULL", STOPS}, {"STORE_FAST", STORES_FAST}, {"STORE_DEREF", STORES_DEREF},
        {"LOAD_FAST_AND_CLEAR", STOPS}, {"LOAD_FAST_LOAD_FAST", PUSHES_TWO}, {"LOAD_FAST_BORROW_LOAD", PUSHES_TWO},
        {"LOAD_FAST", PUSHES}, {"LOAD_NAME", PUSHES}, {"LOAD_DEREF", PUSHES}, {"LOAD_CONST", PUSHES},
        {"LOAD_SMALL_INT", PUSHES}, {"LOAD_COMMON_CONSTANT", PUSHES}, {"PUSH_NULL", PUSHES}, {"LOAD_METHOD", PUSHES},
        {"LOAD_GLOBAL", PUSHES_GLOBAL}, {"LOAD_ATTR", LOADS_ATTR}, {"COPY_FREE_VARS", STOPS}, {"COPY", COPIES},
        {"DUP_TOP_TWO", STOPS}, {"DUP_TOP", COPIES}, {"CALL_FUNCTION_EX", STOPS}, {"CALL_FUNCTION_KW", CALLS},
        {"CALL_FUNCTION", CALLS_FUNCTION}, {"CALL_METHOD", CALLS}, {"CALL_INTRINSIC", STOPS}, {"CALL_KW", CALLS_KW},
        {"CALL", CALLS}, {"PRECALL", NEUTRAL}, {"KW_NAMES", NEUTRAL}, {"NOP", NEUTRAL}, {"EXTENDED_ARG", EXTENDS},
    };
    memset(meaning, STOPS, sizeof meaning);
    PyObject *name, *number;
    for (Py_ssize_t pos = 0; PyDict_Next(opcodes, &pos, &name, &number);) {
        const char *text = PyUnicode_AsUTF8(name);
        long op = PyLong_AsLong(number);
        if (!text || (op == -1 && PyErr_Occurred())) return -1;
        for (size_t i = 0; op >= 0 && op < 256 && i < sizeof table / sizeof *table; i++)
            if (strncmp(text, table[i].prefix, strlen(table[i].prefix)) == 0) {
                meaning[op] = table[i].meaning;
                break;
            }
    }
    return 0;
}

// The number of values above ours after an instruction that takes `taken` and leaves one. When ours was among those taken,
// the result stands for it: `self.pool = Pool(Lock())`.
static int after_call(int above, unsigned taken) { return (int)taken > above ? 0 : above - (int)taken + 1; }

// The same after any instruction that is no store; -1 when it cannot be told.
static int step(uint8_t how, unsigned arg, int above)
{
    switch (how) {
    case NEUTRAL: case EXTENDS: return above;
    case PUSHES: return above + 1;
    case PUSHES_TWO: return above + 2;
    case PUSHES_GLOBAL: return above + 1 + (PY_VERSION_HEX >= 0x030B0000 && arg & 1);
    case LOADS_ATTR: return above == 0 ? -1 : above + (PY_VERSION_HEX >= 0x030C0000 && arg & 1);
    case COPIES: return above == 0 ? 0 : -1;   // `a = b = Lock()`: the copy is as good as the lock
    case CALLS: return after_call(above, arg + 2);
    case CALLS_FUNCTION: return after_call(above, arg + 1);
    case CALLS_KW: return after_call(above, arg + 3);
    default: return -1;
    }
}

static PyObject *name_at(PyObject *names, unsigned index)
{
    return index < (size_t)PyTuple_GET_SIZE(names) ? PyTuple_GET_ITEM(names, index) : NULL;
}

// The variable that the value of the call at `offset` is stored to, borrowed; NULL when there is none.
static PyObject *find_store(PyCodeObject *code, int offset, int *how)
{
    PyObject *bytes = tt_pycode_bytes(code);
    if (!bytes) {
        PyErr_Clear();
        return NULL;
    }
    const uint8_t *op = (const uint8_t *)PyBytes_AS_STRING(bytes);
    Py_ssize_t length = PyBytes_GET_SIZE(bytes);
    PyObject *variable = NULL;
    unsigned high = 0;
    *how = STOPS;
    for (int seen = 0, above = 0, i = offset + 2; i + 1 < length && seen < LOOK_AHEAD && above >= 0; i += 2) {
        unsigned arg = high << 8 | op[i + 1];
        uint8_t m = meaning[op[i]];
        if (PY_VERSION_HEX >= 0x030B0000 && op[i] == 0) continue;   // CACHE
        high = m == EXTENDS ? arg : 0;
        seen++;
        if (m < STORES_ATTR) {
            above = step(m, arg, above);
            continue;
        }
        if (above != (m == STORES_ATTR)) break;   // somebody else's store; that of an attribute has its object above
        *how = m;
        if (m == STORES_FAST || m == STORES_DEREF || m == STORES_FAST_HIGH)
            variable = tt_pycode_local_name(code, m == STORES_FAST_HIGH ? arg >> 4 : arg, m == STORES_DEREF);
        else
            variable = name_at(code->co_names, arg);
        break;
    }
    Py_DECREF(bytes);
    return variable;
}

static const char *text_of(uint32_t id, int *length)
{
    const char *at = tt_the_segment.strings + id;
    uint32_t n;
    memcpy(&n, at, sizeof n);
    *length = (int)n;
    return at + sizeof n;
}

// "cache" for "/srv/app/cache.py", "app" for "/srv/app/__init__.py".
static const char *module_stem(const char *file, int *length)
{
    int end = *length, start;
    for (int round = 0;; round++) {
        for (start = end; start > 0 && file[start - 1] != '/'; start--) {}
        if (end - start > 3 && memcmp(file + end - 3, ".py", 3) == 0) end -= 3;
        if (round || end - start != 8 || memcmp(file + start, "__init__", 8) != 0 || start < 2) break;
        end = start - 1;
    }
    *length = end - start;
    return file + start;
}

// `__lock` for `_Cache__lock`, which the compiler makes of it in class Cache (or _Cache).
static const char *unmangled(const char *attribute, const char *class, int class_length)
{
    while (class_length > 0 && *class == '_') class++, class_length--;
    bool mangled = class_length > 0 && attribute[0] == '_' && strncmp(attribute + 1, class, (size_t)class_length) == 0
                   && strncmp(attribute + 1 + class_length, "__", 2) == 0;
    return mangled ? attribute + 1 + class_length : attribute;
}

uint32_t tt_py_store_name(PyCodeObject *code, int offset, const tt_py_code *known, uint32_t line, uint32_t *member)
{
    int how, function_length, file_length;
    PyObject *variable = find_store(code, offset, &how);
    const char *function = text_of(known->function, &function_length), *file = text_of(known->file, &file_length);
    const char *text = variable ? PyUnicode_AsUTF8(variable) : NULL;
    if (variable && !text) PyErr_Clear();
    *member = 0;
    char name[512];
    int n;
    bool in_module = function_length == 8 && memcmp(function, "<module>", 8) == 0;
    if (!text) {
        int start = file_length;
        while (start > 0 && file[start - 1] != '/') start--;
        n = snprintf(name, sizeof name, "%.*s:%u", file_length - start, file + start, line);
    }
    else if (how == STORES_GLOBAL || in_module) {
        const char *stem = module_stem(file, &file_length);
        n = snprintf(name, sizeof name, "%.*s.%s", file_length, stem, text);
    }
    else {
        int start = 0, end = function_length;
        if (how == STORES_ATTR) {   // the class: "Cache" for "make.<locals>.Cache.__init__"; a plain function stays
            while (end > 0 && function[end - 1] != '.') end--;
            end = end > 1 && function[end - 2] != '>' ? end - 1 : function_length;
        }
        for (int i = end; i > 0; i--)
            if (function[i - 1] == '>') {   // "<locals>." ends here
                start = i + 1 < end ? i + 1 : 0;
                break;
            }
        if (how == STORES_ATTR) {
            int class = end;
            while (class > start && function[class - 1] != '.') class--;
            text = unmangled(text, function + class, end - class);
            *member = tt_intern_text(text, (uint32_t)strlen(text));
        }
        n = snprintf(name, sizeof name, "%.*s.%s", end - start, function + start, text);
    }
    if (n < 0) return 0;
    return tt_intern_text(name, (uint32_t)(n < (int)sizeof name ? n : (int)sizeof name - 1));
}
