/*
 * Server reflection: what the .proto files say, out of their own descriptors (a FileDescriptorSet that the build made),
 * which are walked where they lie.
 */
#include "api/grpc_documents.h"
#include "proto/grpc/grpc_headers.h"
#include "proto/grpc/grpc_message.h"
#include "proto/protobuf/wire.h"

extern const unsigned char descriptor_set[];
extern const size_t descriptor_set_size;

/* Field numbers of descriptor.proto and of the reflection protocol. */
enum {
  SET_FILE = 1,
  FILE_NAME = 1,
  FILE_PACKAGE = 2,
  FILE_DEPENDENCY = 3,
  FILE_MESSAGE = 4,
  FILE_ENUM = 5,
  FILE_SERVICE = 6
};
enum { NAME = 1, MESSAGE_NESTED = 3, MESSAGE_ENUM = 4, SERVICE_METHOD = 2 };
enum { ASK_HOST = 1, ASK_FILE = 3, ASK_SYMBOL = 4, ASK_EXTENSION = 5, ASK_EXTENSION_NUMBERS = 6, ASK_SERVICES = 7 };
enum {
  ANSWER_HOST = 1,
  ANSWER_REQUEST = 2,
  ANSWER_FILES = 4,
  ANSWER_EXTENSIONS = 5,
  ANSWER_SERVICES = 6,
  ANSWER_ERROR = 7
};

/* Part of a descriptor, or of a name. */
struct span {
  const char *data;
  size_t size;
};

static bool same(struct span a, struct span b) { return a.size == b.size && memcmp(a.data, b.data, a.size) == 0; }

/* The next field of that number, of type bytes. */
static bool next_of(struct pb_reader *reader, uint32_t number, struct span *ret_span) {
  struct pb_field field;
  while (pb_next(reader, &field))
    if (field.number == number && field.wire == PB_BYTES) {
      *ret_span = (struct span){field.bytes, field.size};
      return true;
    }
  return false;
}

static struct pb_reader read_span(struct span span) {
  struct pb_reader reader;
  pb_reader_init(&reader, span.data, span.size);
  return reader;
}

static struct span first_of(struct span message, uint32_t number) {
  struct pb_reader reader = read_span(message);
  struct span span = {"", 0};
  next_of(&reader, number, &span);
  return span;
}

static struct pb_reader all_files(void) {
  return read_span((struct span){(const char *)descriptor_set, descriptor_set_size});
}

/* ---- looking up -------------------------------------------------------------------------------------------------- */

static bool find_file(struct span name, struct span *ret_file) {
  struct pb_reader files = all_files();
  while (next_of(&files, SET_FILE, ret_file))
    if (same(first_of(*ret_file, FILE_NAME), name)) return true;
  return false;
}

/* Takes "name" or "name.", where more follows, off the front of a symbol; false when it does not begin so. */
static bool take_name(struct span *symbol, struct span name) {
  if (symbol->size < name.size || memcmp(symbol->data, name.data, name.size) != 0) return false;
  const bool more = symbol->size > name.size;
  if (more && (symbol->data[name.size] != '.' || symbol->size == name.size + 1)) return false;
  symbol->data += name.size + more;
  symbol->size -= name.size + more;
  return true;
}

/* Is it one of the things of that kind in `where`, or a method or nested thing inside of one? */
static bool has_symbol(struct span where, uint32_t kind, uint32_t methods, uint32_t nested, uint32_t enums,
                       struct span symbol) {
  struct pb_reader reader = read_span(where);
  struct span item;
  while (next_of(&reader, kind, &item)) {
    struct span rest = symbol;
    if (!take_name(&rest, first_of(item, NAME))) continue;
    if (rest.size == 0) return true;
    if (methods != 0 && has_symbol(item, methods, 0, 0, 0, rest)) return true;
    if (nested != 0 && has_symbol(item, nested, 0, nested, enums, rest)) return true;
    if (enums != 0 && has_symbol(item, enums, 0, 0, 0, rest)) return true;
  }
  return false;
}

static bool file_has(struct span file, struct span symbol, bool messages_only) {
  if (!take_name(&symbol, first_of(file, FILE_PACKAGE)) || symbol.size == 0) return false;
  if (has_symbol(file, FILE_MESSAGE, 0, MESSAGE_NESTED, messages_only ? 0 : MESSAGE_ENUM, symbol)) return true;
  return !messages_only &&
         (has_symbol(file, FILE_SERVICE, SERVICE_METHOD, 0, 0, symbol) || has_symbol(file, FILE_ENUM, 0, 0, 0, symbol));
}

static bool find_symbol(struct span symbol, bool messages_only, struct span *ret_file) {
  struct pb_reader files = all_files();
  while (next_of(&files, SET_FILE, ret_file))
    if (file_has(*ret_file, symbol, messages_only)) return true;
  return false;
}

/* ---- answers ----------------------------------------------------------------------------------------------------- */

static void put_span(struct buffer *out, uint32_t number, struct span span) {
  pb_put_bytes(out, number, span.data, span.size);
}

/* Calls each with the full name of a service; ends where it says false. */
static void each_service(bool (*each)(const char *name, void *context), void *context) {
  struct pb_reader files = all_files();
  struct span file, service;
  while (next_of(&files, SET_FILE, &file)) {
    struct pb_reader services = read_span(file);
    const struct span package = first_of(file, FILE_PACKAGE);
    while (next_of(&services, FILE_SERVICE, &service)) {
      char name[128];
      const struct span last = first_of(service, NAME);
      if (package.size + last.size + 2 > sizeof name) continue; /* ours are shorter */
      memcpy(name, package.data, package.size);
      name[package.size] = '.';
      memcpy(name + package.size + 1, last.data, last.size);
      name[package.size + 1 + last.size] = '\0';
      if (!each(name, context)) return;
    }
  }
}

static bool put_service(const char *name, void *context) {
  struct buffer *out = context;
  const size_t service = pb_open(out, 1);
  pb_put_text_field(out, 1, name);
  pb_close(out, service);
  return true;
}

struct service_search {
  const char *wanted;
  bool found;
};

static bool compare_service(const char *name, void *context) {
  struct service_search *search = context;
  search->found = strcmp(name, search->wanted) == 0;
  return !search->found;
}

bool grpc_service_known(const char *service) {
  struct service_search search = {.wanted = service, .found = *service == '\0'};
  if (!search.found) each_service(compare_service, &search);
  return search.found;
}

static void put_error(struct buffer *out, enum grpc_code code, const char *message) {
  const size_t error = pb_open(out, ANSWER_ERROR);
  pb_put_varint_field(out, 1, code);
  pb_put_text_field(out, 2, message);
  pb_close(out, error);
}

/* The file and, as a client needs them to make sense of it, what it imports (our imports import nothing). */
static void put_file(struct buffer *out, struct span file) {
  const size_t files = pb_open(out, ANSWER_FILES);
  put_span(out, 1, file);
  struct pb_reader reader = read_span(file);
  struct span name, imported;
  while (next_of(&reader, FILE_DEPENDENCY, &name))
    if (find_file(name, &imported)) put_span(out, 1, imported);
  pb_close(out, files);
}

static void answer(struct buffer *out, const struct pb_field *asked) {
  const struct span what = {asked->bytes, asked->size};
  struct span file;
  size_t mark;
  switch (asked->number) {
    case ASK_FILE:
      if (find_file(what, &file)) {
        put_file(out, file);
        return;
      }
      break;
    case ASK_SYMBOL:
      if (find_symbol(what, false, &file)) {
        put_file(out, file);
        return;
      }
      break;
    case ASK_EXTENSION_NUMBERS: /* nothing here has extensions */
      if (find_symbol(what, true, &file)) {
        mark = pb_open(out, ANSWER_EXTENSIONS);
        put_span(out, 1, what);
        pb_close(out, mark);
        return;
      }
      break;
    case ASK_SERVICES:
      mark = pb_open(out, ANSWER_SERVICES);
      each_service(put_service, out);
      pb_close(out, mark);
      return;
    case ASK_EXTENSION:
      break;
    default:
      put_error(out, GRPC_INVALID_ARGUMENT, "the request asks for nothing");
      return;
  }
  put_error(out, GRPC_NOT_FOUND, "not found");
}

mu_status grpc_reply_reflection(struct buffer *out, const char *request, size_t size, mu_error *err) {
  struct pb_reader reader;
  struct pb_field field, asked = {0};
  struct span host = {"", 0};
  pb_reader_init(&reader, request, size);
  while (pb_next(&reader, &field)) {
    if (field.wire != PB_BYTES) continue;
    if (field.number == ASK_HOST) host = (struct span){field.bytes, field.size};
    if (field.number >= ASK_FILE && field.number <= ASK_SERVICES) asked = field; /* a oneof: the last one counts */
  }
  const mu_status status = pb_finish(&reader, "the reflection request", err);
  if (status != MU_OK) return status;
  uint8_t prefix[GRPC_PREFIX_SIZE] = {0};
  buffer_append(out, prefix, sizeof prefix);
  const size_t start = out->size;
  if (host.size > 0) put_span(out, ANSWER_HOST, host);
  pb_put_bytes(out, ANSWER_REQUEST, request, size);
  answer(out, &asked);
  if (out->failed) return mu_fail(err, MU_NO_MEMORY, "no room for the reply");
  grpc_prefix_write((uint8_t *)out->data + start - GRPC_PREFIX_SIZE, false, (uint32_t)(out->size - start));
  return MU_OK;
}
