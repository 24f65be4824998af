#include "py_stats.h"
#include <stddef.h>
#include "clock.h"
#include "segment.h"
#include "thread.h"

typedef struct sums { uint64_t wait, own_gil, idle, resource, count, blamed; } sums;

typedef struct statsobject {
    PyObject_HEAD
    sums sums;
    uint32_t record, generation, epoch;   // whose they are
    unsigned long thread;                 // its ident
} statsobject;

static PyTypeObject *stats_type;

static sums sums_of(const tt_thread_record *r)
{
    return (sums){r->wait_ticks, r->own_gil_ticks, r->idle_ticks, r->resource_ticks, r->wait_count, r->blamed_ticks};
}

static statsobject *create(void)
{
    statsobject *self = PyObject_New(statsobject, stats_type);
    if (!self) return NULL;
    self->sums = (sums){0};
    self->record = self->generation = 0;
    self->epoch = tt_fork_epoch;
    self->thread = tt_thread_ident();
    return self;
}

// Never below zero: sums of a thread only grow, but for a child's.
static uint64_t less(uint64_t now, uint64_t before) { return now > before ? now - before : 0; }

PyDoc_STRVAR(current_doc,
"current_thread_stats()\n--\n\n"
"What the calling thread has waited so far, as ThreadStats. All zero where nothing was recorded.");

static PyObject *current(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    statsobject *self = create();
    if (!self || !tt_the_segment.base) return (PyObject *)self;
    self->record = tt_thread_current_index();
    if (self->record == 0) return (PyObject *)self;   // row 0 is that of many
    const tt_thread_record *r = &tt_the_segment.threads[self->record];
    self->generation = r->generation;
    self->sums = sums_of(r);
    return (PyObject *)self;
}

PyDoc_STRVAR(elapsed_doc,
"elapsed($self, /)\n--\n\n"
"What the same thread has waited since then, also when another one asks. In a forked child: since the fork.");

static PyObject *elapsed(statsobject *self, PyObject *Py_UNUSED(ignored))
{
    statsobject *result = create();
    if (!result || !tt_the_segment.base) return (PyObject *)result;
    sums before = self->sums;
    result->record = self->record;
    result->generation = self->generation;
    result->thread = self->thread;
    if (self->epoch != tt_fork_epoch) {
        if (self->thread != tt_thread_ident()) return (PyObject *)result;   // its thread is not in this child
        before = (sums){0};   // whose counters have started at zero
        result->record = tt_thread_current_index();
        result->generation = tt_the_segment.threads[result->record].generation;
    }
    const tt_thread_record *r = &tt_the_segment.threads[result->record];
    if (result->record == 0 || r->generation != result->generation) return (PyObject *)result;   // gone, or never known
    sums now = sums_of(r);
    result->sums = (sums){less(now.wait, before.wait), less(now.own_gil, before.own_gil), less(now.idle, before.idle),
                          less(now.resource, before.resource), less(now.count, before.count),
                          less(now.blamed, before.blamed)};
    return (PyObject *)result;
}

static PyObject *get_seconds(statsobject *self, void *offset)
{
    uint64_t ticks = *(uint64_t *)((char *)&self->sums + (size_t)offset);
    return PyFloat_FromDouble((double)tt_ticks_to_ns(ticks) * 1e-9);
}

static PyObject *get_count(statsobject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(self->sums.count);
}

static PyObject *get_recorded(statsobject *self, void *Py_UNUSED(closure)) { return PyBool_FromLong(self->record != 0); }

static PyObject *stats_repr(statsobject *self)
{
    char text[240];
    const sums *s = &self->sums;
    snprintf(text, sizeof text, "ThreadStats(wait_s=%.9f, own_gil_s=%.9f, idle_s=%.9f, resource_s=%.9f, waits=%llu, "
             "blocked_others_s=%.9f)",
             (double)tt_ticks_to_ns(s->wait) * 1e-9, (double)tt_ticks_to_ns(s->own_gil) * 1e-9,
             (double)tt_ticks_to_ns(s->idle) * 1e-9, (double)tt_ticks_to_ns(s->resource) * 1e-9,
             (unsigned long long)s->count, (double)tt_ticks_to_ns(s->blamed) * 1e-9);
    return PyUnicode_FromString(text);
}

static void stats_dealloc(statsobject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_Free(self);
    Py_DECREF(type);
}

int tt_py_stats_add(PyObject *module)
{
    static PyGetSetDef getset[] = {
        {"wait_s", (getter)get_seconds, NULL, PyDoc_STR("Waiting for locks, seconds."), (void *)offsetof(sums, wait)},
        {"own_gil_s", (getter)get_seconds, NULL, PyDoc_STR("The ends of all waits: only the GIL was missing."), (void *)offsetof(sums, own_gil)},
        {"idle_s", (getter)get_seconds, NULL, PyDoc_STR("Waiting for work, seconds."), (void *)offsetof(sums, idle)},
        {"resource_s", (getter)get_seconds, NULL, PyDoc_STR("Waiting for a permit or for room, seconds."), (void *)offsetof(sums, resource)},
        {"waits", (getter)get_count, NULL, PyDoc_STR("How often it waited for a lock."), NULL},
        {"blocked_others_s", (getter)get_seconds, NULL, PyDoc_STR("What its holds made others wait, summed over them."), (void *)offsetof(sums, blamed)},
        {"recorded", (getter)get_recorded, NULL, PyDoc_STR("Whether the thread is on record; if not, all zeros mean nothing."), NULL},
        {NULL, NULL, NULL, NULL, NULL}};
    static PyMethodDef methods[] = {{"elapsed", (PyCFunction)elapsed, METH_NOARGS, elapsed_doc}, {NULL, NULL, 0, NULL}};
    static PyType_Slot slots[] = {{Py_tp_dealloc, stats_dealloc}, {Py_tp_repr, stats_repr}, {Py_tp_getset, getset},
                                  {Py_tp_methods, methods},
                                  {Py_tp_doc, (void *)PyDoc_STR("What one thread has waited so far, or since then.")}, {0, NULL}};
    static PyType_Spec spec = {"tracedthread.ThreadStats", sizeof(statsobject), 0,
                               Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};
    static PyMethodDef function = {"current_thread_stats", current, METH_NOARGS, current_doc};
    Py_XSETREF(stats_type, (PyTypeObject *)PyType_FromSpec(&spec));
    if (!stats_type || PyModule_AddObjectRef(module, "ThreadStats", (PyObject *)stats_type) < 0) return -1;
    PyObject *name = PyUnicode_FromString("tracedthread");
    PyObject *callable = name ? PyCFunction_NewEx(&function, NULL, name) : NULL;
    int r = callable ? PyModule_AddObjectRef(module, "current_thread_stats", callable) : -1;
    Py_XDECREF(callable);
    Py_XDECREF(name);
    return r;
}
