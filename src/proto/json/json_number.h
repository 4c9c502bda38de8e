/*
 * JSON numbers to binary ones and back, correctly rounded both ways. Independent of the locale;
 * allocates nothing; any length of number.
 */
#ifndef PROTO_JSON_NUMBER_H
#define PROTO_JSON_NUMBER_H

#include "base/status.h"

struct json_number {
  const char *text;
  size_t size;
  uint64_t digits;  /* the first 19 significant digits, read as an integer */
  int64_t exponent; /* value = digits * 10^exponent, when exact */
  bool exact;       /* no digit other than 0 follows those in `digits` */
  bool negative;
  bool integer; /* neither fraction nor exponent */
};

/* Reads the longest number at `at`. Returns its end, or NULL when there is none (*number is then undefined). */
const char *json_number_scan(const char *at, const char *end, struct json_number *number);

/* false: not an integer, or out of range. */
bool json_number_i64(const struct json_number *number, int64_t *ret_value);
bool json_number_u64(const struct json_number *number, uint64_t *ret_value);

/* Round to nearest, ties to even. false: rounds to infinity. The 16-bit types come as their bits, rounded from the
 * double. */
bool json_number_double(const struct json_number *number, double *ret_value);
bool json_number_float(const struct json_number *number, float *ret_value);
bool json_number_fp16(const struct json_number *number, uint16_t *ret_bits);
bool json_number_bf16(const struct json_number *number, uint16_t *ret_bits);

/* What the bits of the 16-bit types stand for. */
double json_fp16_value(uint16_t bits);
double json_bf16_value(uint16_t bits);

/* Writes a finite value in the fewest digits that read back as the same value of that type, always with a point or an
 * exponent ("1.0"). Returns the length; not terminated. */
enum { JSON_NUMBER_TEXT_MAX = 32 };
size_t json_print_double(double value, char *text);
size_t json_print_float(float value, char *text);
size_t json_print_fp16(uint16_t bits, char *text);
size_t json_print_bf16(uint16_t bits, char *text);
size_t json_print_i64(int64_t value, char *text);
size_t json_print_u64(uint64_t value, char *text);

#endif
