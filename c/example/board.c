/*
 * The platform of a Cortex-M board: start-up without a C library, and the host's console by
 * semihosting.
 */

#include "platform.h"
#include "text.h"


int main(void);

/* Of the linker script. */
extern uint32_t stack_bottom[], stack_paint_end[], stack_top[];
extern uint32_t data_start[], data_end[], data_load[];
extern uint32_t bss_start[], bss_end[];

/* What unused stack holds. */
#define PAINT 0xc0ffee11u

enum { SYS_OPEN = 0x01, SYS_WRITE = 0x05, SYS_EXIT_EXTENDED = 0x20 };

static uintptr_t semihosting(uintptr_t operation, const void *arguments)
{
    register uintptr_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = arguments;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

void platform_write(const char *bytes, size_t count)
{
    static uintptr_t console;
    if (console == 0) {
        static const char name[] = ":tt";
        const uintptr_t write_mode = 4;
        const uintptr_t arguments[] = {(uintptr_t)name, write_mode, sizeof name - 1};
        console = semihosting(SYS_OPEN, arguments);
    }
    const uintptr_t arguments[] = {console, (uintptr_t)bytes, count};
    semihosting(SYS_WRITE, arguments);
}

_Noreturn void platform_exit(int status)
{
    const uint32_t *deepest = stack_bottom;
    while (deepest < stack_top && *deepest == PAINT) {
        deepest++;
    }
    print("stack: ");
    print_number((size_t)(stack_top - deepest) * sizeof *deepest);
    print(" bytes used of ");
    print_number((size_t)(stack_top - stack_bottom) * sizeof *deepest);
    print("\n");
    const uintptr_t application_exit = 0x20026;
    const uintptr_t arguments[] = {application_exit, (uintptr_t)status};
    semihosting(SYS_EXIT_EXTENDED, arguments);
    for (;;) {
    }
}

static void fault(void)
{
    platform_exit(102);
}

static void reset(void)
{
    /* The FPU, and Helium where there is one, are off after a reset. */
    volatile uint32_t *cpacr = (volatile uint32_t *)0xe000ed88;
    *cpacr |= 0xfu << 20;
    __asm__ volatile("dsb\n isb" ::: "memory");
    const uint32_t *from = data_load;
    for (uint32_t *to = data_start; to < data_end; to++) {
        *to = *from++;
    }
    for (uint32_t *to = bss_start; to < bss_end; to++) {
        *to = 0;
    }
    /* All of the stack but what this function may use of it. */
    for (uint32_t *word = stack_bottom; word < stack_paint_end; word++) {
        *word = PAINT;
    }
    main();
    platform_exit(0);
}

typedef void (*vector)(void);

/* NMI, hard fault, and the faults that are not enabled and so become hard faults. */
__attribute__((section(".vectors"), used)) static const vector vectors[16] = {
    (vector)(uintptr_t)stack_top, reset, fault, fault, fault, fault, fault, fault,
};
