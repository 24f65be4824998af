#include "py_code.h"
#include <stdlib.h>
#include "intern.h"
#include "py_site.h"

static Py_ssize_t extra_index = -1;
static uint32_t last_id;
static PyObject *hidden_files, *wrapper_files, *roles;   // set by configure, of the main interpreter

uint64_t tt_py_code_era = 1;

static void retire(void *known)
{
    tt_py_code_era++;
    free(known);
}

int tt_py_code_init(void)
{
    // One index is enough for the life of the process: our free function can stay.
    if (extra_index < 0) extra_index = PyUnstable_Eval_RequestCodeExtraIndex(retire);
    if (extra_index < 0) PyErr_SetString(PyExc_ImportError, "no room for another user of code objects' co_extra");
    return extra_index < 0 ? -1 : 0;
}

// {(file, name): role} becomes {file: {name: role}}: looking up must not make a tuple, which could run the garbage collector.
int tt_py_code_configure(PyObject *hidden, PyObject *wrappers, PyObject *by_file_and_name)
{
    PyObject *nested = PyDict_New(), *key, *role;
    for (Py_ssize_t pos = 0; nested && PyDict_Next(by_file_and_name, &pos, &key, &role);) {
        PyObject *file, *name, *by_name;
        if (!PyArg_ParseTuple(key, "UU:configure", &file, &name)) goto failed;
        if (!(by_name = PyDict_GetItemWithError(nested, file))) {
            if (PyErr_Occurred() || !(by_name = PyDict_New())) goto failed;
            int r = PyDict_SetItem(nested, file, by_name);
            Py_DECREF(by_name);   // `nested` keeps it
            if (r < 0) goto failed;
        }
        if (PyDict_SetItem(by_name, name, role) < 0) goto failed;
    }
    if (!nested) return -1;
    tt_py_code_era++;
    Py_XSETREF(hidden_files, Py_NewRef(hidden));
    Py_XSETREF(wrapper_files, Py_NewRef(wrappers));
    Py_XSETREF(roles, nested);
    return 0;
failed:
    Py_DECREF(nested);
    return -1;
}

#if PY_VERSION_HEX < 0x030B0000
// 3.10 keeps no qualified name in code objects: look for the method of `self` or `cls` that has this code.
static PyObject *qualname_from_self(PyCodeObject *code, tt_pyframe *frame)
{
    PyObject *self = code->co_argcount > 0 ? tt_pyframe_first_local(frame) : NULL;
    if (!self) return NULL;
    PyTypeObject *type = PyType_Check(self) ? (PyTypeObject *)self : Py_TYPE(self);
    PyObject *mro = type->tp_mro;
    for (Py_ssize_t i = 0; mro && i < PyTuple_GET_SIZE(mro); i++) {
        PyObject *class = PyTuple_GET_ITEM(mro, i);
        PyObject *dict = PyType_Check(class) ? ((PyTypeObject *)class)->tp_dict : NULL;
        PyObject *found = dict ? PyDict_GetItemWithError(dict, code->co_name) : NULL;   // borrowed; str keys run no code
        // The function is the first field of each of these (cm_callable, sm_callable, prop_get).
        if (found && (Py_IS_TYPE(found, &PyClassMethod_Type) || Py_IS_TYPE(found, &PyStaticMethod_Type)
                      || Py_IS_TYPE(found, &PyProperty_Type)))
            found = ((PyObject **)(found + 1))[0];
        if (found && PyFunction_Check(found) && ((PyFunctionObject *)found)->func_code == (PyObject *)code)
            return Py_NewRef(((PyFunctionObject *)found)->func_qualname);
    }
    return NULL;
}
#endif

PyObject *tt_py_code_qualname(PyCodeObject *code, tt_pyframe *frame)
{
#if PY_VERSION_HEX < 0x030B0000
    PyObject *name = qualname_from_self(code, frame);
    return name ? name : Py_NewRef(code->co_name);
#else
    (void)frame;
    return Py_NewRef(code->co_qualname);
#endif
}

// Whether `pattern` is `*` and the end of `path`.
static bool is_anywhere(PyObject *path, PyObject *pattern)
{
    Py_ssize_t tail = PyUnicode_GET_LENGTH(pattern) - 1, start = PyUnicode_GET_LENGTH(path) - tail;
    if (tail < 1 || start < 0 || PyUnicode_READ_CHAR(pattern, 0) != '*') return false;
    for (Py_ssize_t i = tail - 1; i >= 0; i--)   // names of files differ at their ends
        if (PyUnicode_READ_CHAR(path, start + i) != PyUnicode_READ_CHAR(pattern, i + 1)) return false;
    return true;
}

// Whether it is among `files`, a tuple or NULL.
static bool is_among(PyObject *path, PyObject *files)
{
    if (!files) return false;
    if (PySequence_Contains(files, path) == 1) return true;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(files); i++)
        if (is_anywhere(path, PyTuple_GET_ITEM(files, i))) return true;
    return false;
}

static int role_of(PyCodeObject *code, PyObject *qualname)
{
    PyObject *by_name = roles ? PyDict_GetItemWithError(roles, code->co_filename) : NULL, *pattern, *names;
    for (Py_ssize_t pos = 0; roles && !by_name && PyDict_Next(roles, &pos, &pattern, &names);)
        if (is_anywhere(code->co_filename, pattern)) by_name = names;
    PyObject *role = by_name ? PyDict_GetItemWithError(by_name, qualname) : NULL;
    return role ? (int)PyLong_AsLong(role) : TT_ROLE_NONE;
}

static tt_py_code *meet(PyCodeObject *code, tt_pyframe *frame)
{
    tt_py_code *known = calloc(1, sizeof *known);
    if (!known) return NULL;
    PyObject *qualname = tt_py_code_qualname(code, frame);
    known->id = ++last_id;
    known->file = tt_py_text(code->co_filename);
    known->function = tt_py_text(qualname);
    known->role = TT_ROLE_NONE;
    if (PyUnicode_CheckExact(code->co_filename) && PyUnicode_CheckExact(qualname)) {   // a subclass's __eq__ is Python code
        known->wrapper = is_among(code->co_filename, wrapper_files);
        known->hidden = known->wrapper || is_among(code->co_filename, hidden_files);
        known->role = (int16_t)role_of(code, qualname);
    }
    known->maker = known->wrapper
                   || PyUnicode_CompareWithASCIIString(code->co_name, "__init__") == 0
                   || PyUnicode_CompareWithASCIIString(code->co_name, "RLock") == 0;
    Py_DECREF(qualname);
    PyErr_Clear();
    void *other = NULL;
    if (PyUnstable_Code_GetExtra((PyObject *)code, extra_index, &other) == 0 && other) {   // met meanwhile, by a __del__
        free(known);
        return other;
    }
    if (PyUnstable_Code_SetExtra((PyObject *)code, extra_index, known) < 0) {
        PyErr_Clear();
        free(known);
        return NULL;
    }
    return known;
}

tt_py_code *tt_py_code_of(tt_pyframe *frame)
{
    PyCodeObject *code = tt_pyframe_code(frame);
    void *known = NULL;
    PyUnstable_Code_GetExtra((PyObject *)code, extra_index, &known);
    return known ? known : meet(code, frame);
}
