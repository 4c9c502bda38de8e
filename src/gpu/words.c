#include "gpu/words.h"

#include <stdio.h>
#include <string.h>

#include "gpu/inventory.h"

/* nvmlClocksEventReason… of NVML's reference. 0x1 (idle), 0x2 (application clocks) and 0x100 (display clocks) hold
 * nothing back. */
static const struct {
  int64_t bit;
  const char *words;
} reasons_words[] = {
    {0x4, "power cap"},           {0x8, "hardware slowdown"},   {0x10, "sync boost"},
    {0x20, "thermal (software)"}, {0x40, "thermal (hardware)"}, {0x80, "power brake"},
};

const char *gpu_throttle_words(int64_t reasons, char *text, size_t size) {
  size_t at = 0;
  text[0] = '\0';
  for (size_t i = 0; reasons != GPU_UNKNOWN && i < sizeof reasons_words / sizeof *reasons_words && at < size; i++)
    if (reasons & reasons_words[i].bit)
      at += (size_t)snprintf(text + at, size - at, "%s%s", at > 0 ? ", " : "", reasons_words[i].words);
  return text;
}

static const char *word_of(const char *const *words, size_t n, int32_t value) {
  return value >= 0 && (size_t)value < n && words[value] != NULL ? words[value] : "";
}

const char *gpu_recovery_word(int32_t action) {
  static const char *const words[] = {"", "reset", "reboot", "drain", "drain and reset"};
  return word_of(words, sizeof words / sizeof *words, action);
}

const char *gpu_compute_mode_word(int32_t mode) {
  static const char *const words[] = {
      [GPU_COMPUTE_PROHIBITED] = "prohibited", [GPU_COMPUTE_EXCLUSIVE_PROCESS] = "exclusive process"};
  return word_of(words, sizeof words / sizeof *words, mode);
}
