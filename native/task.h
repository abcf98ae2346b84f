/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_TASK_H
#define OBD_TASK_H
#include <stdbool.h>

#include "obd.h"

/* A task may be NULL everywhere here: then nobody watches, and nobody stops it. */

void obd_task_expect(struct obd_task *task, uint64_t total);
void obd_task_advance(struct obd_task *task, uint64_t count);
bool obd_task_stopped(const struct obd_task *task);

#endif
