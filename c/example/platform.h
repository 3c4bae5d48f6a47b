/* What the example needs of a machine: somewhere to write, a way to end, and the model's bytes. */

#ifndef PLATFORM_H
#define PLATFORM_H

#include <stddef.h>

/* Writes bytes to the console. */
void platform_write(const char *bytes, size_t count);

/* Ends the program; 0 is success. */
_Noreturn void platform_exit(int status);

/* The model's file, which model.S places at a multiple of 64. */
extern const unsigned char model_start[];
extern const unsigned char model_end[];

#endif
