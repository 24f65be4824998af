#include "py_name.h"
#include <string.h>
#include "py_site.h"
#include "py_text.h"
#include "thread.h"

static PyObject *name_key, *target_key;

// The calling thread's threading.Thread (borrowed: what it runs keeps it) and the name that its record has.
static _Thread_local struct { PyObject *thread, *name; } self;

int tt_py_name_init(void)
{
    Py_XSETREF(name_key, PyUnicode_InternFromString("_name"));
    Py_XSETREF(target_key, PyUnicode_InternFromString("_target"));
    return name_key && target_key ? 0 : -1;
}

static void copy_utf8(char *to, size_t room, PyObject *text)
{
    size_t length = tt_py_utf8(to, room - 1, text);
    for (size_t i = 0; i < length; i++)
        if (!to[i]) to[i] = '?';   // a null character would end it
    to[length] = 0;
}

static PyObject *thread_of(PyObject *function)
{
    return PyMethod_Check(function) ? PyMethod_GET_SELF(function) : NULL;
}

bool tt_py_name_of_thread(PyObject *thread, tt_py_name *name)
{
    PyObject *its_name = tt_py_own_attribute(thread, name_key);
    bool has_name = its_name && PyUnicode_Check(its_name);
    if (has_name) copy_utf8(name->label, sizeof name->label, its_name);
    Py_XDECREF(its_name);
    return has_name;
}

tt_py_name tt_py_name_of(PyObject *function)
{
    tt_py_name name = {0};
    PyObject *thread = thread_of(function), *target = NULL;
    if (thread && tt_py_name_of_thread(thread, &name)) target = tt_py_own_attribute(thread, target_key);
    if (target && target != Py_None) name.function = tt_py_function_name(target);
    Py_XDECREF(target);
    if (!name.function) name.function = tt_py_function_name(function);
    return name;
}

void tt_py_name_enter(PyObject *function)
{
    PyObject *thread = thread_of(function);
    self.name = thread ? tt_py_own_attribute(thread, name_key) : NULL;
    self.thread = self.name && PyUnicode_Check(self.name) ? thread : NULL;
}

void tt_py_name_leave(void)
{
    tt_py_name_follow();
    self.thread = NULL;
    Py_CLEAR(self.name);
}

void tt_py_name_follow(void)
{
    if (!self.thread) return;
    PyObject *name = tt_py_own_attribute(self.thread, name_key);
    if (!name || name == self.name || !PyUnicode_Check(name)) {
        Py_XDECREF(name);
        return;
    }
    char label[sizeof((tt_py_name *)0)->label];
    copy_utf8(label, sizeof label, name);
    Py_XSETREF(self.name, name);
    if (tt_thread_known()) tt_thread_rename(tt_thread_current_index(), label);
}

void tt_py_name_set(PyObject *name)
{
    char label[sizeof((tt_py_name *)0)->label];
    if (self.thread || !PyUnicode_Check(name) || !tt_thread_known()) return;
    copy_utf8(label, sizeof label, name);
    tt_thread_rename(tt_thread_current_index(), label);
}
