/* The platform of a computer with an operating system. */

#include "platform.h"

#include <stdio.h>
#include <stdlib.h>

void platform_write(const char *bytes, size_t count)
{
    fwrite(bytes, 1, count, stdout);
    fflush(stdout);
}

_Noreturn void platform_exit(int status)
{
    exit(status);
}
