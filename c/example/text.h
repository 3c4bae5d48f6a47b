/* Printing without printf, which would be larger than the runtime's tokenizer. */

#ifndef TEXT_H
#define TEXT_H

#include <stddef.h>
#include <stdint.h>

/* Prints a terminated text. */
void print(const char *text);

/* Prints a number in decimals. */
void print_number(size_t number);

/* Prints a number in 16 hexadecimal digits. */
void print_hex(uint64_t number);

#endif
