/* SPDX-License-Identifier: Apache-2.0 */
/* A long call, watched and stopped from another thread: two counters and a flag, nothing that could make it wait. */
#include "task.h"

#include <errno.h>
#include <stdlib.h>

struct obd_task {
	uint64_t done, total; /**< atomic, relaxed: for a progress line */
	bool stop;	      /**< atomic, relaxed: seen soon, which is all that is promised */
};

int obd_task_create(struct obd_task **ret)
{
	*ret = calloc(1, sizeof(**ret));
	return *ret ? 0 : -ENOMEM;
}

void obd_task_destroy(struct obd_task *task)
{
	free(task);
}

void obd_task_stop(struct obd_task *task)
{
	__atomic_store_n(&task->stop, true, __ATOMIC_RELAXED);
}

void obd_task_progress(const struct obd_task *task, uint64_t *done, uint64_t *total)
{
	*done = __atomic_load_n(&task->done, __ATOMIC_RELAXED);
	*total = __atomic_load_n(&task->total, __ATOMIC_RELAXED);
}

void obd_task_expect(struct obd_task *task, uint64_t total)
{
	if (task)
		__atomic_store_n(&task->total, total, __ATOMIC_RELAXED);
}

void obd_task_advance(struct obd_task *task, uint64_t count)
{
	if (task)
		__atomic_add_fetch(&task->done, count, __ATOMIC_RELAXED);
}

bool obd_task_stopped(const struct obd_task *task)
{
	return task && __atomic_load_n(&task->stop, __ATOMIC_RELAXED);
}
