#include "py_sentinel.h"
#include "py_lock.h"
#include "py_thread.h"
#include "segment.h"
#if PY_VERSION_HEX >= 0x030D0000

int tt_py_sentinel_add(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(stock)) { return 0; }

#else

// The interpreter calls this as the last thing it does for the thread: it must run no Python code. Dropping a weak
// reference without a callback runs none.
static void release(void *weakref)
{
    PyObject *lock = PyWeakref_GET_OBJECT((PyObject *)weakref);
    if (lock != Py_None) tt_py_lock_set_free(lock);
    Py_DECREF((PyObject *)weakref);
}

// Source: thread__set_sentinel in CPython 3.12's Modules/_threadmodule.c.
static PyObject *set_sentinel(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    PyThreadState *ts = PyThreadState_Get();
    PyObject *before = ts->on_delete_data;   // of a thread that has become the only one of a forked child; or stock's
    ts->on_delete = NULL;
    ts->on_delete_data = NULL;
    Py_XDECREF(before);
    PyObject *lock = tt_py_lock_of_site(TT_SITE_WAITER);
    PyObject *weakref = lock ? PyWeakref_NewRef(lock, NULL) : NULL;
    if (!weakref) {
        Py_XDECREF(lock);
        return NULL;
    }
    ts->on_delete_data = weakref;
    ts->on_delete = release;
    return lock;
}

int tt_py_sentinel_add(PyObject *module, PyObject *stock)
{
    static PyMethodDef method = {"_set_sentinel", set_sentinel, METH_NOARGS, NULL};
    return tt_py_add_function(module, stock, &method);
}
#endif
