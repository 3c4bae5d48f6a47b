#include "engine.h"

#include "platform.h"
#include "text.h"

/* Static storage is zeroed, which is all that objects need before they are opened. */
kinglet_model model;
kinglet_session session;
kinglet_error error;

#ifndef ARENA_BYTES
#define ARENA_BYTES (512 * 1024)
#endif

static _Alignas(64) unsigned char arena[ARENA_BYTES];

void check(const char *what, kinglet_status status)
{
    if (status >= KINGLET_OK) {
        return;
    }
    char message[160];
    kinglet_error_message(&error, message, sizeof message);
    print(what);
    print(": ");
    print(message);
    print("\n");
    bool wrong = status == KINGLET_ERROR_GOLDEN_HASH || status == KINGLET_ERROR_GOLDEN_TOKEN;
    platform_exit(wrong ? 1 : 2);
}

void open_model(void)
{
    size_t size = (size_t)(model_end - model_start);
    check("model", kinglet_model_open(&model, model_start, size, &error));
    check("checksums", kinglet_model_verify(&model, NULL, NULL, &error));
    print("model: ");
    print_number(size);
    print(" bytes, checksums ok\n");
}

size_t open_session(size_t context, size_t prefill)
{
    kinglet_options options;
    kinglet_plan plan;
    check("options", kinglet_options_of(&model, &options, &error));
    if (context < options.context) {
        options.context = context;
    }
    options.prefill = prefill;
    check("plan", kinglet_plan_make(&model, &options, &plan, &error));
    /* Exactly the planned bytes are lent; a session that needed more would be refused. */
    if (plan.bytes > sizeof arena) {
        print("the plan needs more than the arena has: ");
        print_number(plan.bytes);
        print(" bytes\n");
        platform_exit(2);
    }
    check("session",
          kinglet_session_open(&session, &model, &options, arena, plan.bytes, &error));
    return plan.bytes;
}

size_t golden_positions(void)
{
    size_t most = 0;
    kinglet_golden golden;
    for (size_t i = 0; kinglet_model_golden(&model, i, &golden, NULL) == KINGLET_OK; i++) {
        size_t positions = golden.prompt_count + golden.answer_count;
        most = positions > most ? positions : most;
    }
    return most;
}

float *logits(size_t *count)
{
    float *row = NULL;
    check("logits", kinglet_session_logits(&session, &row, count, &error));
    return row;
}
