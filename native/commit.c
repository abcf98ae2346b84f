/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing committed layers. Everything but the data is known before the first byte is written, so the layer is a stream
 * that can be read anywhere (lsmt.c has its layout), and whoever stores it may read it with several threads. Which
 * layer has which part of the data is found out in the stream's order, once more (stack.h), a job at a time.
 *
 * What is written equals upstream's byte for byte: data in the order of the disk, without gaps; a segment is cut into
 * steps of 64 sectors, and a step joins the entry before it while they continue each other and stay below 16383
 * sectors; the index is padded to 4 KiB.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "compress.h"
#include "error.h"
#include "lsmt_record.h"
#include "pages.h"
#include "pipeline.h"
#include "stack.h"
#include "unwrap.h"

enum {
	STEP = 64,	    /**< sectors upstream copies at once */
	JOINED_MAX = 16382, /**< sectors of an entry that steps were joined to */
	PADDED = 256,	    /**< entries in 4 KiB of index */
	LAYERS_MAX = 255,
	ROOM = 512, /**< entries there is room for at first */
	RUNS = OBD_SOURCE_MAX / OBD_SECTOR,
};

struct commit {
	struct obd_task *task;
	struct obd_layer *layers[LAYERS_MAX]; /**< the lowest first; the last one may be an upper's data file */
	unsigned count, read_only;
	struct obd_stack *stack; /**< gone through twice: for the index, and when the data is written */

	struct obd_segments entries;
	size_t room;
	uint64_t data_end; /**< sectors of the stream */
	uint64_t size;	   /**< bytes of the stream */
	uint8_t header[OBD_LSMT_RECORD], trailer[OBD_LSMT_RECORD];
	uint64_t key, map; /**< what is left of the segment whose data is to be written next */
	struct obd_unwrap *unwraps[OBD_PIPELINE_THREADS];
};

/** Data of the stream that lies in one piece in its layer. */
struct run {
	uint64_t map;
	uint64_t sectors;
};

/** Where the data of one range of the stream comes from; a run has a sector at least. */
struct plan {
	unsigned count;
	struct run runs[RUNS];
};

static int take_layers(struct commit *commit, struct obd_layer **layers, uint32_t count, struct obd_upper *upper,
		       struct obd_error *err)
{
	if (count > LAYERS_MAX - (upper != NULL) || count + (upper != NULL) < 1)
		return obd_fail(err, EINVAL, "layers: %u given, an image has 1 to %d", count + (upper != NULL),
				LAYERS_MAX);
	for (uint32_t i = 0; i < count; i++)
		commit->layers[commit->count++] = layers[i];
	commit->read_only = count;
	if (upper)
		commit->layers[commit->count++] = &upper->layer;
	return obd_stack_create(commit->layers, commit->count, upper, commit->task, &commit->stack, err);
}

/* ---- what will be written ---- */

/** Upstream numbers the layers it reads from, the topmost first and a writable one last, and leaves that in the index.
 */
static uint64_t tag_of(const struct commit *commit, uint64_t map)
{
	const unsigned layer = obd_map_layer(map), read_only = commit->read_only;

	return (uint64_t)(layer < read_only ? read_only - 1 - layer : read_only) << OBD_LAYER_SHIFT;
}

static int entries_grow(struct commit *commit)
{
	const size_t more = commit->room ? 2 * commit->room : ROOM;
	uint64_t *key = realloc(commit->entries.key, more * sizeof(*key)), *map;

	if (!key)
		return -ENOMEM;
	commit->entries.key = key;
	map = realloc(commit->entries.map, more * sizeof(*map));
	if (!map)
		return -ENOMEM;
	commit->entries.map = map;
	commit->room = more;
	return 0;
}

/** An entry that continues the last one becomes part of it. */
static int add_entry(struct commit *commit, uint64_t sector, uint64_t length, uint64_t map)
{
	struct obd_segments *entries = &commit->entries;
	const uint64_t kind = OBD_ZEROED | UINT64_MAX << OBD_LAYER_SHIFT;

	if (entries->count) {
		const uint64_t key = entries->key[entries->count - 1], before = entries->map[entries->count - 1];
		const uint64_t end = obd_map_msector(before) + (obd_map_zeroed(before) ? 0 : obd_key_length(key));

		if (obd_key_end(key) == sector && end == obd_map_msector(map) && !((before ^ map) & kind) &&
		    obd_key_length(key) + length <= JOINED_MAX) {
			entries->key[entries->count - 1] = key + length;
			return 0;
		}
	}
	if (entries->count == OBD_LSMT_ENTRIES_MAX / PADDED * PADDED)
		return -EFBIG;
	if (entries->count == commit->room && entries_grow(commit))
		return -ENOMEM;
	entries->key[entries->count] = obd_key(sector, length);
	entries->map[entries->count++] = map;
	return 0;
}

static int add_segment(struct commit *commit, uint64_t key, uint64_t map)
{
	const uint64_t tag = tag_of(commit, map) | (map & OBD_ZEROED);
	const uint64_t sector = obd_key_sector(key), length = obd_key_length(key);
	int r = 0;

	if (obd_map_zeroed(map))
		return add_entry(commit, sector, length, commit->data_end | tag);
	for (uint64_t at = 0; at < length && !r; at += STEP) {
		const uint64_t step = length - at < STEP ? length - at : STEP;

		r = add_entry(commit, sector + at, step, commit->data_end | tag);
		commit->data_end += step;
	}
	return r;
}

static int plan_index(struct commit *commit, struct obd_error *err)
{
	uint64_t key, map;
	int r = 0;

	commit->data_end = OBD_LSMT_DATA_SECTOR;
	while (!r) {
		r = obd_stack_next(commit->stack, &key, &map, err);
		if (r <= 0)
			return r;
		r = add_segment(commit, key, map);
	}
	if (r == -EFBIG)
		return obd_fail(err, EFBIG, "the layer would have more than %d segments, which nobody could read back",
				OBD_LSMT_ENTRIES_MAX / PADDED * PADDED);
	return obd_fail(err, -r, "no memory for the index of the layer");
}

static uint64_t index_entries(const struct commit *commit)
{
	return (commit->entries.count + PADDED - 1) / PADDED * PADDED;
}

static void plan_records(struct commit *commit, const struct obd_commit_options *options, struct obd_upper *upper)
{
	const struct obd_lsmt *lowest = &commit->layers[0]->lsmt;
	const char *parent = commit->count == 1 && upper ? upper->parent_uuid : lowest->parent_uuid;
	struct obd_lsmt_record record = {
		.flags = OBD_LSMT_HEADER | OBD_LSMT_DATA | OBD_LSMT_SEALED,
		.uuid = options->uuid,
		.parent_uuid = options->parent_uuid ? options->parent_uuid : parent,
		.message = options->message,
		.message_count = options->message_size,
	};

	for (unsigned i = 0; i < commit->count; i++)
		if (commit->layers[i]->lsmt.virtual_size)
			record.virtual_size = commit->layers[i]->lsmt.virtual_size;
	if (upper && upper->virtual_size)
		record.virtual_size = upper->virtual_size;
	obd_lsmt_record_fill(commit->header, &record);
	record.flags = OBD_LSMT_DATA | OBD_LSMT_SEALED;
	record.index_offset = commit->data_end * OBD_SECTOR;
	record.index_size = index_entries(commit);
	obd_lsmt_record_fill(commit->trailer, &record);
	commit->size = record.index_offset + record.index_size * OBD_LSMT_ENTRY + OBD_LSMT_RECORD;
}

/* ---- the stream ---- */

/** Has commit->key and map be data, perhaps the rest of what they were. */
static int next_data(struct commit *commit, struct obd_error *err)
{
	while (!obd_key_length(commit->key) || obd_map_zeroed(commit->map)) {
		int r = obd_stack_next(commit->stack, &commit->key, &commit->map, err);

		if (r < 0)
			return r;
		if (!r)
			return obd_fail(err, EIO, "%s: has changed while it was read",
					commit->layers[commit->count - 1]->blob->path);
	}
	return 0;
}

static void plan_run(struct plan *plan, uint64_t map, uint64_t sectors)
{
	if (plan->count && plan->runs[plan->count - 1].map + plan->runs[plan->count - 1].sectors == map)
		plan->runs[plan->count - 1].sectors += sectors;
	else
		plan->runs[plan->count++] = (struct run){map, sectors};
}

/** obd_source's plan; offsets and counts are multiples of a sector, for all parts of the stream are. */
static int plan_range(void *opaque, void *into, size_t count, uint64_t offset, struct obd_error *err)
{
	struct commit *commit = opaque;
	struct plan *plan = into;
	const uint64_t begin = offset < OBD_LSMT_RECORD ? OBD_LSMT_RECORD : offset;
	const uint64_t data_end = commit->data_end * OBD_SECTOR;
	const uint64_t end = offset + count < data_end ? offset + count : data_end;
	uint64_t left = end > begin ? (end - begin) / OBD_SECTOR : 0;

	plan->count = 0;
	while (left) {
		int r = next_data(commit, err);
		uint64_t sectors;

		if (r)
			return r;
		sectors = obd_key_length(commit->key) < left ? obd_key_length(commit->key) : left;
		plan_run(plan, commit->map, sectors);
		commit->key -= sectors;
		commit->map += sectors;
		left -= sectors;
	}
	return 0;
}

/** count bytes that begin done bytes into the plan's data. */
static int read_data(struct commit *commit, unsigned thread, const struct plan *plan, uint8_t *to, uint64_t done,
		     uint64_t count, struct obd_error *err)
{
	for (unsigned i = 0; i < plan->count && count; i++) {
		const struct run *run = &plan->runs[i];
		const uint64_t bytes = run->sectors * OBD_SECTOR;
		const uint64_t part = bytes - done < count ? bytes - done : count;
		int r;

		if (done >= bytes) {
			done -= bytes;
			continue;
		}
		r = obd_unwrap_await(commit->unwraps[thread], commit->layers[obd_map_layer(run->map)], to, part,
				     obd_map_msector(run->map) * OBD_SECTOR + done, commit->task, err);
		if (r)
			return r;
		done = 0;
		to += part;
		count -= part;
	}
	return 0;
}

static void read_index(const struct commit *commit, uint8_t *to, uint64_t first, uint64_t count)
{
	const struct obd_segments *entries = &commit->entries;

	for (uint64_t i = first; i < first + count; i++, to += OBD_LSMT_ENTRY) {
		if (i >= entries->count) {
			obd_lsmt_entry_fill(to, OBD_LSMT_PADDING, 0, 0);
			continue;
		}
		obd_lsmt_entry_fill(to, obd_key_sector(entries->key[i]), obd_key_length(entries->key[i]),
				    entries->map[i]);
		to[OBD_LSMT_ENTRY - 1] = (uint8_t)obd_map_layer(entries->map[i]);
	}
}

/** obd_source's read. */
static int64_t read_stream(void *opaque, unsigned thread, const void *plan, void *buf, size_t count, uint64_t offset,
			   struct obd_error *err)
{
	struct commit *commit = opaque;
	const uint64_t index = commit->data_end * OBD_SECTOR, trailer = commit->size - OBD_LSMT_RECORD;
	const uint64_t data = offset < OBD_LSMT_RECORD ? OBD_LSMT_RECORD : offset;
	uint64_t part;

	for (size_t done = 0; done < count; done += part, offset += part) {
		uint8_t *to = (uint8_t *)buf + done;
		const uint64_t end = offset < OBD_LSMT_RECORD ? OBD_LSMT_RECORD
				     : offset < index	      ? index
				     : offset < trailer	      ? trailer
							      : commit->size;
		int r = 0;

		part = end - offset < count - done ? end - offset : count - done;
		if (offset < OBD_LSMT_RECORD)
			memcpy(to, commit->header + offset, (size_t)part);
		else if (offset < index)
			r = read_data(commit, thread, plan, to, offset - data, part, err);
		else if (offset < trailer)
			read_index(commit, to, (offset - index) / OBD_LSMT_ENTRY, part / OBD_LSMT_ENTRY);
		else
			memcpy(to, commit->trailer + (offset - trailer), (size_t)part);
		if (r)
			return r;
	}
	return (int64_t)count;
}

/** obd_source's look: the range is data, and one run of it in a layer that is stored as it is. */
static const uint8_t *look_at(void *opaque, const void *planned, size_t count, uint64_t offset, struct obd_pages **ret)
{
	const struct commit *commit = opaque;
	const struct plan *plan = planned;
	const struct obd_layer *layer;
	uint64_t at;

	if (offset < OBD_LSMT_RECORD || plan->count != 1 || plan->runs[0].sectors * OBD_SECTOR != count)
		return NULL;
	layer = commit->layers[obd_map_layer(plan->runs[0].map)];
	at = layer->base + obd_map_msector(plan->runs[0].map) * OBD_SECTOR;
	if (layer->zfile || !layer->blob->pages || at + count > layer->blob->pages->size)
		return NULL;
	if (!obd_pages_ask(layer->blob->pages, at, count))
		return NULL;
	*ret = layer->blob->pages;
	return layer->blob->pages->bytes + at;
}

static void forget_all(void *opaque)
{
	const struct commit *commit = opaque;

	for (unsigned i = 0; i < commit->count; i++)
		if (commit->layers[i]->blob->pages)
			obd_pages_forget(commit->layers[i]->blob->pages);
}

/* ---- all of it ---- */

static int start_reading(struct commit *commit, unsigned threads, struct obd_error *err)
{
	for (unsigned i = 0; i < threads; i++)
		if (obd_unwrap_create(&commit->unwraps[i]))
			return obd_fail(err, ENOMEM, "no memory to read with %u threads", threads);
	for (unsigned i = 0; i < commit->count; i++) {
		const struct obd_layer *layer = commit->layers[i];

		posix_fadvise(layer->blob->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
		// One that cannot be mapped is read by system calls.
		if (!layer->zfile && !layer->blob->cache && !layer->blob->pages)
			obd_pages_create(layer->blob->fd, layer->blob->size, &layer->blob->pages);
	}
	return 0;
}

static void commit_destroy(struct commit *commit)
{
	for (unsigned i = 0; i < OBD_PIPELINE_THREADS; i++)
		obd_unwrap_destroy(commit->unwraps[i]);
	obd_segments_deinit(&commit->entries);
	obd_stack_destroy(commit->stack);
	free(commit);
}

static int check_options(const struct obd_commit_options *options, struct obd_error *err)
{
	const char *const texts[] = {options->uuid, options->parent_uuid};

	for (unsigned i = 0; i < 2; i++)
		if (texts[i] && strlen(texts[i]) != OBD_UUID_LENGTH)
			return obd_fail(err, EINVAL, "%s: '%s' is not one", i ? "parent_uuid" : "uuid", texts[i]);
	if (options->message_size > OBD_LSMT_MESSAGE)
		return obd_fail(err, ENOBUFS, "commit message: %u bytes, at most %d", options->message_size,
				OBD_LSMT_MESSAGE);
	return 0;
}

int obd_commit(struct obd_layer **layers, uint32_t count, struct obd_upper *upper,
	       const struct obd_commit_options *options, const struct obd_output_options *output, struct obd_task *task,
	       struct obd_error *err)
{
	struct obd_output_options settled = *output;
	struct commit *commit = calloc(1, sizeof(*commit));
	struct obd_source source = {
		.plan = plan_range,
		.plan_size = sizeof(struct plan),
		.read = read_stream,
		.look = look_at,
		.forget = forget_all,
		.opaque = commit,
	};
	int r = check_options(options, err);

	if (!commit)
		return obd_fail(err, ENOMEM, "no memory to commit");
	commit->task = task;
	settled.threads = obd_pipeline_threads(output->threads);
	if (!r)
		r = take_layers(commit, layers, count, upper, err);
	if (!r)
		r = plan_index(commit, err);
	if (!r)
		r = start_reading(commit, settled.threads, err);
	if (!r) {
		plan_records(commit, options, upper);
		obd_stack_rewind(commit->stack);
		source.size = commit->size;
		r = obd_store_file(&source, &settled, task, err);
	}
	commit_destroy(commit);
	return r;
}
