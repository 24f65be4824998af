// For tests/unit/test_blame.py, through ctypes.PyDLL: calls and takes the time, with nothing of the interpreter in between.
#include <Python.h>
#include <time.h>

static long long now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

// `stamps`: ns before and after, and then 1 if `function` returned something true. 0, or -1 with its exception.
int timed_call(PyObject *function, long long *stamps)
{
    stamps[0] = now();
    PyObject *result = PyObject_CallNoArgs(function);
    stamps[1] = now();
    if (!result) return -1;
    stamps[2] = PyObject_IsTrue(result);
    Py_DECREF(result);
    return 0;
}
