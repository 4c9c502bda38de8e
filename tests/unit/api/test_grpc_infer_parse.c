/* ModelInferRequest to struct request. */
#include "grpc_request.h"

static const int32_t numbers[] = {1, 2, 3, 4, 5, 6, 7, -8};
static const uint8_t flags[] = {0, 1, 0, 1, 1, 1};

/* Parses and takes the message with it. */
static void attempt(struct attempt *a, const struct model *model, struct buffer *m) {
  assert_false(m->failed);
  grpc_attempt_whole(a, model, m->data, m->size);
  buffer_free(m);
}

static void attempt_ok(struct attempt *a, const struct model *model, struct buffer *m) {
  attempt(a, model, m);
  if (a->status != MU_OK) fail_msg("%s", a->err.message);
}

static void refused(const struct model *model, struct buffer *m, mu_status status, const char *why) {
  struct attempt a;
  attempt(&a, model, m);
  if (a.status != status || strstr(a.err.message, why) == NULL)
    fail_msg("%d: '%s', not '%s'", a.status, a.err.message, why);
  attempt_free(&a);
}

/* A valid request of the batched model. */
static struct buffer valid(void) {
  struct buffer m = wire_new();
  wire_add_input(&m, "bytes", "INT32", DIMS(2, 4));
  pb_put_bytes(&m, 7, numbers, sizeof numbers);
  return m;
}

/* An entry of a map of parameters; value: the InferParameter. */
static void add_parameter(struct buffer *out, uint32_t number, const char *key, struct buffer *value) {
  struct buffer entry = wire_new();
  wire_text(&entry, 1, key);
  wire_message(&entry, 2, value);
  wire_message(out, number, &entry);
}

static void add_number(struct buffer *out, uint32_t number, const char *key, uint32_t kind, uint64_t value) {
  struct buffer v = wire_new();
  wire_number(&v, kind, value);
  add_parameter(out, number, key, &v);
}

static void add_text(struct buffer *out, uint32_t number, const char *key, const char *text) {
  struct buffer v = wire_new();
  wire_text(&v, 3, text);
  add_parameter(out, number, key, &v);
}

enum { VALUE_BOOL = 1, VALUE_INT64 = 2, VALUE_UINT64 = 5 };

/* ---- what is right ----------------------------------------------------------------------------------------------- */

static void raw_contents_of_a_whole_message(void **state) {
  struct sample_model s;
  make_batched(&s);
  struct buffer m = wire_new();
  wire_text(&m, 1, "sample");
  wire_text(&m, 3, "request 7");
  wire_add_input(&m, "mask", "BOOL", DIMS(2, 3));
  wire_add_input(&m, "bytes", "INT32", DIMS(2, 4));
  pb_put_bytes(&m, 7, flags, sizeof flags);
  pb_put_bytes(&m, 7, numbers, sizeof numbers);
  struct attempt a;
  attempt_ok(&a, &s.model, &m);
  assert_string_equal(a.request.id, "request 7");
  assert_int_equal(a.request.rows, 2);
  assert_int_equal(a.request.n_inputs, 2);
  assert_int_equal(a.request.inputs[0].index, 0);
  assert_memory_equal(a.data[0], numbers, sizeof numbers);
  assert_memory_equal(a.data[1], flags, sizeof flags);
  assert_int_equal(a.request.n_outputs, 2);
  assert_true(a.request.outputs[0].binary);
  assert_int_equal(a.request.binary_bytes, sizeof flags + sizeof numbers);
  attempt_free(&a);
}

static void raw_contents_before_their_inputs(void **state) {
  struct sample_model s;
  make_batched(&s);
  struct buffer m = wire_new();
  pb_put_bytes(&m, 7, flags, sizeof flags);
  wire_add_input(&m, "mask", "BOOL", DIMS(2, 3));
  pb_put_bytes(&m, 7, numbers, sizeof numbers);
  wire_add_input(&m, "bytes", "INT32", DIMS(2, 4));
  struct attempt a;
  attempt_ok(&a, &s.model, &m);
  assert_memory_equal(a.data[0], numbers, sizeof numbers);
  assert_memory_equal(a.data[1], flags, sizeof flags);
  attempt_free(&a);
}

static void the_last_of_a_singular_field_counts(void **state) {
  struct sample_model s;
  make_batched(&s);
  struct buffer m = wire_new(), input = wire_new();
  wire_text(&m, 3, "first");
  wire_text(&input, 1, "no such input");
  wire_text(&input, 1, "bytes");
  wire_text(&input, 2, "FP16");
  wire_text(&input, 2, "INT32");
  wire_number(&input, 3, 2); /* not packed */
  wire_number(&input, 3, 4);
  wire_text(&input, 77, "unknown");
  wire_message(&m, 5, &input);
  wire_text(&m, 3, "second");
  pb_put_bytes(&m, 7, numbers, sizeof numbers);
  struct attempt a;
  attempt_ok(&a, &s.model, &m);
  assert_string_equal(a.request.id, "second");
  attempt_free(&a);
}

/* Contents of every type that has a field: packed, not packed, and in two messages that add up. */
static void typed_contents(void **state) {
  static const struct {
    mu_dtype dtype;
    uint32_t field;
    uint64_t bits[3]; /* of the wire */
    uint8_t bytes[24];
  } cases[] = {
      {MU_BOOL, 1, {1, 0, 2}, {1, 0, 1}},
      {MU_INT8, 2, {127, (uint64_t)-128, (uint64_t)-1}, {127, 128, 255}},
      {MU_INT16, 2, {32767, (uint64_t)-32768, 1}, {255, 127, 0, 128, 1, 0}},
      {MU_INT32, 2, {1, UINT32_MAX, (uint64_t)-2}, {1, 0, 0, 0, 255, 255, 255, 255, 254, 255, 255, 255}},
      {MU_INT64, 3, {1, (uint64_t)-1, 2}, {1, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255, 2}},
      {MU_UINT8, 4, {0, 255, 7}, {0, 255, 7}},
      {MU_UINT16, 4, {0, 65535, 7}, {0, 0, 255, 255, 7, 0}},
      {MU_UINT32, 4, {0, UINT32_MAX, 7}, {0, 0, 0, 0, 255, 255, 255, 255, 7}},
      {MU_UINT64, 5, {0, UINT64_MAX, 7}, {0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255, 7}},
      {MU_FP32, 6, {0x3f800000, 0x7fc00000, 1}, {0, 0, 128, 63, 0, 0, 192, 127, 1}},
      {MU_FP64, 7, {UINT64_C(0x3ff0000000000000), 0, 1}, {0, 0, 0, 0, 0, 0, 240, 63, 0, 0, 0, 0, 0, 0, 0, 0, 1}},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    for (int packed = 0; packed < 2; packed++) {
      const mu_dtype dtype = cases[i].dtype;
      struct sample_model s;
      sample_init(&s, 0);
      sample_input(&s, "x", dtype, DIMS(-1));
      sample_output(&s, "y", MU_FP32, DIMS(-1));
      struct buffer m = wire_new(), input = wire_input("x", mu_dtype_name(dtype), DIMS(3));
      const size_t fixed = dtype == MU_FP32 ? 4 : dtype == MU_FP64 ? 8 : 0;
      for (int piece = 0; piece < 2; piece++) { /* one element, then two */
        struct buffer contents = wire_new(), run = wire_new();
        for (int j = piece; j < 1 + 2 * piece; j++) {
          if (!packed)
            pb_put_tag(&contents, cases[i].field, fixed == 0 ? PB_VARINT : fixed == 4 ? PB_FIXED32 : PB_FIXED64);
          struct buffer *to = packed ? &run : &contents;
          if (fixed > 0)
            buffer_append(to, &cases[i].bits[j], fixed);
          else
            pb_put_varint(to, cases[i].bits[j]);
        }
        if (packed) pb_put_bytes(&contents, cases[i].field, run.data, run.size);
        wire_number(&contents, 99, 5); /* unknown */
        buffer_free(&run);
        wire_message(&input, 5, &contents);
      }
      wire_message(&m, 5, &input);
      struct attempt a;
      attempt_ok(&a, &s.model, &m);
      assert_int_equal(a.request.inputs[0].source, INPUT_TYPED);
      assert_memory_equal(a.data[0], cases[i].bytes, 3 * mu_dtype_size(dtype));
      attempt_free(&a);
    }
}

static void typed_texts(void **state) {
  struct sample_model s;
  sample_init(&s, 0);
  sample_input(&s, "x", MU_BYTES, DIMS(-1));
  sample_output(&s, "y", MU_FP32, DIMS(-1));
  struct buffer m = wire_new(), contents = wire_new(), input = wire_input("x", "BYTES", DIMS(3));
  pb_put_bytes(&contents, 8, "a\0c", 3);
  pb_put_bytes(&contents, 8, "", 0);
  pb_put_bytes(&contents, 8, "\xff\xfe", 2);
  wire_message(&input, 5, &contents);
  wire_message(&m, 5, &input);
  struct attempt a;
  attempt_ok(&a, &s.model, &m);
  assert_int_equal(a.request.inputs[0].size, 17);
  assert_memory_equal(a.data[0], "\3\0\0\0a\0c\0\0\0\0\2\0\0\0\xff\xfe", 17);
  attempt_free(&a);
}

static void empty_inputs_need_no_data(void **state) {
  struct sample_model s;
  sample_init(&s, 0);
  sample_input(&s, "x", MU_FP16, DIMS(-1));
  sample_output(&s, "y", MU_FP32, DIMS(-1));
  for (int raw = 0; raw < 2; raw++) {
    struct buffer m = wire_new();
    wire_add_input(&m, "x", "FP16", DIMS(0));
    if (raw) pb_put_bytes(&m, 7, "", 0);
    struct attempt a;
    attempt_ok(&a, &s.model, &m);
    assert_int_equal(a.request.inputs[0].size, 0);
    attempt_free(&a);
  }
}

static void parameters(void **state) {
  struct sample_model s;
  make_batched(&s);
  struct buffer m = valid();
  add_number(&m, 4, "priority", VALUE_UINT64, 3);
  add_number(&m, 4, "timeout", VALUE_INT64, 500);
  add_number(&m, 4, "sequence_id", VALUE_INT64, 0);
  add_number(&m, 4, "sequence_start", VALUE_BOOL, 0);
  add_text(&m, 4, "sequence_id", "");
  add_number(&m, 4, "triton_enable_empty_final_response", VALUE_BOOL, 1);
  add_text(&m, 4, "nobody knows", "this");
  add_number(&m, 4, "priority", VALUE_INT64, 2); /* the last one of a key counts */
  struct attempt a;
  attempt_ok(&a, &s.model, &m);
  assert_int_equal(a.request.priority, 2);
  assert_int_equal(a.request.timeout_us, 500);
  attempt_free(&a);
}

static void outputs(void **state) {
  struct sample_model s;
  make_batched(&s);
  struct buffer m = valid(), output = wire_new();
  wire_text(&output, 1, "labels");
  wire_message(&m, 6, &output);
  output = wire_new();
  wire_text(&output, 1, "scores");
  add_number(&output, 2, "classification", VALUE_INT64, 2);
  wire_message(&m, 6, &output);
  struct attempt a;
  attempt_ok(&a, &s.model, &m);
  assert_int_equal(a.request.n_outputs, 2);
  assert_int_equal(a.request.outputs[0].index, 1);
  assert_int_equal(a.request.outputs[1].index, 0);
  assert_int_equal(a.request.outputs[1].classification, 2);
  attempt_free(&a);
}

/* "bytes" [2,4] in shared memory; offset -1: none given. */
static struct buffer shared_input(uint64_t byte_size, int64_t offset) {
  struct buffer input = wire_input("bytes", "INT32", DIMS(2, 4));
  add_text(&input, 4, "shared_memory_region", "a region");
  add_number(&input, 4, "shared_memory_byte_size", VALUE_INT64, byte_size);
  if (offset >= 0) add_number(&input, 4, "shared_memory_offset", VALUE_INT64, (uint64_t)offset);
  return input;
}

static void shared_memory(void **state) {
  struct sample_model s;
  make_batched(&s);
  struct buffer m = wire_new(), input = shared_input(32, 8), output = wire_new();
  wire_message(&m, 5, &input);
  wire_add_input(&m, "mask", "BOOL", DIMS(2, 3)); /* takes the raw contents, beside the one in shared memory */
  wire_text(&output, 1, "scores");
  add_text(&output, 2, "shared_memory_region", "another");
  add_number(&output, 2, "shared_memory_byte_size", VALUE_INT64, 100);
  wire_message(&m, 6, &output);
  pb_put_bytes(&m, 7, flags, sizeof flags);
  struct request request;
  memset(&request, 0, sizeof request);
  mu_error err = {""};
  if (grpc_infer_parse(&s.model, m.data, m.size, NULL, &request, &err) != MU_OK) fail_msg("%s", err.message);
  assert_int_equal(request.inputs[0].source, INPUT_SHARED);
  assert_int_equal(request.inputs[1].source, INPUT_BINARY);
  assert_int_equal(request.inputs[0].size, 32);
  assert_int_equal(request.n_shares, 2);
  const struct request_share *share = &request.shares[request.inputs[0].share - 1];
  assert_string_equal(share->name, "a region");
  assert_int_equal(share->offset, 8);
  assert_int_equal(share->byte_size, 32);
  share = &request.shares[request.outputs[0].share - 1];
  assert_string_equal(share->name, "another");
  assert_int_equal(share->byte_size, 100);
  assert_true(share->output);
  request_free(&request);
  buffer_free(&m);
}

/* ---- what is wrong ----------------------------------------------------------------------------------------------- */

static void wrong_inputs(void **state) {
  static const struct {
    const char *name, *datatype;
    uint32_t rank;
    int64_t dims[17];
    const char *why;
  } cases[] = {
      {"", "INT32", 2, {2, 4}, "inputs[0] has no name"},
      {"other", "INT32", 2, {2, 4}, "model 'sample' has no input 'other'; it has 'bytes', 'mask'"},
      {"hidden", "FP32", 2, {2, 1}, "no input 'hidden'"},
      {"by\xfftes", "INT32", 2, {2, 4}, "not valid UTF-8"},
      {"bytes", "", 2, {2, 4}, "has no datatype; the model takes INT32"},
      {"bytes", "INT64", 2, {2, 4}, "datatype INT64 is not the INT32"},
      {"bytes", "int32", 2, {2, 4}, "datatype int32 is not the INT32"},
      {"bytes", "INT\xc3", 2, {2, 4}, "not valid UTF-8"},
      {"bytes", "INT32", 2, {2, 5}, "shape [2,5] does not fit"},
      {"bytes", "INT32", 0, {0}, "shape [] does not fit"},
      {"bytes", "INT32", 2, {9, 4}, "9 rows"},
      {"bytes", "INT32", 2, {0, 4}, "0 rows"},
      {"bytes", "INT32", 2, {-1, 4}, "a dimension of its shape is -1"},
      {"bytes", "INT32", 2, {INT64_MAX, 4}, "rows"},
      {"bytes", "INT32", 2, {1, 4}, "raw contents of 32 bytes are not the 16 bytes of shape [1,4] as INT32"},
      {"bytes", "INT32", 17, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, "more than 16 dimensions"},
  };
  struct sample_model s;
  make_batched(&s);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct buffer m = wire_new();
    wire_add_input(&m, cases[i].name, cases[i].datatype, cases[i].rank, cases[i].dims);
    pb_put_bytes(&m, 7, numbers, sizeof numbers);
    refused(&s.model, &m, MU_INVALID, cases[i].why);
  }
}

static void shapes_that_overflow(void **state) {
  struct sample_model s;
  sample_init(&s, 0);
  sample_input(&s, "x", MU_FP32, DIMS(-1, -1));
  sample_output(&s, "y", MU_FP32, DIMS(-1));
  struct buffer m = wire_new();
  wire_add_input(&m, "x", "FP32", DIMS(INT64_C(1) << 40, INT64_C(1) << 40));
  refused(&s.model, &m, MU_INVALID, "more bytes than 63 bits");
}

static void wrong_numbers_of_inputs_and_contents(void **state) {
  struct sample_model s;
  make_batched(&s);
  struct buffer m = wire_new();
  refused(&s.model, &m, MU_INVALID, "input 'bytes' of model 'sample' is missing");
  m = valid();
  wire_add_input(&m, "bytes", "INT32", DIMS(2, 4));
  refused(&s.model, &m, MU_INVALID, "given twice");
  m = valid();
  pb_put_bytes(&m, 7, numbers, sizeof numbers);
  refused(&s.model, &m, MU_INVALID, "2 raw_input_contents, its inputs for model 'sample' take 1");
  m = valid();
  wire_add_input(&m, "mask", "BOOL", DIMS(2, 3));
  refused(&s.model, &m, MU_INVALID, "1 raw_input_contents, its inputs for model 'sample' take 2");
  m = valid();
  for (int i = 0; i < 200; i++) pb_put_bytes(&m, 7, "", 0);
  refused(&s.model, &m, MU_INVALID, "201 raw_input_contents");
  m = wire_new();
  wire_add_input(&m, "bytes", "INT32", DIMS(2, 4));
  refused(&s.model, &m, MU_INVALID, "input 'bytes' has neither contents nor raw_input_contents");
  m = wire_new();
  wire_add_input(&m, "bytes", "INT32", DIMS(2, 4));
  wire_add_input(&m, "mask", "BOOL", DIMS(3, 3));
  refused(&s.model, &m, MU_INVALID, "input 'mask' has 3 rows");
}

/* INT32 contents for "bytes" [1,4] out of one message of contents. */
static struct buffer with_contents(struct buffer *contents) {
  struct buffer m = wire_new(), input = wire_input("bytes", "INT32", DIMS(1, 4));
  wire_message(&input, 5, contents);
  wire_message(&m, 5, &input);
  return m;
}

static void wrong_contents(void **state) {
  struct sample_model s;
  make_batched(&s);
  struct buffer c = wire_new(), m;
  pb_put_bytes(&c, 2, "\1\2\3", 3);
  m = with_contents(&c);
  refused(&s.model, &m, MU_INVALID, "shape [1,4] has 4 elements, its contents have 3");
  c = wire_new();
  pb_put_bytes(&c, 2, "\1\2\3\4\5", 5);
  m = with_contents(&c);
  refused(&s.model, &m, MU_INVALID, "its contents have 5");
  c = wire_new();
  pb_put_bytes(&c, 3, "\1\2\3\4", 4);
  m = with_contents(&c);
  refused(&s.model, &m, MU_INVALID, "its contents have int64_contents, data of type INT32 comes in int_contents");
  c = wire_new();
  pb_put_bytes(&c, 2, "\1\2\3\4", 4);
  pb_put_bytes(&c, 8, "text", 4);
  m = with_contents(&c);
  refused(&s.model, &m, MU_INVALID, "its contents have bytes_contents");
  c = wire_new();
  pb_put_bytes(&c, 2, "\1\2\3\x80", 4);
  m = with_contents(&c);
  refused(&s.model, &m, MU_INVALID, "an input is no protobuf: a number is cut off");
  c = wire_new();
  pb_put_bytes(&c, 6, "\1\2\3", 3);
  m = with_contents(&c);
  refused(&s.model, &m, MU_INVALID, "an input is no protobuf: a number is cut off");
  c = wire_new();
  m = with_contents(&c);
  refused(&s.model, &m, MU_INVALID, "its contents have 0");
  c = wire_new();
  pb_put_bytes(&c, 2, "\1\2\3\4", 4);
  m = with_contents(&c);
  pb_put_bytes(&m, 7, numbers, 16);
  refused(&s.model, &m, MU_INVALID,
          "contents field must not be specified when using raw_input_contents for 'bytes' for model 'sample'");
}

static void values_that_a_type_cannot_hold(void **state) {
  static const struct {
    mu_dtype dtype;
    uint32_t field;
    uint64_t bits;
    const char *why;
  } cases[] = {
      {MU_INT8, 2, 128, "element 1 of its contents is no INT8"},
      {MU_INT8, 2, (uint64_t)-129, "no INT8"},
      {MU_INT16, 2, 32768, "no INT16"},
      {MU_INT16, 2, (uint64_t)-32769, "no INT16"},
      {MU_UINT8, 4, 256, "no UINT8"},
      {MU_UINT16, 4, 65536, "no UINT16"},
      {MU_FP16, 6, 0, "data of type FP16 comes in raw_input_contents only"},
      {MU_BF16, 6, 0, "data of type BF16 comes in raw_input_contents only"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct sample_model s;
    sample_init(&s, 0);
    sample_input(&s, "x", cases[i].dtype, DIMS(-1));
    sample_output(&s, "y", MU_FP32, DIMS(-1));
    struct buffer m = wire_new(), contents = wire_new(),
                  input = wire_input("x", mu_dtype_name(cases[i].dtype), DIMS(2));
    if (cases[i].field == 6) {
      pb_put_bytes(&contents, 6, "12345678", 8);
    } else {
      wire_number(&contents, cases[i].field, 1);
      wire_number(&contents, cases[i].field, cases[i].bits);
    }
    wire_message(&input, 5, &contents);
    wire_message(&m, 5, &input);
    refused(&s.model, &m, MU_INVALID, cases[i].why);
  }
}

static void wrong_parameters(void **state) {
  struct sample_model s;
  make_batched(&s);
  struct buffer m = valid();
  add_number(&m, 4, "priority", VALUE_INT64, (uint64_t)-1);
  refused(&s.model, &m, MU_INVALID, "parameter \"priority\": its value must be a number that is not negative");
  m = valid();
  add_text(&m, 4, "timeout", "5");
  refused(&s.model, &m, MU_INVALID, "parameter \"timeout\"");
  m = valid();
  add_number(&m, 4, "sequence_id", VALUE_UINT64, 7);
  refused(&s.model, &m, MU_UNSUPPORTED, "sequences");
  m = valid();
  add_text(&m, 4, "sequence_id", "seven");
  refused(&s.model, &m, MU_UNSUPPORTED, "sequences");
  m = valid();
  add_number(&m, 4, "sequence_end", VALUE_BOOL, 1);
  refused(&s.model, &m, MU_UNSUPPORTED, "sequences");
  m = valid();
  add_text(&m, 4, "a\xffkey", "");
  refused(&s.model, &m, MU_INVALID, "UTF-8");
  m = valid();
  add_text(&m, 4, "key", "\xff");
  refused(&s.model, &m, MU_INVALID, "UTF-8");
  m = valid();
  pb_put_bytes(&m, 4, "\x0a\x7f", 2);
  refused(&s.model, &m, MU_INVALID, "a parameter is no protobuf");
  m = wire_new();
  struct buffer input = wire_input("bytes", "INT32", DIMS(2, 4));
  add_text(&input, 4, "shared_memory_region", "region");
  wire_message(&m, 5, &input);
  refused(&s.model, &m, MU_INVALID, "parameter \"shared_memory_region\" needs a \"shared_memory_byte_size\"");
  m = wire_new();
  input = wire_input("bytes", "INT32", DIMS(2, 4));
  add_number(&input, 4, "shared_memory_region", VALUE_INT64, 3);
  wire_message(&m, 5, &input);
  refused(&s.model, &m, MU_INVALID, "input 'bytes', parameter \"shared_memory_region\": its value must be a text");
  m = wire_new();
  input = shared_input(31, -1);
  wire_message(&m, 5, &input);
  refused(&s.model, &m, MU_INVALID, "shared_memory_byte_size 31 is not the 32 bytes");
  m = wire_new();
  input = shared_input(32, -1);
  struct buffer contents = wire_new();
  wire_message(&input, 5, &contents);
  wire_message(&m, 5, &input);
  refused(&s.model, &m, MU_INVALID,
          "unexpected 'content' provided when using shared memory for input tensor 'bytes' for model 'sample'");
  m = wire_new();
  input = shared_input(32, -1);
  wire_message(&m, 5, &input);
  pb_put_bytes(&m, 7, numbers, sizeof numbers);
  refused(&s.model, &m, MU_INVALID, "1 raw_input_contents, its inputs for model 'sample' take 0");
}

static void wrong_outputs(void **state) {
  static const struct {
    const char *name, *parameter;
    uint64_t value;
    mu_status status;
    const char *why;
  } cases[] = {
      {"other", NULL, 0, MU_INVALID, "model 'sample' has no output 'other'; it has 'scores', 'labels'"},
      {"hidden", NULL, 0, MU_INVALID, "no output 'hidden'"},
      {"", NULL, 0, MU_INVALID, "outputs[0] has no name"},
      {"\xff", NULL, 0, MU_INVALID, "UTF-8"},
      {"labels", "classification", 1, MU_INVALID, "a classification needs numbers"},
      {"scores", "classification", (uint64_t)-1, MU_INVALID, "output 'scores', parameter \"classification\""},
      {"scores", "shared_memory_byte_size", 4, MU_INVALID, "needs a \"shared_memory_region\""},
  };
  struct sample_model s;
  make_batched(&s);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct buffer m = valid(), output = wire_new();
    wire_text(&output, 1, cases[i].name);
    if (cases[i].parameter != NULL) add_number(&output, 2, cases[i].parameter, VALUE_INT64, cases[i].value);
    wire_message(&m, 6, &output);
    refused(&s.model, &m, cases[i].status, cases[i].why);
  }
  struct buffer m = valid();
  for (int i = 0; i < 2; i++) {
    struct buffer output = wire_new();
    wire_text(&output, 1, "scores");
    wire_message(&m, 6, &output);
  }
  refused(&s.model, &m, MU_INVALID, "asked for twice");
}

static void wrong_ids_and_bytes(void **state) {
  struct sample_model s;
  make_batched(&s);
  char id[REQUEST_ID_MAX + 2];
  memset(id, 'i', sizeof id - 1);
  id[sizeof id - 1] = '\0';
  struct buffer m = valid();
  wire_text(&m, 3, id);
  refused(&s.model, &m, MU_INVALID, "id has 257 bytes");
  m = valid();
  pb_put_bytes(&m, 3, "a\0b", 3);
  refused(&s.model, &m, MU_INVALID, "id is not valid UTF-8");
  m = valid();
  buffer_append(&m, "\x0b", 1);
  refused(&s.model, &m, MU_INVALID, "the request is no protobuf: a field is a group");
  m = valid();
  m.size--;
  refused(&s.model, &m, MU_INVALID, "the request is no protobuf: a length points past the end");
  m = wire_new();
  wire_add_input(&m, "bytes", "INT32", DIMS(2, 4));
  wire_add_input(&m, "mask", "BOOL", DIMS(2, 3));
  pb_put_bytes(&m, 7, numbers, sizeof numbers);
  pb_put_bytes(&m, 7, "\0\1\2\0\1\1", 6);
  refused(&s.model, &m, MU_INVALID, "input 'mask': a byte of BOOL is neither 0 nor 1");
  s.model.metadata = NULL;
  m = valid();
  refused(&s.model, &m, MU_UNAVAILABLE, "model 'sample' is not ready");
}

/* ---- whom it is for ---------------------------------------------------------------------------------------------- */

static void target(void **state) {
  static const struct {
    const char *name, *version;
    mu_status status;
    int64_t number;
  } cases[] = {
      {"sample", "", MU_OK, -1},
      {"sample", "3", MU_OK, 3},
      {"sample", "9223372036854775807", MU_OK, INT64_MAX},
      {"sample", "9223372036854775808", MU_INVALID, 0},
      {"sample", "0", MU_INVALID, 0},
      {"sample", "-1", MU_INVALID, 0},
      {"sample", "1x", MU_INVALID, 0},
      {"", "1", MU_INVALID, 0},
      {"..", "1", MU_INVALID, 0},
      {"a/b", "1", MU_INVALID, 0},
      {"a\xff", "1", MU_INVALID, 0},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct buffer m = wire_new();
    wire_text(&m, 1, "first");
    wire_text(&m, 1, cases[i].name); /* the last one counts */
    wire_text(&m, 2, cases[i].version);
    wire_text(&m, 3, "the id");
    struct grpc_infer_target t;
    mu_error err = {""};
    assert_int_equal(grpc_infer_find_target(m.data, m.size, &t, &err), cases[i].status);
    assert_string_equal(t.id, "the id");
    if (cases[i].status == MU_OK) {
      assert_string_equal(t.model, cases[i].name);
      assert_int_equal(t.version, cases[i].number);
    } else {
      assert_true(err.message[0] != '\0');
    }
    buffer_free(&m);
  }
  struct grpc_infer_target t;
  mu_error err;
  assert_int_equal(grpc_infer_find_target(NULL, 0, &t, &err), MU_INVALID);
  assert_int_equal(grpc_infer_find_target("\x0a\x05"
                                          "ab",
                                          4, &t, &err),
                   MU_INVALID);
  char name[300];
  memset(name, 'n', sizeof name);
  struct buffer m = wire_new();
  pb_put_bytes(&m, 1, name, sizeof name);
  assert_int_equal(grpc_infer_find_target(m.data, m.size, &t, &err), MU_INVALID);
  buffer_free(&m);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(raw_contents_of_a_whole_message),
      cmocka_unit_test(raw_contents_before_their_inputs),
      cmocka_unit_test(the_last_of_a_singular_field_counts),
      cmocka_unit_test(typed_contents),
      cmocka_unit_test(typed_texts),
      cmocka_unit_test(empty_inputs_need_no_data),
      cmocka_unit_test(parameters),
      cmocka_unit_test(outputs),
      cmocka_unit_test(shared_memory),
      cmocka_unit_test(wrong_inputs),
      cmocka_unit_test(shapes_that_overflow),
      cmocka_unit_test(wrong_numbers_of_inputs_and_contents),
      cmocka_unit_test(wrong_contents),
      cmocka_unit_test(values_that_a_type_cannot_hold),
      cmocka_unit_test(wrong_parameters),
      cmocka_unit_test(wrong_outputs),
      cmocka_unit_test(wrong_ids_and_bytes),
      cmocka_unit_test(target),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
