#include "py_text.h"
#include <stdio.h>
#include <string.h>

// Of one character; at most 6 bytes, and room for the null character that snprintf writes.
static size_t encode(char bytes[7], Py_UCS4 c)
{
    if (c >= 0xd800 && c < 0xe000) return (size_t)snprintf(bytes, 7, "\\u%04x", (unsigned)c);
    size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const unsigned char first[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = n; i-- > 1; c >>= 6) bytes[i] = (char)(0x80 | (c & 0x3f));
    bytes[0] = (char)(first[n] | c);
    return n;
}

size_t tt_py_utf8(char *to, size_t room, PyObject *text)
{
#if PY_VERSION_HEX < 0x030C0000
    if (PyUnicode_READY(text) < 0) {
        PyErr_Clear();
        return 0;
    }
#endif
    size_t count = (size_t)PyUnicode_GET_LENGTH(text), length = 0;
    int kind = (int)PyUnicode_KIND(text);
    const void *data = PyUnicode_DATA(text);
    if (PyUnicode_IS_ASCII(text)) {
        length = count < room ? count : room;
        memcpy(to, data, length);
        return length;
    }
    for (size_t i = 0; i < count; i++) {
        char bytes[7];
        size_t n = encode(bytes, PyUnicode_READ(kind, data, i));
        if (n > room - length) break;
        memcpy(to + length, bytes, n);
        length += n;
    }
    return length;
}
