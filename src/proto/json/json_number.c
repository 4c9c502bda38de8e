#include "proto/json/json_number.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned __int128 u128;

/* 5^0 … 5^27: all that fit 64 bits. */
enum { POWER5_MAX = 27 };
static const uint64_t power5[POWER5_MAX + 1] = {
    1,
    5,
    25,
    125,
    625,
    3125,
    15625,
    78125,
    390625,
    1953125,
    9765625,
    48828125,
    244140625,
    1220703125,
    6103515625,
    30517578125,
    152587890625,
    762939453125,
    3814697265625,
    19073486328125,
    95367431640625,
    476837158203125,
    2384185791015625,
    11920928955078125,
    59604644775390625,
    298023223876953125,
    1490116119384765625,
    7450580596923828125,
};

/* The powers of ten that a double holds exactly. */
enum { POWER10_MAX = 22 };
static const double power10[POWER10_MAX + 1] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                                1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static inline bool is_digit(char c) { return (unsigned char)(c - '0') < 10; }

enum { DIGITS_KEPT = 19 }; /* decimal digits that always fit 64 bits */

/* Takes digits into number->digits while they fit, counting the power of ten that the others stand for. */
static inline const char *scan_digits(const char *at, const char *end, bool fraction, struct json_number *number) {
  uint64_t digits = number->digits;
  const char *start = at;
  for (; at < end && is_digit(*at) && digits < UINT64_C(1000000000000000000); at++)
    digits = digits * 10 + (uint64_t)(*at - '0');
  if (fraction) number->exponent -= at - start;
  number->digits = digits;
  for (; at < end && is_digit(*at); at++) {
    number->exact &= *at == '0';
    number->exponent += !fraction;
  }
  return at;
}

/* at stands behind the 'e'. Exponents are held at a bound that is past every type even for the longest mantissa. */
static const char *scan_exponent(const char *at, const char *end, struct json_number *number) {
  const bool negative = at < end && *at == '-';
  if (at < end && (*at == '-' || *at == '+')) at++;
  if (at == end || !is_digit(*at)) return NULL;
  int64_t exponent = 0;
  for (; at < end && is_digit(*at); at++)
    if (exponent < INT64_C(1) << 50) exponent = exponent * 10 + (*at - '0');
  number->exponent += negative ? -exponent : exponent;
  return at;
}

const char *json_number_scan(const char *at, const char *end, struct json_number *number) {
  number->text = at;
  number->digits = 0;
  number->exponent = 0;
  number->exact = number->integer = true;
  number->negative = at < end && *at == '-';
  at += number->negative;
  const char *first = at;
  at = scan_digits(at, end, false, number);
  if (at == first || (*first == '0' && at - first > 1)) return NULL;
  if (at < end && *at == '.') {
    number->integer = false;
    first = ++at;
    at = scan_digits(at, end, true, number);
    if (at == first) return NULL;
  }
  if (at < end && (*at == 'e' || *at == 'E')) {
    number->integer = false;
    at = scan_exponent(at + 1, end, number);
    if (at == NULL) return NULL;
  }
  number->size = (size_t)(at - number->text);
  return at;
}

bool json_number_u64(const struct json_number *number, uint64_t *ret_value) {
  if (!number->integer || (number->negative && number->digits != 0)) return false;
  uint64_t value = number->digits;
  if (number->exponent != 0) { /* more than 19 digits: 20 can still fit */
    value = 0;
    for (size_t i = number->negative; i < number->size; i++)
      if (__builtin_mul_overflow(value, UINT64_C(10), &value) ||
          __builtin_add_overflow(value, (uint64_t)(number->text[i] - '0'), &value))
        return false;
  }
  *ret_value = value;
  return true;
}

bool json_number_i64(const struct json_number *number, int64_t *ret_value) {
  const uint64_t limit = (uint64_t)INT64_MAX + number->negative;
  if (!number->integer || number->exponent != 0 || number->digits > limit) return false;
  *ret_value = number->negative ? (int64_t)(0 - number->digits) : (int64_t)number->digits;
  return true;
}

/* digits * 10^exponent (|exponent| <= 27, digits not 0) rounded to `bits` significant bits, in exact integer
 * arithmetic: 10^e is 5^e * 2^e, so that only the power of five has to be multiplied or divided. */
static double round_exactly(uint64_t digits, int exponent, int bits) {
  u128 value;
  bool more = false; /* something not 0 stands below the last bit of value */
  int binary = exponent;
  if (exponent >= 0) {
    value = (u128)digits * power5[exponent];
  } else {
    const int shift = __builtin_clzll(digits);
    const u128 wide = (u128)(digits << shift) << 64;
    value = wide / power5[-exponent];
    more = value * power5[-exponent] != wide;
    binary -= shift + 64;
  }
  const uint64_t high = (uint64_t)(value >> 64);
  const int length = high != 0 ? 128 - __builtin_clzll(high) : 64 - __builtin_clzll((uint64_t)value);
  const int drop = length - bits;
  if (drop <= 0) return ldexp((double)(uint64_t)value, binary);
  uint64_t kept = (uint64_t)(value >> drop);
  const u128 rest = value & (((u128)1 << drop) - 1), half = (u128)1 << (drop - 1);
  if (rest > half || (rest == half && (more || (kept & 1) != 0))) kept++;
  return ldexp((double)kept, binary + drop);
}

/*
 * For strtod: "<digits>e<exponent>", no decimal point and so nothing that a locale could change. 800 digits decide any
 * rounding (a midpoint between two doubles has at most 767); whatever follows them is one 1.
 */
enum { DECIMAL_DIGITS_MAX = 800, DECIMAL_TEXT_MAX = DECIMAL_DIGITS_MAX + 32 };

static void decimal_text(const struct json_number *number, char *text) {
  size_t n = 0;
  int64_t exponent = number->exponent;
  if (number->exact) {
    n = json_print_u64(number->digits, text);
  } else {
    bool more = false;
    for (const char *at = number->text + number->negative, *end = number->text + number->size; at < end; at++) {
      if (*at == 'e' || *at == 'E') break;
      if (*at == '.' || (n == 0 && *at == '0')) continue;
      if (n < DECIMAL_DIGITS_MAX)
        text[n++] = *at;
      else
        more |= *at != '0';
    }
    if (more) text[n++] = '1';
    exponent += DIGITS_KEPT - (int64_t)n; /* number->exponent belongs to the first of them */
  }
  text[n++] = 'e';
  n += json_print_i64(exponent, text + n);
  text[n] = '\0';
}

bool json_number_double(const struct json_number *number, double *ret_value) {
  const int64_t exponent = number->exponent;
  double value = (double)number->digits;
  if (number->digits == 0) {
    value = 0;
  } else if (number->exact && number->digits <= UINT64_C(1) << 53 && exponent >= -POWER10_MAX &&
             exponent <= POWER10_MAX) {
    /* both operands are exact, so that one rounding is left */
    value = exponent < 0 ? value / power10[-exponent] : value * power10[exponent];
  } else if (number->exact && exponent >= -POWER5_MAX && exponent <= POWER5_MAX) {
    value = round_exactly(number->digits, (int)exponent, 53);
  } else {
    char text[DECIMAL_TEXT_MAX];
    decimal_text(number, text);
    value = strtod(text, NULL);
  }
  if (isinf(value)) return false;
  *ret_value = number->negative ? -value : value;
  return true;
}

bool json_number_float(const struct json_number *number, float *ret_value) {
  /* never by way of a rounded double: two roundings are not one */
  const int64_t exponent = number->exponent;
  float value = (float)number->digits;
  if (number->digits == 0) {
    value = 0;
  } else if (number->exact && number->digits <= UINT64_C(1) << 24 && exponent >= -10 && exponent <= 10) {
    const float power = (float)power10[exponent < 0 ? -exponent : exponent]; /* 10^10 is a float's last exact one */
    value = exponent < 0 ? value / power : value * power;
  } else if (number->exact && exponent >= -POWER5_MAX && exponent <= POWER5_MAX) {
    value = (float)round_exactly(number->digits, (int)exponent, 24); /* at least 10^-27: never a subnormal float */
  } else {
    char text[DECIMAL_TEXT_MAX];
    decimal_text(number, text);
    value = strtof(text, NULL);
  }
  if (isinf(value)) return false;
  *ret_value = number->negative ? -value : value;
  return true;
}

/* A 16-bit floating type: 1 sign bit, exponent_bits, the rest mantissa. */
struct narrow_type {
  int exponent_bits, mantissa_bits;
};
static const struct narrow_type fp16 = {5, 10}, bf16 = {8, 7};

static bool narrow(double value, const struct narrow_type *type, uint16_t *ret_bits) {
  const int lowest = 2 - (1 << (type->exponent_bits - 1)); /* exponent of the smallest normal number */
  int exponent;
  const double magnitude = fabs(value);
  frexp(magnitude, &exponent); /* magnitude = 0.1… * 2^exponent */
  exponent = magnitude == 0 || exponent - 1 < lowest ? lowest : exponent - 1;
  /* in units of the last place; exact, and small enough for any integer unless it overflows the type anyway */
  const double units = ldexp(magnitude, type->mantissa_bits - exponent);
  uint32_t whole = (uint32_t)units;
  const double rest = units - whole;
  if (rest > 0.5 || (rest == 0.5 && (whole & 1) != 0)) whole++;
  /* a normal number's leading bit adds the 1 that its exponent field is above a subnormal's */
  const uint32_t bits = ((uint32_t)(exponent - lowest) << type->mantissa_bits) + whole;
  const uint32_t infinity = ((1u << type->exponent_bits) - 1) << type->mantissa_bits;
  if (bits >= infinity) return false;
  *ret_bits = (uint16_t)(bits | (signbit(value) ? 0x8000u : 0));
  return true;
}

bool json_number_fp16(const struct json_number *number, uint16_t *ret_bits) {
  double value;
  return json_number_double(number, &value) && narrow(value, &fp16, ret_bits);
}

bool json_number_bf16(const struct json_number *number, uint16_t *ret_bits) {
  double value;
  return json_number_double(number, &value) && narrow(value, &bf16, ret_bits);
}

double json_bf16_value(uint16_t bits) {
  const uint32_t wide = (uint32_t)bits << 16;
  float value;
  memcpy(&value, &wide, sizeof value);
  return (double)value;
}

double json_fp16_value(uint16_t bits) {
  const int exponent = bits >> 10 & 0x1f, mantissa = bits & 0x3ff;
  double value;
  if (exponent == 0x1f)
    value = mantissa != 0 ? (double)NAN : (double)INFINITY;
  else if (exponent == 0)
    value = ldexp(mantissa, -24);
  else
    value = ldexp(mantissa + 1024, exponent - 25);
  return (bits & 0x8000) != 0 ? -value : value;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

size_t json_print_u64(uint64_t value, char *text) {
  char reversed[20];
  size_t n = 0;
  do {
    reversed[n++] = (char)('0' + value % 10);
    value /= 10;
  } while (value != 0);
  for (size_t i = 0; i < n; i++) text[i] = reversed[n - 1 - i];
  return n;
}

size_t json_print_i64(int64_t value, char *text) {
  if (value >= 0) return json_print_u64((uint64_t)value, text);
  *text = '-';
  return 1 + json_print_u64(0 - (uint64_t)value, text + 1);
}

/* value * 10^power; exact up to one rounding for |power| <= 22. */
static double scale10(double value, int power) {
  for (; power > POWER10_MAX; power -= POWER10_MAX) value *= power10[POWER10_MAX];
  for (; power < -POWER10_MAX; power += POWER10_MAX) value /= power10[POWER10_MAX];
  return power < 0 ? value / power10[-power] : value * power10[power];
}

/* value > 0 in n <= 15 digits. The arithmetic rounds, so the last digit can be off by one: the caller checks. */
static struct json_number decimal_fast(double value, int n) {
  int exponent;
  frexp(value, &exponent);
  /* about floor(log10(value)), by 1233/4096 for log10(2); a guess that is one off is put right or costs a digit */
  int magnitude = (exponent - 1) * 1233 >> 12;
  double scaled = scale10(value, n - 1 - magnitude);
  if (scaled + 0.5 >= power10[n]) scaled = scale10(value, n - 1 - ++magnitude);
  return (struct json_number){.digits = (uint64_t)(scaled + 0.5), .exponent = magnitude - (n - 1), .exact = true};
}

/* The same for any n, by the C library. */
static struct json_number decimal_slow(double value, int n) {
  char text[40];
  snprintf(text, sizeof text, "%.*e", n - 1, value);
  uint64_t digits = 0;
  char *at = text;
  for (; *at != 'e'; at++)
    if (is_digit(*at)) digits = digits * 10 + (uint64_t)(*at - '0');
  return (struct json_number){.digits = digits, .exponent = strtol(at + 1, NULL, 10) - (n - 1), .exact = true};
}

/* "123.0", "0.00123", "1.23e-07": digits and a power of ten as text. */
static size_t print_decimal(uint64_t digits, int64_t exponent, char *text) {
  while (digits % 10 == 0 && digits != 0) {
    digits /= 10;
    exponent++;
  }
  char all[20];
  const size_t n = json_print_u64(digits, all);
  const int64_t point = (int64_t)n + exponent; /* digits before the decimal point */
  char *at = text;
  if (point > 0 && point <= 16) {
    for (int64_t i = 0; i < point; i++) *at++ = i < (int64_t)n ? all[i] : '0';
    *at++ = '.';
    if ((size_t)point >= n) *at++ = '0';
    for (size_t i = (size_t)point; i < n; i++) *at++ = all[i];
  } else if (point <= 0 && point > -4) {
    *at++ = '0';
    *at++ = '.';
    for (int64_t i = point; i < 0; i++) *at++ = '0';
    memcpy(at, all, n);
    at += n;
  } else {
    *at++ = all[0];
    if (n > 1) {
      *at++ = '.';
      memcpy(at, all + 1, n - 1);
      at += n - 1;
    }
    *at++ = 'e';
    at += json_print_i64(point - 1, at);
  }
  return (size_t)(at - text);
}

/* A floating type: every decimal of `least` digits survives it, and `most` digits always tell its values apart. */
struct floating_type {
  int least, most;
  double normal; /* below this the first rule does not hold */
  bool (*reads_as)(const struct json_number *number, double value);
};

static bool reads_as_double(const struct json_number *number, double value) {
  double read;
  return json_number_double(number, &read) && read == value;
}
static bool reads_as_float(const struct json_number *number, double value) {
  float read;
  return json_number_float(number, &read) && (double)read == value;
}
static bool reads_as_fp16(const struct json_number *number, double value) {
  uint16_t bits;
  return json_number_fp16(number, &bits) && json_fp16_value(bits) == value;
}
static bool reads_as_bf16(const struct json_number *number, double value) {
  uint16_t bits;
  return json_number_bf16(number, &bits) && json_bf16_value(bits) == value;
}

static const struct floating_type double_type = {15, 17, DBL_MIN, reads_as_double};
static const struct floating_type float_type = {6, 9, (double)FLT_MIN, reads_as_float};
static const struct floating_type fp16_type = {3, 5, 0x1p-14, reads_as_fp16};
static const struct floating_type bf16_type = {2, 4, (double)FLT_MIN, reads_as_bf16};

static size_t print_floating(double value, const struct floating_type *type, char *text) {
  char *at = text;
  if (signbit(value)) *at++ = '-';
  value = fabs(value);
  if (value == 0) {
    memcpy(at, "0.0", 3);
    return (size_t)(at + 3 - text);
  }
  struct json_number number = {0};
  for (int n = value < type->normal ? 1 : type->least; n <= type->most; n++) {
    number = n <= 15 ? decimal_fast(value, n) : decimal_slow(value, n);
    if (type->reads_as(&number, value)) break;
    if (n == type->most) number = decimal_slow(value, n); /* exact: always reads back */
  }
  return (size_t)(at - text) + print_decimal(number.digits, number.exponent, at);
}

size_t json_print_double(double value, char *text) { return print_floating(value, &double_type, text); }
size_t json_print_float(float value, char *text) { return print_floating((double)value, &float_type, text); }
size_t json_print_fp16(uint16_t bits, char *text) { return print_floating(json_fp16_value(bits), &fp16_type, text); }
size_t json_print_bf16(uint16_t bits, char *text) { return print_floating(json_bf16_value(bits), &bf16_type, text); }
