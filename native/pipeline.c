/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An ordered pipeline on a ring of slots.
 *
 *     job        delivered            taken
 *     slots  ... free | done  done  working  done  working | free ...
 *                       ^ the next to deliver                ^ the next to take
 *
 * Whoever has nothing at hand looks: is the oldest job done, and nobody delivering, then deliver it; else take the next
 * job if a slot is free; else wait. So with one thread nothing is ever handed over, and with many there is no thread
 * that only writes.
 */
#include "pipeline.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "thread.h"

enum {
	SLOTS_EACH = 2, /**< a thread that waits for its turn to deliver can do one more job meanwhile */
	SLOT_ALIGN = 64,
};

enum slot_state { SLOT_FREE, SLOT_WORKING, SLOT_DONE };

struct slot {
	enum slot_state state;
	int result;
	struct obd_error error;
	uint8_t *memory;
};

struct run {
	const struct obd_pipeline *pipeline;
	pthread_mutex_t lock; /**< guards everything below; never held across a callback */
	pthread_cond_t changed;
	struct slot *slots;
	unsigned count;
	unsigned waiting;
	uint64_t taken, delivered;
	bool taking, delivering, ended;
	int result;
	struct obd_error error;
};

struct thread {
	struct run *run;
	unsigned number;
	pthread_t id;
};

static struct slot *slot_of(const struct run *run, uint64_t job)
{
	return &run->slots[job % run->count];
}

static void changed(struct run *run)
{
	if (run->waiting)
		pthread_cond_broadcast(&run->changed);
}

static void fail(struct run *run, int result, const struct obd_error *error)
{
	if (!run->result) {
		run->result = result;
		run->error = *error;
	}
	changed(run);
}

/** The lock is held on entry and on return, here and in deliver_next. */
static void take_next(struct run *run, unsigned thread)
{
	const struct obd_pipeline *pipeline = run->pipeline;
	const uint64_t job = run->taken;
	struct slot *slot = slot_of(run, job);
	struct obd_error error = {0};
	int r = job < pipeline->jobs;

	if (pipeline->take) {
		run->taking = true;
		pthread_mutex_unlock(&run->lock);
		r = pipeline->take(pipeline->opaque, slot->memory, job, &error);
		pthread_mutex_lock(&run->lock);
		run->taking = false;
	}
	if (r < 0)
		fail(run, r, &error);
	run->ended |= r == 0;
	changed(run);
	if (r <= 0)
		return;
	slot->state = SLOT_WORKING;
	run->taken++;
	pthread_mutex_unlock(&run->lock);
	slot->result = pipeline->work(pipeline->opaque, thread, slot->memory, job, &slot->error);
	pthread_mutex_lock(&run->lock);
	slot->state = SLOT_DONE;
	if (job == run->delivered)
		changed(run);
}

static void deliver_next(struct run *run)
{
	const struct obd_pipeline *pipeline = run->pipeline;
	struct slot *slot = slot_of(run, run->delivered);
	int r = slot->result;

	run->delivering = true;
	pthread_mutex_unlock(&run->lock);
	if (!r)
		r = pipeline->deliver(pipeline->opaque, slot->memory, run->delivered, &slot->error);
	pthread_mutex_lock(&run->lock);
	run->delivering = false;
	if (r) {
		fail(run, r, &slot->error);
		return;
	}
	slot->state = SLOT_FREE;
	run->delivered++;
	changed(run);
}

static bool can_deliver(const struct run *run)
{
	return !run->delivering && run->delivered < run->taken && slot_of(run, run->delivered)->state == SLOT_DONE;
}

static bool can_take(const struct run *run)
{
	return !run->taking && !run->ended && run->taken - run->delivered < run->count;
}

static void run_loop(struct run *run, unsigned thread)
{
	pthread_mutex_lock(&run->lock);
	while (!run->result && !(run->ended && run->delivered == run->taken)) {
		if (obd_task_stopped(run->pipeline->task)) {
			struct obd_error error = {.code = ECANCELED, .text = "stopped"};

			fail(run, -ECANCELED, &error);
		} else if (can_deliver(run)) {
			deliver_next(run);
		} else if (can_take(run)) {
			take_next(run, thread);
		} else {
			run->waiting++;
			pthread_cond_wait(&run->changed, &run->lock);
			run->waiting--;
		}
	}
	changed(run);
	pthread_mutex_unlock(&run->lock);
}

static void *thread_main(void *argument)
{
	struct thread *thread = argument;

	pthread_setname_np(pthread_self(), "obd-pipeline");
	run_loop(thread->run, thread->number);
	return NULL;
}

/** Starts threads 1 .. wanted - 1, as many as the system gives; returns how many. */
static unsigned start_threads(struct run *run, struct thread *threads, unsigned wanted)
{
	unsigned started = 1;

	for (; started < wanted; started++) {
		threads[started] = (struct thread){.run = run, .number = started};
		if (obd_thread_create(&threads[started].id, NULL, thread_main, &threads[started]))
			break;
	}
	return started;
}

static uint8_t *slot_memory(size_t size)
{
	return aligned_alloc(SLOT_ALIGN, (size + SLOT_ALIGN - 1) & ~(size_t)(SLOT_ALIGN - 1));
}

static int slots_init(struct run *run, unsigned count, size_t size)
{
	run->slots = calloc(count, sizeof(*run->slots));
	if (!run->slots)
		return -ENOMEM;
	run->count = count;
	for (unsigned i = 0; i < count; i++) {
		run->slots[i].memory = slot_memory(size);
		if (!run->slots[i].memory)
			return -ENOMEM;
	}
	return 0;
}

static void slots_deinit(struct run *run)
{
	for (unsigned i = 0; i < run->count; i++)
		free(run->slots[i].memory);
	free(run->slots);
}

/* ---- one thread ---- */

static int finish_job(const struct obd_pipeline *pipeline, void *slot, uint64_t job, struct obd_error *err)
{
	int r;

	if (pipeline->finish)
		return pipeline->finish(pipeline->opaque, slot, job, err);
	r = pipeline->work(pipeline->opaque, 0, slot, job, err);
	return r ? r : pipeline->deliver(pipeline->opaque, slot, job, err);
}

static int run_alone(const struct obd_pipeline *pipeline, struct obd_error *err)
{
	void *slot = slot_memory(pipeline->slot_size);
	int r = 0;

	if (!slot)
		return obd_fail(err, ENOMEM, "no memory for the work of a thread");
	for (uint64_t job = 0; !r; job++) {
		int more = job < pipeline->jobs;

		if (obd_task_stopped(pipeline->task))
			more = obd_fail(err, ECANCELED, "stopped");
		else if (pipeline->take)
			more = pipeline->take(pipeline->opaque, slot, job, err);
		if (more <= 0) {
			r = more;
			break;
		}
		r = finish_job(pipeline, slot, job, err);
	}
	free(slot);
	return r;
}

/* ---- all of it ---- */

int obd_pipeline_run(const struct obd_pipeline *pipeline, struct obd_error *err)
{
	const unsigned wanted = pipeline->threads;
	struct run run = {
		.pipeline = pipeline,
		.lock = PTHREAD_MUTEX_INITIALIZER,
		.changed = PTHREAD_COND_INITIALIZER,
	};
	struct thread threads[OBD_PIPELINE_THREADS];
	unsigned started;

	if (!wanted || wanted > OBD_PIPELINE_THREADS)
		return obd_fail(err, EINVAL, "threads: %u is not between 1 and %d", wanted, OBD_PIPELINE_THREADS);
	if (wanted == 1)
		return run_alone(pipeline, err);
	if (slots_init(&run, SLOTS_EACH * wanted, pipeline->slot_size)) {
		slots_deinit(&run);
		return obd_fail(err, ENOMEM, "no memory for the work of %u threads", wanted);
	}
	started = start_threads(&run, threads, wanted);
	run_loop(&run, 0);
	for (unsigned i = 1; i < started; i++)
		pthread_join(threads[i].id, NULL);
	slots_deinit(&run);
	pthread_cond_destroy(&run.changed);
	pthread_mutex_destroy(&run.lock);
	if (run.result && err)
		*err = run.error;
	return run.result;
}

unsigned obd_pipeline_threads(uint32_t wanted)
{
	cpu_set_t cpus;

	if (!wanted)
		wanted = sched_getaffinity(0, sizeof(cpus), &cpus) ? 1 : (uint32_t)CPU_COUNT(&cpus);
	return wanted > OBD_PIPELINE_THREADS ? OBD_PIPELINE_THREADS : wanted;
}
