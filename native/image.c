/* SPDX-License-Identifier: Apache-2.0 */
/* An image: its layers, the merged index over them, the workers that read it, and what they have counted. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "events.h"
#include "change.h"
#include "image_private.h"
#include "stack.h"
#include "upper.h"

enum {
	DEPTH = 64,
	DEPTH_MAX = 1024,
	SLOW_READ_US = 10000,
	/* what is read ahead of the decoder at once: any block, or half a piece of smaller ones */
	STORED = 68 * 1024,
};

/* ---- workers ---- */

int obd_worker_create(struct obd_image *image, struct obd_worker **ret)
{
	struct obd_worker *worker = calloc(1, sizeof(*worker));

	if (!worker)
		return -ENOMEM;
	worker->image = image;
	if (image->block_size_max) {
		worker->stored_size = STORED;
		worker->stored = aligned_alloc(OBD_STORED_SLACK,
					       worker->stored_size + OBD_STORED_SLACK +
						       OBD_DECODED_SLOTS * (size_t)image->block_size_max);
		if (!worker->stored || obd_codec_create(&worker->codec)) {
			free(worker->stored);
			free(worker);
			return -ENOMEM;
		}
		for (unsigned i = 0; i < OBD_DECODED_SLOTS; i++)
			worker->decoded[i].bytes = worker->stored + worker->stored_size + OBD_STORED_SLACK +
						   i * (size_t)image->block_size_max;
	}
	pthread_mutex_lock(&image->workers_lock);
	worker->next = image->workers;
	image->workers = worker;
	pthread_mutex_unlock(&image->workers_lock);
	*ret = worker;
	return 0;
}

static void counters_add(struct obd_counters *sum, const struct obd_counters *more)
{
	uint64_t *to = (uint64_t *)sum;
	const uint64_t *from = (const uint64_t *)more;

	for (size_t i = 0; i < sizeof(*sum) / sizeof(*to); i++)
		to[i] += __atomic_load_n(&from[i], __ATOMIC_RELAXED);
}

void obd_worker_destroy(struct obd_worker *worker)
{
	struct obd_image *image;
	struct obd_worker **link;

	if (!worker)
		return;
	image = worker->image;
	pthread_mutex_lock(&image->workers_lock);
	for (link = &image->workers; *link != worker; link = &(*link)->next)
		;
	*link = worker->next;
	counters_add(&image->retired, &worker->counters);
	pthread_mutex_unlock(&image->workers_lock);
	obd_codec_destroy(worker->codec);
	free(worker->stored);
	free(worker);
}

struct obd_worker *obd_image_lend(struct obd_image *image)
{
	struct obd_worker *worker;

	pthread_mutex_lock(&image->workers_lock);
	worker = image->lent;
	if (worker)
		image->lent = worker->idle;
	pthread_mutex_unlock(&image->workers_lock);
	if (!worker && !obd_worker_create(image, &worker))
		worker->may_block = true;
	return worker;
}

void obd_image_return(struct obd_worker *worker)
{
	if (!worker)
		return;
	pthread_mutex_lock(&worker->image->workers_lock);
	worker->idle = worker->image->lent;
	worker->image->lent = worker;
	pthread_mutex_unlock(&worker->image->workers_lock);
}

/* ---- what goes to the log, and the counters ---- */

static void event_fill(struct obd_event *event, const struct obd_image *image, const char *text)
{
	strncpy(event->image, image->name, sizeof(event->image) - 1);
	strncpy(event->text, text, sizeof(event->text) - 1);
}

void obd_image_report(struct obd_image *image, enum obd_event_kind kind, int code, const char *text)
{
	struct obd_event event = {.kind = kind, .code = code};

	if (!image->events)
		return;
	event_fill(&event, image, text);
	obd_events_push(image->events, &event);
}

void obd_report_error(struct obd_worker *worker, enum obd_op op, uint64_t offset, uint64_t count, int code)
{
	struct obd_event event = {
		.kind = op == OBD_READ ? OBD_EVENT_READ_ERROR : OBD_EVENT_WRITE_ERROR,
		.code = code,
		.offset = offset,
		.count = count,
	};

	if (!worker->image->events)
		return;
	event_fill(&event, worker->image, worker->error.text);
	obd_events_push(worker->image->events, &event);
}

void obd_report_wait(struct obd_worker *worker, const struct obd_layer *layer, uint64_t offset, uint64_t count,
		     uint64_t latency_ns)
{
	struct obd_event event = {.kind = OBD_EVENT_SLOW_READ, .offset = offset, .count = count};

	obd_count(&worker->counters.blocked, 1);
	obd_latency_add(&worker->counters.stages[layer->blob->cache ? OBD_STAGE_CACHE : OBD_STAGE_DISK], latency_ns);
	if (latency_ns < worker->image->options.slow_read_us * UINT64_C(1000))
		return;
	obd_count(&worker->counters.slow_reads, 1);
	if (!worker->image->events)
		return;
	event.latency_us = latency_ns / 1000;
	event_fill(&event, worker->image, layer->blob->path);
	obd_events_push(worker->image->events, &event);
}

void obd_inflight_add(struct obd_image *image)
{
	unsigned now = __atomic_add_fetch(&image->inflight, 1, __ATOMIC_RELAXED);
	unsigned max = __atomic_load_n(&image->inflight_max, __ATOMIC_RELAXED);

	while (now > max &&
	       !__atomic_compare_exchange_n(&image->inflight_max, &max, now, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
}

void obd_inflight_sub(struct obd_image *image)
{
	__atomic_sub_fetch(&image->inflight, 1, __ATOMIC_RELAXED);
}

/* A worker's counters are read while it adds to them; the lock only keeps it from going away. */
static void sum_counters(const struct obd_image *image, struct obd_counters *sum)
{
	struct obd_image *locked = (struct obd_image *)image;

	pthread_mutex_lock(&locked->workers_lock);
	*sum = image->retired;
	for (const struct obd_worker *worker = image->workers; worker; worker = worker->next)
		counters_add(sum, &worker->counters);
	pthread_mutex_unlock(&locked->workers_lock);
}

int obd_image_latency(const struct obd_image *image, uint32_t stage, struct obd_latency *ret)
{
	struct obd_counters sum;

	if (stage >= OBD_STAGES)
		return -EINVAL;
	sum_counters(image, &sum);
	*ret = sum.stages[stage];
	return 0;
}

void obd_image_stats(const struct obd_image *image, struct obd_image_stats *ret)
{
	struct obd_image *locked = (struct obd_image *)image;
	struct obd_counters sum;

	sum_counters(image, &sum);
	*ret = (struct obd_image_stats){
		.reads = sum.reads,
		.read_bytes = sum.read_bytes,
		.zero_bytes = sum.zero_bytes,
		.errors = sum.errors,
		.inline_reads = sum.inline_reads,
		.disk_reads = sum.disk_reads,
		.disk_bytes = sum.disk_bytes,
		.hits = sum.hits,
		.blocked = sum.blocked,
		.blocks_decoded = sum.blocks_decoded,
		.block_hits = sum.block_hits,
		.slow_reads = sum.slow_reads,
		.writes = sum.writes,
		.write_bytes = sum.write_bytes,
		.discards = sum.discards,
		.flushes = sum.flushes,
		.in_place = sum.in_place,
		.in_place_bytes = sum.in_place_bytes,
		.cache_reads = sum.cache_reads,
		.cache_bytes = sum.cache_bytes,
		.misses = sum.misses,
		.inflight_max = __atomic_load_n(&image->inflight_max, __ATOMIC_RELAXED),
	};
	pthread_mutex_lock(&locked->work.lock);
	ret->threads = image->work.threads;
	pthread_mutex_unlock(&locked->work.lock);
}

void obd_image_info(const struct obd_image *image, struct obd_image_info *ret)
{
	struct obd_image *locked = (struct obd_image *)image;

	pthread_rwlock_rdlock(&locked->change_lock); /* a snapshot changes what layers and index amount to */
	*ret = image->info;
	pthread_rwlock_unlock(&locked->change_lock);
}

uint64_t obd_image_bytes(const struct obd_image *image)
{
	return obd_image_size(image);
}

/* ---- life ---- */

static int take_options(struct obd_image *image, const struct obd_image_options *options, struct obd_error *err)
{
	image->options = *options;
	if (options->engine > OBD_ENGINE_POSIX_AIO)
		return obd_fail(err, EINVAL, "engine: %u is none of 0 (psync), 1 (libaio), 2 (posix aio)",
				options->engine);
	if (options->depth > DEPTH_MAX)
		return obd_fail(err, EINVAL, "depth: %u is above %d", options->depth, DEPTH_MAX);
	if (!image->options.depth)
		image->options.depth = DEPTH;
	if (!image->options.slow_read_us)
		image->options.slow_read_us = SLOW_READ_US;
	image->info.engine = options->engine;
	return 0;
}

int obd_image_merge(struct obd_layer *const *layers, uint32_t count, struct obd_index **ret)
{
	static const struct obd_segments none;
	const struct obd_segments *segments[OBD_LAYERS_MAX] = {&none};

	for (uint32_t i = 0; i < count; i++)
		segments[i] = &layers[i]->lsmt.segments;
	return obd_index_create(segments, count ? count : 1, ret);
}

void obd_image_count(struct obd_image *image)
{
	const struct obd_index *index = image->index;
	uint64_t mapped = 0;

	for (size_t i = 0; i < index->segments.count; i++)
		if (!obd_map_zeroed(index->segments.map[i]))
			mapped += obd_key_length(index->segments.key[i]) << 9;
	image->info.segments = index->segments.count;
	image->info.mapped = mapped;
	image->info.memory = obd_index_memory(index);
}

static int merge_layers(struct obd_image *image, struct obd_layer **layers, uint32_t count, struct obd_error *err)
{
	int r = obd_image_merge(layers, count, &image->index);

	if (r)
		return obd_fail(err, -r, "merging the indexes of %u layers: %s", count, strerror(-r));
	for (uint32_t i = 0; i < count; i++) {
		const struct obd_layer *layer = layers[i];

		if (layer->lsmt.virtual_size)
			image->info.virtual_size = layer->lsmt.virtual_size;
		if (layer->zfile && layer->zfile->block_size > image->block_size_max)
			image->block_size_max = layer->zfile->block_size;
	}
	image->info.layers = count;
	obd_image_count(image);
	return 0;
}

static void upper_readers_gone(void *grace)
{
	obd_grace_wait(grace);
}

/* An upper layer states the disk's size, or takes over that of what is below. */
static int take_upper(struct obd_image *image, struct obd_upper *upper, struct obd_error *err)
{
	if (upper && upper->virtual_size)
		image->info.virtual_size = upper->virtual_size;
	if (!image->info.virtual_size)
		return obd_fail(err, EINVAL, "virtual_size: no layer of the image states one");
	if (upper && upper->lean) {
		image->lean_upper = upper;
		return 0;
	}
	image->upper = upper;
	if (!upper || upper->read_only)
		return 0;
	if (!upper->virtual_size) {
		int r = obd_upper_resize(upper, image->info.virtual_size, err);

		if (r)
			return r;
	}
	upper->readers = &image->grace;
	upper->readers_gone = upper_readers_gone;
	image->writable = true;
	image->info.writable = image->info.discard = 1;
	return 0;
}

/* What a 4 KiB read costs, to the microsecond; measured on one machine, good enough to decide about a wake-up. */
static unsigned small_cost(struct obd_layer **layers, uint32_t count)
{
	unsigned cost = 1;

	for (uint32_t i = 0; i < count; i++) {
		const struct obd_zfile *zfile = layers[i]->zfile;
		unsigned here = 1;

		if (zfile && zfile->algo == OBD_LZ4)
			here = 1 + zfile->block_size / 8192;
		else if (zfile)
			here = 3 + zfile->block_size / 1024;
		if (here > cost)
			cost = here;
	}
	return cost;
}

static int start_engine(struct obd_image *image, struct obd_layer **layers, uint32_t count, struct obd_error *err)
{
	static const struct obd_engine_ops *const engines[] = {NULL, &obd_engine_libaio, &obd_engine_posix};
	const struct obd_engine_ops *engine = engines[image->options.engine];
	char text[512];
	int r;

	/* engines plan reads and come back later: what is written meanwhile must not be missed */
	if (image->upper || image->lean_upper)
		engine = NULL;
	/* what is fetched as it is read comes from the page cache, where it was just put */
	for (uint32_t i = 0; engine && i < count; i++)
		if (layers[i]->blob->cache)
			engine = NULL;
	for (uint32_t i = 0; engine && engine->direct && i < count; i++) {
		if (layers[i]->blob->direct_fd >= 0)
			continue;
		/* libaio without O_DIRECT blocks in io_submit: worse than not using it */
		snprintf(text, sizeof(text), "%s has no O_DIRECT: ioEngine %u falls back to psync",
			 layers[i]->blob->path, image->options.engine);
		obd_image_report(image, OBD_EVENT_DEVICE, 0, text);
		engine = NULL;
	}
	if (!engine) {
		image->info.engine = OBD_ENGINE_PSYNC;
		return 0;
	}
	image->engine = engine;
	if (obd_slots_init(image))
		return obd_fail(err, ENOMEM, "no memory for %u read slots", image->options.depth);
	r = engine->create(image, &image->engine_state, err);
	if (r)
		image->engine_state = NULL;
	return r;
}

static void init_change_locks(struct obd_image *image)
{
	pthread_rwlockattr_t attr;

	/* a snapshot or a partial block comes between whole ones, however many of these there are */
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_mutex_init(&image->grace.wait_lock, NULL);
	pthread_rwlock_init(&image->change_lock, &attr);
	pthread_rwlock_init(&image->fill_lock, &attr);
	pthread_rwlockattr_destroy(&attr);
}

int obd_image_create(struct obd_layer **layers, uint32_t count, struct obd_upper *upper,
		     const struct obd_image_options *options, struct obd_events *events, const char *name,
		     struct obd_image **ret, struct obd_error *err)
{
	struct obd_image *image;
	int r;

	if (count > OBD_LAYERS_MAX || (!count && !upper))
		return obd_fail(err, EINVAL, "layers: %u given, an image has 1 to %d", count, OBD_LAYERS_MAX);
	image = calloc(1, sizeof(*image));
	if (!image)
		return obd_fail(err, ENOMEM, "no memory for an image");
	pthread_mutex_init(&image->workers_lock, NULL);
	init_change_locks(image);
	obd_work_init(image);
	image->events = events;
	image->name = strdup(name ? name : "");
	if (!image->name)
		r = obd_fail(err, ENOMEM, "no memory for an image");
	else
		r = take_options(image, options, err);
	if (!r)
		r = obd_rest_init(image, err);
	if (!r)
		r = merge_layers(image, layers, count, err);
	if (!r)
		r = take_upper(image, upper, err);
	if (!r) {
		image->small_cost_us = small_cost(layers, count);
		r = start_engine(image, layers, count, err);
	}
	if (!r) {
		image->layers = calloc(OBD_LAYERS_MAX + 1, sizeof(*image->layers));
		if (!image->layers)
			r = obd_fail(err, ENOMEM, "no memory for an image");
	}
	if (!r) {
		memcpy(image->layers, layers, count * sizeof(*image->layers));
		r = obd_image_strips(image, err);
	}
	if (r) {
		free(image->layers);
		image->layers = NULL;
		if (image->upper)
			image->upper->readers_gone = NULL;
		image->upper = image->lean_upper = NULL; /* stays the caller's */
		obd_image_destroy(image);
		return r;
	}
	obd_rest_map(image);
	*ret = image;
	return 0;
}

void obd_image_destroy(struct obd_image *image)
{
	struct obd_error error;

	if (!image)
		return;
	if (image->engine_state)
		image->engine->destroy(image->engine_state);
	obd_work_deinit(image);
	while (image->lent) {
		struct obd_worker *worker = image->lent;

		image->lent = worker->idle;
		obd_worker_destroy(worker);
	}
	obd_slots_deinit(image);
	if (obd_upper_close(image->upper, &error))
		obd_image_report(image, OBD_EVENT_WRITE_ERROR, error.code, error.text);
	obd_index_destroy(image->index);
	obd_stack_destroy(image->stack);
	obd_task_destroy(image->strips);
	for (uint32_t i = 0; image->layers && i < image->info.layers; i++)
		if (!image->lean_upper || image->layers[i] != &image->lean_upper->layer)
			obd_layer_close(image->layers[i]);
	obd_upper_close(image->lean_upper, NULL);
	pthread_mutex_destroy(&image->workers_lock);
	pthread_mutex_destroy(&image->grace.wait_lock);
	pthread_rwlock_destroy(&image->change_lock);
	pthread_rwlock_destroy(&image->fill_lock);
	free(image->layers);
	free(image->name);
	free(image);
}

/* ---- the simplest front end: one blocking request ---- */

struct waiter {
	struct obd_request request;
	pthread_mutex_t lock;
	pthread_cond_t over;
	bool done;
};

static void waiter_done(struct obd_request *request)
{
	struct waiter *waiter = (struct waiter *)request;

	pthread_mutex_lock(&waiter->lock);
	waiter->done = true;
	pthread_cond_signal(&waiter->over);
	pthread_mutex_unlock(&waiter->lock);
}

static int64_t run(struct obd_image *image, enum obd_op op, void *buf, uint64_t count, uint64_t offset)
{
	struct iovec iov = {buf, (size_t)count};
	struct waiter waiter = {
		.request =
			{.op = op, .offset = offset, .count = count, .iov = &iov, .iov_count = 1, .done = waiter_done},
		.lock = PTHREAD_MUTEX_INITIALIZER,
		.over = PTHREAD_COND_INITIALIZER,
	};
	struct obd_request *batch = &waiter.request;
	const uint64_t size = obd_image_size(image);
	struct obd_worker *worker;

	if (offset > size || count > size - offset || count > INT64_MAX)
		return -EINVAL;
	if (!count && op != OBD_FLUSH)
		return 0;
	worker = obd_image_lend(image);
	if (!worker)
		return -ENOMEM;
	obd_image_submit(image, worker, &batch, 1);
	while (obd_image_work(image, worker))
		;
	obd_image_return(worker);
	pthread_mutex_lock(&waiter.lock);
	while (!waiter.done)
		pthread_cond_wait(&waiter.over, &waiter.lock);
	pthread_mutex_unlock(&waiter.lock);
	pthread_cond_destroy(&waiter.over);
	pthread_mutex_destroy(&waiter.lock);
	return waiter.request.result ? waiter.request.result : (int64_t)count;
}

int64_t obd_image_pread(struct obd_image *image, void *buf, size_t count, uint64_t offset)
{
	return run(image, OBD_READ, buf, count, offset);
}

int64_t obd_image_pwrite(struct obd_image *image, const void *buf, size_t count, uint64_t offset)
{
	return run(image, OBD_WRITE, (void *)(uintptr_t)buf, count, offset);
}

int obd_image_discard(struct obd_image *image, uint64_t offset, uint64_t count)
{
	int64_t r = run(image, OBD_DISCARD, NULL, count, offset);

	return r < 0 ? (int)r : 0;
}

int obd_image_flush(struct obd_image *image)
{
	return (int)run(image, OBD_FLUSH, NULL, 0, 0);
}

/* Neighbours are one range for whoever copies. */
static int next_data(const struct obd_image *image, uint64_t sector, uint64_t end, uint64_t *start, uint64_t *stop)
{
	uint64_t at, more = 0;

	*start = obd_change_next_data(image, sector, end, stop);
	if (*start >= end)
		return 0;
	while (*stop < end) {
		at = obd_change_next_data(image, *stop, end, &more);
		if (at != *stop)
			break;
		*stop = more;
	}
	return 1;
}

int obd_image_next_data(const struct obd_image *image, uint64_t offset, uint64_t *start, uint64_t *end)
{
	const uint64_t size = obd_image_size(image);
	struct obd_grace *grace = (struct obd_grace *)&image->grace;
	unsigned side;
	int found;

	if (offset >= size)
		return 0;
	side = obd_grace_enter(grace);
	found = next_data(image, offset >> 9, size >> 9, start, end);
	obd_grace_leave(grace, side);
	*start <<= 9;
	*end <<= 9;
	if (*start < offset)
		*start = offset;
	return found;
}
