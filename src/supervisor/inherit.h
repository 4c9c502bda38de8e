/* Between the supervisor and the state that it hands over (handover.h). Private to supervisor/. */
#ifndef SUPERVISOR_INHERIT_H
#define SUPERVISOR_INHERIT_H

#include "supervisor/handover.h"
#include "supervisor/state.h"

/* The state as it is now; it points into s and into memory. */
MUST_CHECK mu_status inherit_give(const struct supervisor *s, struct arena *memory, struct handover *ret_state,
                                  mu_error *err);
/* All of the state's descriptors: whether they close with an execve. */
void inherit_descriptors(const struct handover *state, bool close_on_exec);

/* Whether this version knows everything that the state speaks of. MU_UNSUPPORTED, MU_INVALID. */
MUST_CHECK mu_status inherit_check(const struct handover *state, mu_error *err);
/* Into a supervisor with options, loop and nothing else. After a failure nothing but the end makes sense. */
MUST_CHECK mu_status inherit_take(struct supervisor *s, const struct handover *state, mu_error *err);

#endif
