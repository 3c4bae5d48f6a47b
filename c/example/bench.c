/*
 * What a token costs: the work of `boards/run BOARD bench`, between the marks that counts/'s plugin
 * for QEMU counts instructions between. The first region is the prompt, the second the answer.
 */

#include "engine.h"
#include "platform.h"
#include "text.h"

#define PROMPT_TOKENS 32
#define TOKENS 16

#if defined(__thumb__)
#define MARK_BEGIN() __asm__ volatile("mov r10, r10" ::: "memory")
#define MARK_END() __asm__ volatile("mov r9, r9" ::: "memory")
#else
#define MARK_BEGIN() (void)0
#define MARK_END() (void)0
#endif

static size_t outputs;
static uint32_t state = 1;

/* A token without meaning; what it costs does not depend on which it is. */
static uint32_t some_token(void)
{
    state = state * 1664525u + 1013904223u;
    return (state >> 8) % (uint32_t)outputs;
}

int main(void)
{
    kinglet_model_information information;
    kinglet_session_information running;
    uint32_t prompt[PROMPT_TOKENS];

    open_model();
    check("model", kinglet_model_info(&model, &information, &error));
    outputs = information.outputs;
    size_t context = golden_positions();
    open_session(context > PROMPT_TOKENS + TOKENS ? context : PROMPT_TOKENS + TOKENS, 16);
    check("golden", kinglet_session_check_golden(&session, &model, 0, &error));
    check("session", kinglet_session_info(&session, &running, &error));
    print("isa ");
    print(running.isa);
    print("\n");

    check("rewind", kinglet_session_rewind(&session, 0, &error));
    for (size_t i = 0; i < PROMPT_TOKENS; i++) {
        prompt[i] = some_token();
    }
    MARK_BEGIN();
    kinglet_status status = kinglet_session_feed(&session, prompt, PROMPT_TOKENS, &error);
    MARK_END();
    check("prefill", status);
    MARK_BEGIN();
    for (size_t i = 0; i < TOKENS && status == KINGLET_OK; i++) {
        uint32_t token = some_token();
        status = kinglet_session_feed(&session, &token, 1, &error);
    }
    MARK_END();
    check("decode", status);
    platform_exit(0);
}
