/* The model's file, executed in place: in a section of its own, aligned as its weights are.
 * MODEL_FILE is its path. */

    .section .model, "a"
    .balign 64
    .global model_start
model_start:
    .incbin MODEL_FILE
    .global model_end
model_end:
    .byte 0

#if defined(__linux__) && defined(__ELF__)
    .section .note.GNU-stack, "", %progbits
#endif
