#define _GNU_SOURCE
#include "text.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "segment.h"

tt_text tt_text_begin(char *buffer, uint32_t size, bool json)
{
    buffer[0] = 0;
    return (tt_text){.buffer = buffer, .size = size, .json = json};
}

void tt_text_add(tt_text *t, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(t->buffer + t->length, t->size - t->length, format, args);
    va_end(args);
    if (n >= 0 && (uint32_t)n < t->size - t->length) {
        t->length += (uint32_t)n;
        return;
    }
    t->cut = true;
    t->buffer[t->length] = 0;
}

void tt_text_add_bytes(tt_text *t, const char *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)bytes[i];
        bool control = c < 0x20 || c == 0x7F;
        if (control)
            tt_text_add(t, t->json ? "\\u%04x" : "?", c);
        else
            tt_text_add(t, t->json && (c == '"' || c == '\\') ? "\\%c" : "%c", c);
    }
}

static const char *string_at(uint32_t string, uint32_t *length)
{
    const char *text = tt_the_segment.strings + string;
    memcpy(length, text, sizeof *length);
    return text + sizeof *length;
}

void tt_text_add_string(tt_text *t, uint32_t string)
{
    uint32_t length;
    const char *text = string_at(string, &length);
    tt_text_add_bytes(t, text, length);
}

void tt_text_add_file(tt_text *t, uint32_t string)
{
    uint32_t length;
    const char *text = string_at(string, &length);
    const char *slash = memrchr(text, '/', length);
    size_t skipped = slash ? (size_t)(slash - text) + 1 : 0;
    tt_text_add_bytes(t, text + skipped, length - skipped);
}
