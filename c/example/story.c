/*
 * Shows that this machine computes the bits of the model's maker, and tells a story, token by
 * token.
 */

#include "engine.h"
#include "platform.h"
#include "text.h"

#define PROMPT "Once upon a time"
#define STORY_TOKENS 60
#define PROMPT_TOKENS 64
/* Enough to encode 256 bytes without a space, or much longer ordinary texts. */
#define SCRATCH_WORDS 1280

static kinglet_tokenizer tokenizer;
static kinglet_detokenizer detokenizer;
static kinglet_sampler sampler;
static uint32_t prompt[PROMPT_TOKENS];
static uint32_t scratch[SCRATCH_WORDS];

/* Repeats each golden sequence of the file, with the given prefill. */
static void check_golden(size_t prefill)
{
    kinglet_golden golden;
    size_t planned = open_session(golden_positions(), prefill);
    for (size_t i = 0; kinglet_model_golden(&model, i, &golden, NULL) == KINGLET_OK; i++) {
        check("golden", kinglet_session_check_golden(&session, &model, i, &error));
        print("golden ");
        print_number(i);
        print(": ");
        print_number(golden.answer_count);
        print(" tokens, logits hash ");
        print_hex(golden.hash);
        print(" ok (prefill ");
        print_number(prefill);
        print(")\n");
    }
    print("arena: ");
    print_number(planned);
    print(" bytes planned\n");
}

static void show(uint32_t token)
{
    char text[64];
    size_t length;
    check("text", kinglet_detokenizer_push(&detokenizer, &tokenizer, token, text, sizeof text,
                                           &length, &error));
    platform_write(text, length);
}

static bool ends(uint32_t token)
{
    bool is_eos;
    kinglet_tokenizer_information information;
    check("tokenizer", kinglet_tokenizer_is_eos(&tokenizer, token, &is_eos, &error));
    check("tokenizer", kinglet_tokenizer_info(&tokenizer, &information, &error));
    return is_eos || token == information.bos;
}

static void tell(size_t count)
{
    for (size_t i = 0; i < count; i++) {
        show(prompt[i]);
    }
    check("run", kinglet_session_feed(&session, prompt, count, &error));
    for (size_t told = 0; told < STORY_TOKENS; told++) {
        size_t outputs;
        float *row = logits(&outputs);
        uint32_t token;
        check("sampler",
              kinglet_sampler_sample(&sampler, row, outputs, NULL, 0, &token, &error));
        if (ends(token)) {
            break;
        }
        show(token);
        /* As a control loop does it: a little of the token at a time. */
        kinglet_status status = kinglet_session_begin(&session, &token, 1, 1, &error);
        while (status == KINGLET_OK || status == KINGLET_PENDING) {
            status = kinglet_session_resume(&session, 20000, &error);
            if (status == KINGLET_OK) {
                break;
            }
        }
        check("run", status);
    }
    char text[8];
    size_t length;
    check("text",
          kinglet_detokenizer_finish(&detokenizer, text, sizeof text, &length, &error));
    platform_write(text, length);
    print("\n");
}

int main(void)
{
    open_model();
    check_golden(1);
    check_golden(7);

    const kinglet_sampling sampling = {
        .temperature = 0.8f, .top_p = 0.95f, .min_p = 0.0f, .repetition_penalty = 1.0f, .top_k = 0,
    };
    size_t count;
    check("sampler", kinglet_sampler_open(&sampler, &sampling, 1, &error));
    check("tokenizer", kinglet_tokenizer_open(&tokenizer, &model, &error));
    check("text", kinglet_detokenizer_open(&detokenizer, &tokenizer, &error));
    check("prompt", kinglet_tokenizer_encode(&tokenizer, PROMPT, sizeof PROMPT - 1,
                                             KINGLET_ADD_SPECIAL, scratch, SCRATCH_WORDS, prompt,
                                             PROMPT_TOKENS, &count, &error));
    open_session(count + STORY_TOKENS, 8);
    print("story: ");
    tell(count);
    platform_exit(0);
}
