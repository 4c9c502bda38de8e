/* What NVML's numbers mean, for people. */
#ifndef GPU_WORDS_H
#define GPU_WORDS_H

#include <stddef.h>
#include <stdint.h>

/* "power cap, thermal (software)" of the bits of the clocks' event reasons into text (cut off where it does not fit);
 * returns text. "" : none, or not known. That the GPU is idle, or runs with the clocks that it was told to, is none. */
const char *gpu_throttle_words(int64_t reasons, char *text, size_t size);

/* "reset", "reboot", …; "" for none and for not known. */
const char *gpu_recovery_word(int32_t action);

/* "exclusive process", "prohibited"; "" for the default and for not known. */
const char *gpu_compute_mode_word(int32_t mode);

#endif
