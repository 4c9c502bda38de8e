/* Which settings a server can change while it runs: the column `reloadable` of the option table. */
#include "config/option_table.h"

static mu_status format_both(const struct option_row *row, const struct options *now, const struct options *then,
                             struct buffer *old, struct buffer *wanted) {
  buffer_clear(old);
  buffer_clear(wanted);
  option_format(row, (const char *)now + row->offset, old);
  option_format(row, (const char *)then + row->offset, wanted);
  buffer_putc(old, '\0');
  buffer_putc(wanted, '\0');
  return old->failed || wanted->failed ? MU_NO_MEMORY : MU_OK;
}

mu_status options_check_reload(const struct options *now, const struct options *then, mu_error *err) {
  size_t n, refused = 0;
  const struct option_row *rows = option_rows(&n);
  struct buffer old, wanted, list;
  buffer_init(&old, 1 << 20);
  buffer_init(&wanted, 1 << 20);
  buffer_init(&list, 1 << 20);
  mu_status status = MU_OK;
  for (size_t i = 0; status == MU_OK && i < n; i++) {
    if (rows[i].reloadable) continue;
    status = format_both(&rows[i], now, then, &old, &wanted);
    if (status != MU_OK || strcmp(old.data, wanted.data) == 0) continue;
    buffer_print(&list, "%s%s is %s and would be %s (from %s)", refused++ > 0 ? ", " : "", rows[i].name, old.data,
                 wanted.data, then->origins[i]);
  }
  const char *text = buffer_text(&list);
  if (status != MU_OK || text == NULL)
    status = mu_fail(err, MU_NO_MEMORY, "no memory to compare the settings");
  else if (refused > 0)
    status = mu_fail(err, MU_UNSUPPORTED, "not changed by a reload or an upgrade: %s; restart the server for it", text);
  buffer_free(&old);
  buffer_free(&wanted);
  buffer_free(&list);
  return status;
}
