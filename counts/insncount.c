/*
 * A TCG plugin for QEMU 7.2 that counts the guest's instructions between two marks.
 *
 *     gcc -O2 -shared -fPIC -o libinsncount.so insncount.c
 *     qemu-aarch64 -plugin ./libinsncount.so PROGRAM        (or qemu-system-arm)
 *
 * A mark is a move of a register to itself, which does nothing and which compilers do not emit:
 *
 *               begins         ends
 *     Thumb     mov r10, r10   mov r9, r9
 *     A64       mov x27, x27   mov x26, x26
 *
 * When the guest ends, each region's count goes to standard error as "insncount: NUMBER", in the order in which the regions
 * ran. Marks are not counted. Every executed instruction counts one, whatever it costs on a processor, so that a program
 * that does the same again counts the same again. Regions are those of one thread.
 */

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The part of QEMU's plugin API (version 1, docs/devel/tcg-plugins.rst) that is used here; Debian ships no header. */
typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef struct {
    const char *target_name;
    struct { int min, cur; } version;
    bool system_emulation;
    struct { int smp_vcpus, max_vcpus; } system;
} qemu_info_t;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, void (*)(unsigned, void *),
                                            enum qemu_plugin_cb_flags, void *);
void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn *, enum qemu_plugin_op, void *, uint64_t);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, void *), void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *);

#define EXPORT __attribute__((visibility("default")))
EXPORT int qemu_plugin_version = 1;

/* Instructions so far, without marks; translated code adds to it. */
static uint64_t executed;

static struct {
    uint64_t *counts;
    size_t done, capacity;
    uint64_t start;
    bool open;
} regions;

static void fail(const char *why)
{
    fprintf(stderr, "insncount: %s\n", why);
    exit(3);
}

static void begin(unsigned vcpu, void *data)
{
    if (regions.open) {
        fail("a region begins within a region");
    }
    regions.open = true;
    regions.start = executed;
}

static void end(unsigned vcpu, void *data)
{
    if (!regions.open) {
        fail("a region ends that never began");
    }
    if (regions.done == regions.capacity) {
        regions.capacity = regions.capacity ? 2 * regions.capacity : 64;
        regions.counts = realloc(regions.counts, regions.capacity * sizeof *regions.counts);
        if (!regions.counts) {
            fail("out of memory");
        }
    }
    regions.counts[regions.done++] = executed - regions.start;
    regions.open = false;
}

struct mark {
    size_t size;
    uint32_t code;
    void (*action)(unsigned, void *);
};

/* Thumb: two bytes. A64, where mov is orr with the zero register: four. */
static const struct mark thumb[] = {{2, 0x46d2, begin}, {2, 0x46c9, end}};
static const struct mark a64[] = {{4, 0xaa1b03fb, begin}, {4, 0xaa1a03fa, end}};
static const struct mark *marks;

static void (*mark_of(const struct qemu_plugin_insn *insn))(unsigned, void *)
{
    for (const struct mark *mark = marks; mark < marks + 2; mark++) {
        uint32_t code = 0;
        /* QEMU says four of a Thumb instruction of two bytes when it looked at the next one, too, as it does at the end of a page. The
         * first two bytes tell them apart from those that are longer. */
        if (qemu_plugin_insn_size(insn) >= mark->size) {
            memcpy(&code, qemu_plugin_insn_data(insn), mark->size);
        }
        if (code == mark->code) {
            return mark->action;
        }
    }
    return NULL;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block)
{
    for (size_t i = 0; i < qemu_plugin_tb_n_insns(block); i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(block, i);
        void (*action)(unsigned, void *) = mark_of(insn);
        if (action) {
            qemu_plugin_register_vcpu_insn_exec_cb(insn, action, QEMU_PLUGIN_CB_NO_REGS, NULL);
        } else {
            qemu_plugin_register_vcpu_insn_exec_inline(insn, QEMU_PLUGIN_INLINE_ADD_U64, &executed, 1);
        }
    }
}

static void report(qemu_plugin_id_t id, void *data)
{
    for (size_t i = 0; i < regions.done; i++) {
        fprintf(stderr, "insncount: %" PRIu64 "\n", regions.counts[i]);
    }
    if (regions.open) {
        fprintf(stderr, "insncount: a region has no end\n");
    }
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
    marks = strcmp(info->target_name, "aarch64") == 0 ? a64 : thumb;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, report, NULL);
    return 0;
}
