/* ModelInferRequests that come in pieces: every split must come to what the whole message comes to. */
#include "grpc_request.h"

/* A call that reads a message piece by piece, as the gateway does. */
struct piecewise {
  const struct model *model;
  struct grpc_scan scan;
  struct buffer head;
  struct attempt a;
  bool parsed, staged, ended;
  struct request_input *filling;
  uint64_t filled;
};

static void reserve(struct piecewise *p) { attempt_memory(&p->a); }

static void drop(struct piecewise *p) {
  for (int i = 0; i < SAMPLE_TENSORS; i++) free(p->a.data[i]);
  memset(p->a.data, 0, sizeof p->a.data);
  request_clear(&p->a.request);
}

static mu_status stage(struct piecewise *p, const struct request *request) {
  const mu_status status = grpc_scan_stage(&p->scan, request, &p->a.err);
  p->staged = true;
  if (request != NULL)
    drop(p);
  else
    request_clear(&p->a.request);
  return status;
}

static mu_status begin_raw(struct piecewise *p) {
  struct grpc_scan *scan = &p->scan;
  struct attempt *a = &p->a;
  if (!p->parsed) {
    const struct grpc_infer_rest rest = grpc_scan_rest(scan);
    const mu_status status = grpc_infer_parse(p->model, p->head.data, p->head.size, &rest, &a->request, &a->err);
    p->parsed = true;
    if (status != MU_OK) return status;
    if (!grpc_infer_sizes_known(&a->request)) return stage(p, NULL);
    reserve(p);
  }
  const mu_status status =
      grpc_infer_raw_input(p->model, &a->request, scan->n_raw - 1, scan->raw_size, &p->filling, &a->err);
  if (status != MU_OK) return status;
  p->filled = 0;
  return p->filling == NULL ? stage(p, &a->request) : MU_OK;
}

static mu_status end(struct piecewise *p) {
  struct attempt *a = &p->a;
  p->ended = true;
  if (!p->staged && p->scan.n_raw > 0) return grpc_infer_raw_end(p->model, &a->request, p->scan.n_raw, &a->err);
  mu_status status = grpc_infer_parse(p->model, p->head.data, p->head.size, NULL, &a->request, &a->err);
  if (status != MU_OK) return status;
  reserve(p);
  grpc_infer_copy_raw(p->head.data, &a->request);
  return grpc_infer_read_contents(p->model, p->head.data, &a->request, &a->err);
}

static mu_status feed(struct piecewise *p, const uint8_t *data, size_t size) {
  enum grpc_scan_event event = GRPC_SCAN_RAW;
  while (event != GRPC_SCAN_MORE && event != GRPC_SCAN_END) {
    const size_t part = !p->staged && p->scan.raw_left < size ? (size_t)p->scan.raw_left : size;
    if (!p->staged && p->scan.raw_left > 0) {
      assert_non_null(p->filling);
      if (part > 0) memcpy(p->filling->data + p->filled, data, part);
      p->filled += part;
      data += part;
      size -= part;
      grpc_scan_advance(&p->scan, part);
    }
    mu_status status = grpc_scan_feed(&p->scan, &data, &size, &event, &p->a.err);
    if (status == MU_OK && event == GRPC_SCAN_RAW) status = begin_raw(p);
    if (status == MU_OK && event == GRPC_SCAN_LATE) status = stage(p, &p->a.request);
    if (status != MU_OK) return status;
  }
  assert_int_equal(size, 0);
  return event == GRPC_SCAN_END ? end(p) : MU_OK;
}

static void begin(struct piecewise *p, const struct model *model, size_t size) {
  memset(p, 0, sizeof *p);
  p->model = model;
  buffer_init(&p->head, 1 << 20);
  grpc_scan_begin(&p->scan, &p->head, size);
}

static void piecewise_free(struct piecewise *p) {
  attempt_free(&p->a);
  buffer_free(&p->head);
}

/* The message in two pieces, cut at every place, and byte by byte, comes to what it comes to as a whole. */
static void same_in_all_splits(const struct model *model, const struct buffer *m, bool staged) {
  struct attempt whole;
  grpc_attempt_whole(&whole, model, m->data, m->size);
  for (size_t cut = 0; cut <= m->size + 1; cut++) {
    const uint8_t *data = (const uint8_t *)m->data;
    struct piecewise p;
    begin(&p, model, m->size);
    mu_status status = MU_OK;
    if (cut <= m->size || m->size == 0) {
      status = feed(&p, data, m->size > 0 ? cut : 0);
      if (status == MU_OK && !p.ended) status = feed(&p, data + cut, m->size - cut);
    }
    for (size_t i = 0; cut > m->size && i < m->size && status == MU_OK; i++) status = feed(&p, data + i, 1);
    if (status == MU_OK) {
      assert_true(p.ended);
      status = rest_infer_check_binary(model, &p.a.request, &p.a.err);
    }
    if (status != whole.status)
      fail_msg("cut at %zu: %d %s, as a whole %d %s", cut, status, p.a.err.message, whole.status, whole.err.message);
    if (status == MU_OK) {
      assert_int_equal(p.staged, staged);
      assert_string_equal(p.a.request.id, whole.request.id);
      assert_int_equal(p.a.request.n_inputs, whole.request.n_inputs);
      assert_int_equal(p.a.request.input_bytes, whole.request.input_bytes);
      assert_int_equal(p.a.request.binary_bytes, whole.request.binary_bytes);
      for (uint32_t i = 0; i < whole.request.n_inputs; i++) {
        const struct request_input *one = &p.a.request.inputs[i], *other = &whole.request.inputs[i];
        assert_int_equal(one->index, other->index);
        assert_int_equal(one->size, other->size);
        assert_memory_equal(one->data, other->data, one->size);
      }
    }
    piecewise_free(&p);
  }
  attempt_free(&whole);
}

static const int32_t numbers[] = {1, 2, 3, 4, 5, 6, 7, -8};
static const uint8_t flags[] = {0, 1, 0, 1, 1, 1};

static struct buffer two_inputs(void) {
  struct buffer m = wire_new();
  wire_text(&m, 1, "sample");
  wire_text(&m, 3, "an id");
  wire_add_input(&m, "mask", "BOOL", DIMS(2, 3));
  wire_add_input(&m, "bytes", "INT32", DIMS(2, 4));
  return m;
}

static void contents_go_into_their_place(void **state) {
  struct sample_model s;
  make_batched(&s);
  struct buffer m = two_inputs();
  pb_put_bytes(&m, 7, flags, sizeof flags);
  pb_put_bytes(&m, 7, numbers, sizeof numbers);
  same_in_all_splits(&s.model, &m, false);
  buffer_free(&m);
}

static void long_contents(void **state) {
  struct sample_model s;
  sample_init(&s, 0);
  sample_input(&s, "x", MU_UINT8, DIMS(-1));
  sample_output(&s, "y", MU_UINT8, DIMS(-1));
  struct buffer m = wire_new();
  static uint8_t data[300];
  for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)(i * 7);
  wire_add_input(&m, "x", "UINT8", DIMS(300));
  pb_put_bytes(&m, 7, data, sizeof data);
  same_in_all_splits(&s.model, &m, false);
  buffer_free(&m);
}

static void unknown_fields_are_passed_over(void **state) {
  struct sample_model s;
  make_batched(&s);
  struct buffer m = wire_new();
  wire_number(&m, 100, 12345);
  wire_text(&m, 9, "unknown");
  pb_put_tag(&m, 10, PB_FIXED32);
  buffer_append(&m, "1234", 4);
  wire_number(&m, 1, 5); /* model_name of another wire type */
  struct buffer rest = two_inputs();
  buffer_append(&m, rest.data, rest.size);
  buffer_free(&rest);
  wire_number(&m, 7, 1); /* raw_input_contents of another wire type */
  pb_put_bytes(&m, 7, flags, sizeof flags);
  wire_text(&m, 8, "between");
  pb_put_tag(&m, 11, PB_FIXED64);
  buffer_append(&m, "12345678", 8);
  pb_put_bytes(&m, 7, numbers, sizeof numbers);
  wire_number(&m, 2000, 1);
  wire_number(&m, 7, 300);
  same_in_all_splits(&s.model, &m, false);
  buffer_free(&m);
}

static void known_fields_after_contents_are_staged(void **state) {
  struct sample_model s;
  make_batched(&s);
  struct buffer m = wire_new();
  wire_add_input(&m, "mask", "BOOL", DIMS(2, 3));
  pb_put_bytes(&m, 7, flags, sizeof flags);
  wire_add_input(&m, "bytes", "INT32", DIMS(2, 4));
  pb_put_bytes(&m, 7, numbers, sizeof numbers);
  wire_text(&m, 3, "late id");
  for (int optional = 0; optional < 2; optional++) { /* without "bytes" the head lacks an input, or does not */
    s.inputs[0].info.optional = optional;
    same_in_all_splits(&s.model, &m, true);
  }
  buffer_free(&m);
  m = wire_new(); /* contents before all inputs */
  pb_put_bytes(&m, 7, numbers, sizeof numbers);
  wire_add_input(&m, "bytes", "INT32", DIMS(2, 4));
  same_in_all_splits(&s.model, &m, true);
  buffer_free(&m);
}

static void make_texts(struct sample_model *s) {
  sample_init(s, 0);
  sample_input(s, "a", MU_BYTES, DIMS(-1));
  sample_input(s, "n", MU_INT16, DIMS(-1));
  sample_input(s, "b", MU_BYTES, DIMS(-1))->info.optional = true;
  sample_output(s, "y", MU_FP32, DIMS(-1));
}

static const char text_a[] = "\3\0\0\0abc\0\0\0\0", text_b[] = "\1\0\0\0z";

static void one_text_input_has_the_size_that_is_left(void **state) {
  struct sample_model s;
  make_texts(&s);
  for (int first = 0; first < 2; first++) {
    struct buffer m = wire_new();
    if (first) wire_add_input(&m, "a", "BYTES", DIMS(2));
    wire_add_input(&m, "n", "INT16", DIMS(2));
    if (!first) wire_add_input(&m, "a", "BYTES", DIMS(2));
    if (first) pb_put_bytes(&m, 7, text_a, sizeof text_a - 1);
    pb_put_bytes(&m, 7, "1234", 4);
    if (!first) pb_put_bytes(&m, 7, text_a, sizeof text_a - 1);
    same_in_all_splits(&s.model, &m, false);
    wire_text(&m, 99, "unknown, behind"); /* only where the text is not the first does this matter */
    same_in_all_splits(&s.model, &m, !first);
    buffer_free(&m);
  }
}

static void two_text_inputs_are_staged(void **state) {
  struct sample_model s;
  make_texts(&s);
  struct buffer m = wire_new();
  wire_add_input(&m, "a", "BYTES", DIMS(2));
  wire_add_input(&m, "n", "INT16", DIMS(2));
  wire_add_input(&m, "b", "BYTES", DIMS(1));
  pb_put_bytes(&m, 7, text_a, sizeof text_a - 1);
  pb_put_bytes(&m, 7, "1234", 4);
  pb_put_bytes(&m, 7, text_b, sizeof text_b - 1);
  same_in_all_splits(&s.model, &m, false);
  buffer_free(&m);
  m = wire_new();
  wire_add_input(&m, "n", "INT16", DIMS(2));
  wire_add_input(&m, "a", "BYTES", DIMS(2));
  wire_add_input(&m, "b", "BYTES", DIMS(1));
  pb_put_bytes(&m, 7, "1234", 4);
  pb_put_bytes(&m, 7, text_a, sizeof text_a - 1);
  pb_put_bytes(&m, 7, text_b, sizeof text_b - 1);
  same_in_all_splits(&s.model, &m, true);
  buffer_free(&m);
}

static void text_sizes_that_lie(void **state) {
  struct sample_model s;
  make_texts(&s);
  struct buffer m = wire_new();
  wire_add_input(&m, "n", "INT16", DIMS(2));
  wire_add_input(&m, "a", "BYTES", DIMS(200));
  pb_put_bytes(&m, 7, "1234", 4);
  pb_put_bytes(&m, 7, text_a, sizeof text_a - 1);
  same_in_all_splits(&s.model, &m, false); /* 200 elements in 11 bytes: refused either way */
  buffer_free(&m);
}

static void typed_contents_come_with_the_head(void **state) {
  struct sample_model s;
  make_batched(&s);
  struct buffer m = wire_new(), contents = wire_new(), input = wire_input("bytes", "INT32", DIMS(1, 4));
  for (int i = 0; i < 4; i++) wire_number(&contents, 2, (uint64_t)(int64_t)(i - 2));
  wire_message(&input, 5, &contents);
  wire_message(&m, 5, &input);
  same_in_all_splits(&s.model, &m, false);
  buffer_free(&m);
}

static void no_message_at_all(void **state) {
  struct sample_model s;
  make_batched(&s);
  struct buffer m = wire_new();
  same_in_all_splits(&s.model, &m, false);
}

/* Contents of other sizes and numbers than the inputs', and messages cut off, fail in every split as they do whole. */
static void contents_that_do_not_fit(void **state) {
  struct sample_model s;
  make_batched(&s);
  for (int n = 0; n < 6; n++) {
    struct buffer m = two_inputs();
    if (n != 0) pb_put_bytes(&m, 7, flags, n == 1 ? 5 : sizeof flags);
    if (n >= 3) pb_put_bytes(&m, 7, numbers, n == 3 ? 31 : 32);
    if (n == 4) pb_put_bytes(&m, 7, "", 0);
    if (n == 5) m.size -= 1;
    struct attempt whole;
    grpc_attempt_whole(&whole, &s.model, m.data, m.size);
    assert_int_equal(whole.status, MU_INVALID);
    assert_true(whole.err.message[0] != '\0');
    attempt_free(&whole);
    same_in_all_splits(&s.model, &m, false);
    buffer_free(&m);
  }
}

#define WRONG(...) \
  { {__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}) }

static void bytes_that_are_no_message(void **state) {
  static const struct {
    uint8_t bytes[16];
    size_t size;
  } cases[] = {
      WRONG(0x80),                                                      /* a tag cut off */
      WRONG(0x08, 0x80),                                                /* a number cut off */
      WRONG(0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2),      /* 65 bits */
      WRONG(0x08, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 1), /* 11 bytes */
      WRONG(0x09, 1, 2),                                                /* half a double */
      WRONG(0x0a, 2, 'a'),                                              /* past the end */
      WRONG(0x3a, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1, 0),   /* contents far past the end */
      WRONG(0x0a),                                                      /* no length */
      WRONG(0x0b, 0x0c),                                                /* a group */
      WRONG(0x0e, 0),                                                   /* wire type 6 */
      WRONG(0x00, 0),                                                   /* field 0 */
      WRONG(0x88, 0x80, 0x80, 0x80, 0x80, 0x00, 1),                     /* a tag of 6 bytes */
      WRONG(0x88, 0x80, 0x80, 0x80, 0x10, 1),                           /* a tag of 33 bits */
  };
  struct sample_model s;
  make_batched(&s);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct buffer m = wire_new();
    buffer_append(&m, cases[i].bytes, cases[i].size);
    same_in_all_splits(&s.model, &m, false);
    struct piecewise p;
    begin(&p, &s.model, m.size);
    assert_int_equal(feed(&p, (const uint8_t *)m.data, m.size), MU_INVALID);
    assert_non_null(strstr(p.a.err.message, "the request is no protobuf"));
    piecewise_free(&p);
    buffer_free(&m);
  }
}

static void a_head_past_its_limit(void **state) {
  struct sample_model s;
  make_batched(&s);
  struct buffer m = two_inputs();
  struct grpc_scan scan;
  struct buffer head;
  buffer_init(&head, m.size - 1);
  grpc_scan_begin(&scan, &head, m.size);
  const uint8_t *data = (const uint8_t *)m.data;
  size_t size = m.size;
  enum grpc_scan_event event;
  mu_error err;
  assert_int_equal(grpc_scan_feed(&scan, &data, &size, &event, &err), MU_TOO_LARGE);
  buffer_free(&head);
  buffer_free(&m);
}

static void more_than_the_message(void **state) {
  struct buffer head;
  struct grpc_scan scan;
  buffer_init(&head, 100);
  grpc_scan_begin(&scan, &head, 1);
  const uint8_t bytes[] = {0x08, 1}, *data = bytes;
  size_t size = sizeof bytes;
  enum grpc_scan_event event;
  mu_error err;
  assert_int_equal(grpc_scan_feed(&scan, &data, &size, &event, &err), MU_INVALID);
  buffer_free(&head);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(contents_go_into_their_place),
      cmocka_unit_test(long_contents),
      cmocka_unit_test(unknown_fields_are_passed_over),
      cmocka_unit_test(known_fields_after_contents_are_staged),
      cmocka_unit_test(one_text_input_has_the_size_that_is_left),
      cmocka_unit_test(two_text_inputs_are_staged),
      cmocka_unit_test(text_sizes_that_lie),
      cmocka_unit_test(typed_contents_come_with_the_head),
      cmocka_unit_test(no_message_at_all),
      cmocka_unit_test(contents_that_do_not_fit),
      cmocka_unit_test(bytes_that_are_no_message),
      cmocka_unit_test(a_head_past_its_limit),
      cmocka_unit_test(more_than_the_message),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
