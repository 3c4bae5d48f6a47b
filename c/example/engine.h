/* What the programs share: the model in this image, and memory to run it in. */

#ifndef ENGINE_H
#define ENGINE_H

#include "kinglet.h"

extern kinglet_model model;
extern kinglet_session session;
extern kinglet_error error;

/* Ends the program with the message of `error`, unless the status is a success. */
void check(const char *what, kinglet_status status);

/* Opens the model and compares its checksums. */
void open_model(void);

/* Plans the bytes of a session with these options, and opens it in the arena. */
size_t open_session(size_t context, size_t prefill);

/* Tokens of the longest golden sequence, prompt and answer together. */
size_t golden_positions(void);

/* The row of logits that follows the last token. */
float *logits(size_t *count);

#endif
