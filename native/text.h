// Text put together in a buffer, without allocating: what does not fit is cut off.
#ifndef TT_TEXT_H
#define TT_TEXT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct tt_text {
    char *buffer;
    uint32_t length, size;
    bool json;   // what comes from the program is escaped as in a JSON string; else unprintable bytes become '?'
    bool cut;    // something did not fit
} tt_text;

tt_text tt_text_begin(char *buffer, uint32_t size, bool json);
// Ours, as printf. `format` and its strings are taken as they are.
void tt_text_add(tt_text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
// The program's.
void tt_text_add_bytes(tt_text *t, const char *bytes, size_t length);
// A string of the capture; of a path only the last part.
void tt_text_add_string(tt_text *t, uint32_t string);
void tt_text_add_file(tt_text *t, uint32_t string);
#endif
