/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_PIPELINE_H
#define OBD_PIPELINE_H
#include "task.h"

enum { OBD_PIPELINE_THREADS = 64 };

/**
 * Jobs 0, 1, 2, ... done by several threads and delivered in their order: so what comes out does not depend on how many
 * threads there are. Each job has the memory of one slot from take to deliver; there are a few more slots than threads,
 * and no more memory however many jobs there are.
 *
 *     take      in order, one call at a time: says whether there is such a job, may read its input. NULL: jobs says it
 *     work      any thread, any order, side by side
 *     deliver   in order, one call at a time; may wait, the other threads go on until every slot is full
 *     finish    work and deliver at once, called instead of them when there is one thread: what it makes need not go
 *               through the slot. NULL: there is no such way
 *
 * All return -errno with err filled when they fail; take returns 1 for a job and 0 at the end. The failure reported is
 * that of the first job in order, whichever thread was first to fail.
 */
struct obd_pipeline {
	unsigned threads; /**< of work, the caller's own included; 1 .. OBD_PIPELINE_THREADS */
	uint64_t jobs;	  /**< when take is NULL */
	size_t slot_size; /**< bytes; aligned to a cache line */
	int (*take)(void *opaque, void *slot, uint64_t job, struct obd_error *err);
	int (*work)(void *opaque, unsigned thread, void *slot, uint64_t job, struct obd_error *err);
	int (*deliver)(void *opaque, void *slot, uint64_t job, struct obd_error *err);
	int (*finish)(void *opaque, void *slot, uint64_t job, struct obd_error *err);
	void *opaque;
	struct obd_task *task;
};

/** Returns when every thread has ended. -ECANCELED when the task was stopped. */
int obd_pipeline_run(const struct obd_pipeline *pipeline, struct obd_error *err);

/** What a user's number of threads becomes: 0 is one for each CPU we may run on, and there is a limit. */
unsigned obd_pipeline_threads(uint32_t wanted);

#endif
