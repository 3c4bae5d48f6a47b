/*
 * Kinglet: a transformer runtime for the smallest machine that can hold the model.
 *
 * Generated from the Rust sources of c/; do not edit.
 *
 *     static kinglet_model model;
 *     static kinglet_session session;
 *     static alignas(64) unsigned char arena[65536];
 *
 *     kinglet_model_open(&model, flash, size, &error);
 *     kinglet_options_of(&model, &options, &error);
 *     options.context = 128;
 *     kinglet_plan_make(&model, &options, &plan, &error);          // plan.bytes <= sizeof arena
 *     kinglet_session_open(&session, &model, &options, arena, sizeof arena, &error);
 *     kinglet_session_feed(&session, tokens, count, &error);
 *     kinglet_session_logits(&session, &logits, &outputs, &error);
 *     kinglet_argmax(logits, outputs, &token, &error);
 *
 * THE CONTRACT. The library allocates nothing and has no globals. What can be checked is checked
 * and returned as a status; the caller promises the rest:
 *
 * 1. Objects (kinglet_model, kinglet_session, kinglet_tokenizer, kinglet_detokenizer,
 *    kinglet_sampler, kinglet_error) are the caller's memory, of static storage or zeroed before
 *    their first use. Their members are the library's. Objects stay where they were opened: a copy
 *    is reported as KINGLET_ERROR_NOT_OPEN. They are opened again by opening them again, and need
 *    not be closed.
 * 2. Pointers are valid for the number of elements that is passed with them, for reading, and for
 *    writing unless they are const. Null is allowed with 0 elements, for `error`, and where it is
 *    documented. Alignment is that of the type; a model's bytes and an arena start at a multiple of
 *    64, and arguments that are written share no memory with other arguments. Buffers for
 *    results and arenas need not be initialised.
 * 3. A model's bytes stay unchanged while its model, a session or a tokenizer is used. An arena is
 *    the session's while that is used.
 * 4. One call at a time uses an object that is not const for it. Calls with different objects, or
 *    with the same const ones, may run at the same time, in interrupts and threads. A model and a
 *    tokenizer are const for everything but opening them.
 *
 * Unless KINGLET_OK is returned, or a function says otherwise, nothing was written to results. A
 * refused call leaves a session as it was; a failed opening leaves its object closed.
 */

#ifndef KINGLET_H
#define KINGLET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * The id that stands for a token that a tokenizer does not have.
 */
#define KINGLET_NO_TOKEN UINT32_MAX

/**
 * Put the model's special tokens before and after the text, as its template says.
 */
#define KINGLET_ADD_SPECIAL 1

/**
 * Take the names of special tokens in the text for these tokens. A text from outside should be
 * encoded without it.
 */
#define KINGLET_MATCH_SPECIAL 2

/**
 * What a function returns. Errors are negative, and their numbers do not change.
 */
enum kinglet_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * Everything was done.
     */
    KINGLET_OK = 0,
    /**
     * The budget is used up: call kinglet_session_resume again when convenient.
     */
    KINGLET_PENDING = 1,
    /**
     * A pointer is null.
     */
    KINGLET_ERROR_NULL = -1,
    /**
     * A pointer is not aligned as it must be.
     */
    KINGLET_ERROR_UNALIGNED = -2,
    /**
     * An object was not opened, was opened without success, or was copied.
     */
    KINGLET_ERROR_NOT_OPEN = -3,
    /**
     * A lent buffer is too small.
     */
    KINGLET_ERROR_TOO_SMALL = -4,
    /**
     * A length is more than the address space has.
     */
    KINGLET_ERROR_TOO_LONG = -5,
    /**
     * Two arguments share memory that must not.
     */
    KINGLET_ERROR_OVERLAP = -6,
    /**
     * A text is not UTF-8.
     */
    KINGLET_ERROR_UTF8 = -7,
    /**
     * An option has a value that does not exist.
     */
    KINGLET_ERROR_VALUE = -8,
    /**
     * The model does not have what was asked for.
     */
    KINGLET_ERROR_MISSING = -9,
    /**
     * The bytes are not a .kinglet file.
     */
    KINGLET_ERROR_NOT_KINGLET = -20,
    /**
     * The file has a format version that this library does not read.
     */
    KINGLET_ERROR_VERSION = -21,
    /**
     * The file ends early.
     */
    KINGLET_ERROR_TRUNCATED = -22,
    /**
     * The file's structure is wrong.
     */
    KINGLET_ERROR_FILE = -23,
    /**
     * A checksum does not match.
     */
    KINGLET_ERROR_CHECKSUM = -24,
    /**
     * The tokenizer's section is wrong.
     */
    KINGLET_ERROR_TOKENIZER = -25,
    /**
     * An option is zero or too large.
     */
    KINGLET_ERROR_OPTIONS = -40,
    /**
     * The model was made for a shorter context.
     */
    KINGLET_ERROR_CONTEXT = -41,
    /**
     * The model was made for a shorter source, or for none.
     */
    KINGLET_ERROR_PLAN_SOURCE = -42,
    /**
     * The plan does not fit the address space.
     */
    KINGLET_ERROR_TOO_LARGE = -43,
    /**
     * There are no tokens.
     */
    KINGLET_ERROR_EMPTY = -60,
    /**
     * More was asked for than was planned.
     */
    KINGLET_ERROR_TOO_MANY = -61,
    /**
     * The tokens do not fit the planned context.
     */
    KINGLET_ERROR_CONTEXT_FULL = -62,
    /**
     * The vocabulary has no such token.
     */
    KINGLET_ERROR_TOKEN = -63,
    /**
     * The source has a length that the model or the plan does not take.
     */
    KINGLET_ERROR_SOURCE = -64,
    /**
     * The model does not read what it was given.
     */
    KINGLET_ERROR_READS = -65,
    /**
     * A target was begun before there was a source.
     */
    KINGLET_ERROR_NO_SOURCE = -66,
    /**
     * The position to rewind to was not reached.
     */
    KINGLET_ERROR_POSITION = -67,
    /**
     * A run was begun and is not finished: resume it, or rewind.
     */
    KINGLET_ERROR_UNFINISHED = -68,
    /**
     * No run was begun.
     */
    KINGLET_ERROR_IDLE = -69,
    /**
     * A golden sequence gave another token.
     */
    KINGLET_ERROR_GOLDEN_TOKEN = -80,
    /**
     * A golden sequence gave the right tokens with other bits.
     */
    KINGLET_ERROR_GOLDEN_HASH = -81,
    /**
     * The tokenizer's scratch is too small for this text.
     */
    KINGLET_ERROR_SCRATCH = -90,
    /**
     * The text has a character that the vocabulary cannot express.
     */
    KINGLET_ERROR_UNKNOWN = -91,
    /**
     * An error that has no code of its own; the message says which.
     */
    KINGLET_ERROR_OTHER = -127,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum kinglet_status kinglet_status;
#else
typedef int32_t kinglet_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What kinglet_source.data points to.
 */
enum kinglet_source_kind
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * Tokens, uint32_t.
     */
    KINGLET_SOURCE_TOKENS = 0,
    /**
     * Rows of numbers, float, one after the other.
     */
    KINGLET_SOURCE_FEATURES = 1,
    /**
     * The bytes of a picture: rows, pixels, channels.
     */
    KINGLET_SOURCE_PIXELS = 2,
    /**
     * Nothing: `count` rows follow from a formula, to check a device without a picture at hand.
     */
    KINGLET_SOURCE_PATTERN = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum kinglet_source_kind kinglet_source_kind;
#else
typedef int32_t kinglet_source_kind;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * How values are kept in the cache; keys have 8 bits.
 */
enum kinglet_values
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * 8 bits.
     */
    KINGLET_VALUES_INT8 = 0,
    /**
     * 4 bits, in a library with all families.
     */
    KINGLET_VALUES_INT4 = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum kinglet_values kinglet_values;
#else
typedef int32_t kinglet_values;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What went wrong and where, for kinglet_error_message. A function that fails writes it if it is
 * given one; a function that succeeds leaves it as it was.
 */
typedef struct kinglet_error {
    uint64_t tag;
    size_t opaque[10];
} kinglet_error;

/**
 * A model, read where its bytes lie.
 */
typedef struct kinglet_model {
    uint64_t tag;
    size_t opaque[28];
} kinglet_model;

/**
 * Called with the bytes done so far, and the context that was given with it.
 */
typedef void (*kinglet_progress)(void *context, uint64_t done);

/**
 * What a model is.
 */
typedef struct kinglet_model_information {
    /**
     * Whether it generates tokens; otherwise it is an encoder, and only sources are given to it.
     */
    bool decoder;
    /**
     * Numbers in a row of logits: the vocabulary's size, classes, or the width of an embedding.
     */
    size_t outputs;
    /**
     * Positions that the last stack was made for.
     */
    size_t context;
    /**
     * Width of the last stack.
     */
    size_t width;
    /**
     * Golden sequences in the file.
     */
    size_t goldens;
} kinglet_model_information;

/**
 * An answer that travels with the file, for kinglet_session_check_golden. The pointers lead into
 * the file's bytes, and are null where the count is 0.
 */
typedef struct kinglet_golden {
    /**
     * Rows of the source.
     */
    size_t rows;
    /**
     * Tokens of the source. None, though there are rows, where the model reads something else.
     */
    const uint32_t *source;
    /**
     * How many.
     */
    size_t source_count;
    /**
     * Tokens given.
     */
    const uint32_t *prompt;
    /**
     * How many.
     */
    size_t prompt_count;
    /**
     * Most probable tokens that followed. Prompt and answer together are the context that is
     * needed.
     */
    const uint32_t *answer;
    /**
     * How many.
     */
    size_t answer_count;
    /**
     * Hash of the bits of all logits that chose the answer.
     */
    uint64_t hash;
} kinglet_golden;

/**
 * Capacity limits of a session. kinglet_options_of gives values to start from.
 */
typedef struct kinglet_options {
    /**
     * Positions in the key/value cache of a decoder: prompt and answer together.
     */
    size_t context;
    /**
     * The most tokens that a decoder runs together. More is faster for prompts and takes more
     * memory.
     */
    size_t prefill;
    /**
     * The most positions of one run whose logits are kept.
     */
    size_t logits;
    /**
     * Positions of the source that an encoder reads, including a class token; 0 for a lone
     * decoder.
     */
    size_t source;
    /**
     * Targets that are decoded side by side over one source or prompt, at most 16.
     */
    size_t targets;
    /**
     * One of kinglet_values.
     */
    int32_t values;
} kinglet_options;

/**
 * How much memory a session needs.
 */
typedef struct kinglet_plan {
    /**
     * Bytes of the arena: the three that follow. The session uses exactly these.
     */
    size_t bytes;
    /**
     * Of these, keys and values of the targets.
     */
    size_t self_cache;
    /**
     * Of these, keys and values of the source.
     */
    size_t cross_cache;
    /**
     * All others.
     */
    size_t scratch;
} kinglet_plan;

/**
 * Draws tokens.
 */
typedef struct kinglet_sampler {
    uint64_t tag;
    size_t opaque[416];
} kinglet_sampler;

/**
 * How to choose.
 */
typedef struct kinglet_sampling {
    /**
     * Logits are divided by it; 0 takes the most probable token.
     */
    float temperature;
    /**
     * Only the most probable tokens that together reach this probability; 1 means all.
     */
    float top_p;
    /**
     * Only tokens at least this fraction as probable as the most probable; 0 means all.
     */
    float min_p;
    /**
     * Logits of recent tokens are divided by it where positive, multiplied where negative; 1 means
     * no penalty.
     */
    float repetition_penalty;
    /**
     * Only so many of the most probable tokens; 0 means all.
     */
    size_t top_k;
} kinglet_sampling;

/**
 * A source or a sequence of tokens or both, with caches, in an arena that the caller lends.
 */
typedef struct kinglet_session {
    uint64_t tag;
    size_t opaque[256];
} kinglet_session;

/**
 * How far a session is.
 */
typedef struct kinglet_session_information {
    /**
     * Tokens of each target in the cache.
     */
    size_t position;
    /**
     * Rows of the source that targets look at; 0 when there is none.
     */
    size_t source;
    /**
     * The terminated name of the instruction set in use, such as "dsp" or "helium".
     */
    char isa[16];
} kinglet_session_information;

/**
 * What an encoder reads.
 */
typedef struct kinglet_source {
    /**
     * One of kinglet_source_kind.
     */
    int32_t kind;
    /**
     * Elements as `kind` says.
     */
    const void *data;
    /**
     * How many elements, or rows of the pattern.
     */
    size_t count;
    /**
     * The type of each token; null: all are of type 0.
     */
    const uint8_t *types;
} kinglet_source;

/**
 * A tokenizer in the bytes of a model's file.
 */
typedef struct kinglet_tokenizer {
    uint64_t tag;
    size_t opaque[120];
} kinglet_tokenizer;

/**
 * What a tokenizer is. A token it does not have is KINGLET_NO_TOKEN.
 */
typedef struct kinglet_tokenizer_information {
    /**
     * Tokens are below this number.
     */
    size_t vocab;
    /**
     * The token that begins a text.
     */
    uint32_t bos;
    /**
     * The token for unknown characters.
     */
    uint32_t unk;
    /**
     * The token that pads a batch.
     */
    uint32_t pad;
    /**
     * Whether texts must be brought into Unicode normal form C before they are encoded.
     */
    bool expects_nfc;
} kinglet_tokenizer_information;

/**
 * Turns tokens into text, one at a time, never a part of a character.
 */
typedef struct kinglet_detokenizer {
    uint64_t tag;
    size_t opaque[4];
} kinglet_detokenizer;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The version of the library, such as "0.1.0".
 */
const char *kinglet_version(void);

/**
 * The version of the file format that this library reads.
 */
uint32_t kinglet_format_version(void);

/**
 * Writes what went wrong, with the place and the numbers, as a terminated UTF-8 text; a text that
 * does not fit is cut after a whole character. Returns the bytes of the whole text without its
 * terminator, as snprintf does. If no function wrote to `error`, the text is empty.
 *
 * `text` may be null when `capacity` is 0. A program that never calls this function does not
 * contain the texts.
 */
size_t kinglet_error_message(const struct kinglet_error *error, char *text, size_t capacity);

/**
 * A short text for a status code, without place and numbers. It is a constant.
 */
const char *kinglet_status_text(int32_t status);

/**
 * Checks the structure of a file. The cost grows with the number of its tensors, not with the
 * weights; kinglet_model_verify reads those.
 *
 * `bytes` starts at a multiple of 64 and stays as it is for as long as the model or anything
 * opened from it is used. Bytes after the file's end are ignored, so a whole flash region may be
 * given. Any bytes at all are a model or an error.
 */
kinglet_status kinglet_model_open(struct kinglet_model *model,
                                  const uint8_t *bytes,
                                  size_t size,
                                  struct kinglet_error *error);

/**
 * Compares every checksum, which reads the whole file once, and checks tokenizers and indices.
 *
 * `progress` is called at least once every KiB, to feed a watchdog; it may be null, and it must
 * return.
 */
kinglet_status kinglet_model_verify(const struct kinglet_model *model,
                                    kinglet_progress progress,
                                    void *context,
                                    struct kinglet_error *error);

/**
 * Says what a model is.
 */
kinglet_status kinglet_model_info(const struct kinglet_model *model,
                                  struct kinglet_model_information *information,
                                  struct kinglet_error *error);

/**
 * Looks up golden sequence `index`.
 */
kinglet_status kinglet_model_golden(const struct kinglet_model *model,
                                    size_t index,
                                    struct kinglet_golden *golden,
                                    struct kinglet_error *error);

/**
 * The options for as much source and context as the model was made for, one token at a time.
 */
kinglet_status kinglet_options_of(const struct kinglet_model *model,
                                  struct kinglet_options *options,
                                  struct kinglet_error *error);

/**
 * Computes the exact bytes of a session's arena, the same on every machine.
 */
kinglet_status kinglet_plan_make(const struct kinglet_model *model,
                                 const struct kinglet_options *options,
                                 struct kinglet_plan *plan,
                                 struct kinglet_error *error);

/**
 * Opens a sampler whose draws depend on `seed` alone, and are the same on every machine.
 */
kinglet_status kinglet_sampler_open(struct kinglet_sampler *sampler,
                                    const struct kinglet_sampling *sampling,
                                    uint64_t seed,
                                    struct kinglet_error *error);

/**
 * Chooses a token from one row of logits, which are used up. `recent` are the tokens that the
 * repetition penalty looks at; there may be none.
 */
kinglet_status kinglet_sampler_sample(struct kinglet_sampler *sampler,
                                      float *logits,
                                      size_t count,
                                      const uint32_t *recent,
                                      size_t recent_count,
                                      uint32_t *token,
                                      struct kinglet_error *error);

/**
 * The token with the largest logit, the first of equals. NaN is never chosen unless there is
 * nothing else.
 */
kinglet_status kinglet_argmax(const float *logits,
                              size_t count,
                              uint32_t *token,
                              struct kinglet_error *error);

/**
 * Opens a session with the fastest instructions of this machine.
 *
 * `arena` starts at a multiple of 64 and has at least the bytes of kinglet_plan_make; only those
 * are used, and their contents do not matter. They belong to the session for as long as it is
 * used; afterwards nothing needs to be closed. The model's bytes must stay, the model object need
 * not.
 */
kinglet_status kinglet_session_open(struct kinglet_session *session,
                                    const struct kinglet_model *model,
                                    const struct kinglet_options *options,
                                    void *arena,
                                    size_t size,
                                    struct kinglet_error *error);

/**
 * Says how far a session is.
 */
kinglet_status kinglet_session_info(const struct kinglet_session *session,
                                    struct kinglet_session_information *information,
                                    struct kinglet_error *error);

/**
 * Runs all of the tokens, in chunks of the planned prefill; kinglet_session_logits then has the
 * row that follows the last. When they cannot be run, none is.
 */
kinglet_status kinglet_session_feed(struct kinglet_session *session,
                                    const uint32_t *tokens,
                                    size_t count,
                                    struct kinglet_error *error);

/**
 * Begins a run of at most the planned prefill of tokens of the first target. The logits of the
 * last `logits` of them are wanted. kinglet_session_resume does the work.
 */
kinglet_status kinglet_session_begin(struct kinglet_session *session,
                                     const uint32_t *tokens,
                                     size_t count,
                                     size_t logits,
                                     struct kinglet_error *error);

/**
 * Begins a run of one token for each of several targets, at most as many as planned. The logits of
 * all are wanted.
 */
kinglet_status kinglet_session_begin_each(struct kinglet_session *session,
                                          const uint32_t *tokens,
                                          size_t count,
                                          struct kinglet_error *error);

/**
 * Continues the run until `budget` is used up, at least one unit; it is counted in
 * multiply-accumulates of int8, and other work is charged at rates measured on a Cortex-M4.
 * Returns KINGLET_PENDING while there is more to do, and KINGLET_OK when the run is finished.
 * However the work is divided, the bits are the same.
 */
kinglet_status kinglet_session_resume(struct kinglet_session *session,
                                      uint64_t budget,
                                      struct kinglet_error *error);

/**
 * Begins to read a source; kinglet_session_resume does the work. Any source before it, and its
 * targets, are forgotten.
 */
kinglet_status kinglet_session_begin_source(struct kinglet_session *session,
                                            const struct kinglet_source *source,
                                            struct kinglet_error *error);

/**
 * Reads a source. The outputs of an encoder are then the logits.
 */
kinglet_status kinglet_session_encode(struct kinglet_session *session,
                                      const struct kinglet_source *source,
                                      struct kinglet_error *error);

/**
 * Gives the logits of the last run: a row for each position asked for, none before the first run
 * is finished. They lie in the arena, may be changed, and are valid until the next call with this
 * session.
 */
kinglet_status kinglet_session_logits(struct kinglet_session *session,
                                      float **logits,
                                      size_t *count,
                                      struct kinglet_error *error);

/**
 * Forgets all tokens from `position` on, and any unfinished run. The source stays.
 */
kinglet_status kinglet_session_rewind(struct kinglet_session *session,
                                      size_t position,
                                      struct kinglet_error *error);

/**
 * Target i continues from where target `from[i]` is. After a prompt that the first target was fed,
 * zeros give it to all.
 */
kinglet_status kinglet_session_reorder(struct kinglet_session *session,
                                       const size_t *from,
                                       size_t count,
                                       struct kinglet_error *error);

/**
 * Rewinds to the start and repeats golden sequence `index` of the model: tokens and bits must be
 * those of the file's maker.
 */
kinglet_status kinglet_session_check_golden(struct kinglet_session *session,
                                            const struct kinglet_model *model,
                                            size_t index,
                                            struct kinglet_error *error);

/**
 * Opens the tokenizer of the text that goes into the model. The model's bytes must stay, the model
 * object need not.
 */
kinglet_status kinglet_tokenizer_open(struct kinglet_tokenizer *tokenizer,
                                      const struct kinglet_model *model,
                                      struct kinglet_error *error);

/**
 * Opens the tokenizer of the text that comes out: that of the text that goes in, unless the file
 * has another.
 */
kinglet_status kinglet_tokenizer_open_target(struct kinglet_tokenizer *tokenizer,
                                             const struct kinglet_model *model,
                                             struct kinglet_error *error);

/**
 * Says what a tokenizer is.
 */
kinglet_status kinglet_tokenizer_info(const struct kinglet_tokenizer *tokenizer,
                                      struct kinglet_tokenizer_information *information,
                                      struct kinglet_error *error);

/**
 * Says whether a token ends a generation.
 */
kinglet_status kinglet_tokenizer_is_eos(const struct kinglet_tokenizer *tokenizer,
                                        uint32_t token,
                                        bool *is_eos,
                                        struct kinglet_error *error);

/**
 * Looks up an added token by its name as it stands in a text, such as "<|im_end|>";
 * KINGLET_NO_TOKEN if there is none.
 */
kinglet_status kinglet_tokenizer_added_token(const struct kinglet_tokenizer *tokenizer,
                                             const char *name,
                                             size_t bytes,
                                             uint32_t *token,
                                             struct kinglet_error *error);

/**
 * Words of scratch that are enough to encode any text of this many bytes. Ordinary texts need much
 * less: as much as for their longest word.
 */
size_t kinglet_scratch_words(size_t text_bytes);

/**
 * Tokens that any text of this many bytes has at most. Ordinary texts have one for three or four
 * bytes.
 */
size_t kinglet_max_tokens(size_t text_bytes);

/**
 * Encodes a text of `bytes` bytes, which need not be terminated. `flags` are KINGLET_ADD_SPECIAL
 * and KINGLET_MATCH_SPECIAL.
 *
 * On success `count` is the number of tokens. With KINGLET_ERROR_SCRATCH it is the words of
 * scratch that would have been enough, with KINGLET_ERROR_TOO_SMALL the tokens that the text has.
 */
kinglet_status kinglet_tokenizer_encode(const struct kinglet_tokenizer *tokenizer,
                                        const char *text,
                                        size_t bytes,
                                        uint32_t flags,
                                        uint32_t *scratch,
                                        size_t scratch_words,
                                        uint32_t *tokens,
                                        size_t capacity,
                                        size_t *count,
                                        struct kinglet_error *error);

/**
 * Opens a detokenizer for the start of a text: what the tokenizer puts before a text is taken away
 * again. With a null `tokenizer` the tokens continue a text, such as generated ones after a
 * prompt, and nothing is taken away.
 */
kinglet_status kinglet_detokenizer_open(struct kinglet_detokenizer *detokenizer,
                                        const struct kinglet_tokenizer *tokenizer,
                                        struct kinglet_error *error);

/**
 * Writes the text that becomes certain with the next token, which may be none, and terminates it.
 * `length` is its bytes without the terminator, as a token may contain a NUL of its own.
 *
 * With KINGLET_ERROR_TOO_SMALL `length` is what the text has, and the token counts as not given:
 * give it again with a capacity of one more. 64 is enough for the tokens of most vocabularies.
 */
kinglet_status kinglet_detokenizer_push(struct kinglet_detokenizer *detokenizer,
                                        const struct kinglet_tokenizer *tokenizer,
                                        uint32_t token,
                                        char *text,
                                        size_t capacity,
                                        size_t *length,
                                        struct kinglet_error *error);

/**
 * Ends the text: writes U+FFFD if a character was left incomplete, as kinglet_detokenizer_push
 * does. The next token starts a new text, of which nothing is taken away.
 */
kinglet_status kinglet_detokenizer_finish(struct kinglet_detokenizer *detokenizer,
                                          char *text,
                                          size_t capacity,
                                          size_t *length,
                                          struct kinglet_error *error);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* KINGLET_H */
