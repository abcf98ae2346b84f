/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing committed layers. Everything but the data is known before the first byte is written, so the layer is a stream
 * that can be read anywhere (lsmt.c has its layout), and whoever stores it may read it with several threads.
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
#include "unwrap.h"
#include "upper.h"

enum {
	STEP = 64,	    /**< sectors upstream copies at once */
	JOINED_MAX = 16382, /**< sectors of an entry that steps were joined to */
	PADDED = 256,	    /**< entries in 4 KiB of index */
	SAMPLE = 64,	    /**< segments from one remembered place to the next */
	FOUND = 512,	    /**< segments taken from a writable layer at once */
	LAYERS_MAX = 255,
	MOMENT_MS = 500,
	FETCH_MOMENTS = 120, /**< a minute without any of what is wanted, and it has failed */
};

struct commit {
	struct obd_task *task;
	struct obd_layer *layers[LAYERS_MAX]; /**< the lowest first; the last one may be an upper's data file */
	unsigned count;
	struct obd_segments upper; /**< what a writable layer has */
	struct obd_index *index;   /**< of several layers */
	const struct obd_segments *segments;
	uint64_t *places; /**< sector of the stream where every SAMPLE-th segment's data begins */

	struct obd_segments entries;
	size_t room;
	uint64_t data_end; /**< sectors of the stream */
	uint64_t size;	   /**< bytes of the stream */
	uint8_t header[OBD_LSMT_RECORD], trailer[OBD_LSMT_RECORD];
	struct obd_unwrap *unwraps[OBD_PIPELINE_THREADS];
};

/* ---- what there is ---- */

static int segments_grow(struct obd_segments *segments, size_t *room)
{
	const size_t more = *room ? 2 * *room : FOUND;
	uint64_t *key = realloc(segments->key, more * sizeof(*key)), *map;

	if (!key)
		return -ENOMEM;
	segments->key = key;
	map = realloc(segments->map, more * sizeof(*map));
	if (!map)
		return -ENOMEM;
	segments->map = map;
	*room = more;
	return 0;
}

/** Copies what upper has: nobody changes it, but its segments are not one array. */
static int take_upper(struct commit *commit, struct obd_upper *upper)
{
	struct obd_segments *to = &commit->upper;
	uint64_t sector = 0;
	size_t room = 0;
	unsigned found;

	do {
		if (to->count + FOUND > room && segments_grow(to, &room))
			return -ENOMEM;
		found = obd_upper_find(upper, sector, OBD_LSMT_SECTORS_MAX, to->key + to->count, to->map + to->count,
				       FOUND);
		to->count += found;
		if (found)
			sector = obd_key_end(to->key[to->count - 1]);
	} while (found);
	return 0;
}

static const struct obd_segments *segments_of(const struct commit *commit, unsigned layer)
{
	return commit->upper.key && layer == commit->count - 1 ? &commit->upper : &commit->layers[layer]->lsmt.segments;
}

static int take_layers(struct commit *commit, struct obd_layer **layers, uint32_t count, struct obd_upper *upper,
		       struct obd_error *err)
{
	const struct obd_segments *segments[LAYERS_MAX];
	int r;

	if (count > LAYERS_MAX - (upper != NULL) || count + (upper != NULL) < 1)
		return obd_fail(err, EINVAL, "layers: %u given, an image has 1 to %d", count + (upper != NULL),
				LAYERS_MAX);
	for (uint32_t i = 0; i < count; i++)
		commit->layers[commit->count++] = layers[i];
	if (upper) {
		commit->layers[commit->count++] = &upper->layer;
		if (take_upper(commit, upper))
			return obd_fail(err, ENOMEM, "%s: no memory for its segments", upper->layer.blob->path);
	}
	for (unsigned i = 0; i < commit->count; i++)
		segments[i] = segments_of(commit, i);
	commit->segments = segments[0];
	if (commit->count == 1)
		return 0;
	r = obd_index_create(segments, commit->count, &commit->index);
	if (r)
		return obd_fail(err, -r, "merging the indexes of %u layers: %s", commit->count, strerror(-r));
	commit->segments = &commit->index->segments;
	return 0;
}

/* ---- what will be written ---- */

/** Upstream numbers the layers it reads from, the topmost first and a writable one last, and leaves that in the index.
 */
static uint64_t tag_of(const struct commit *commit, uint64_t map)
{
	const unsigned layer = obd_map_layer(map), read_only = commit->count - (commit->upper.key != NULL);

	return (uint64_t)(layer < read_only ? read_only - 1 - layer : read_only) << OBD_LAYER_SHIFT;
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
	if (entries->count == commit->room && segments_grow(entries, &commit->room))
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

static int plan_data(struct commit *commit, struct obd_error *err)
{
	const struct obd_segments *segments = commit->segments;
	int r = 0;

	commit->places = malloc((segments->count / SAMPLE + 1) * sizeof(*commit->places));
	if (!commit->places)
		r = -ENOMEM;
	commit->data_end = OBD_LSMT_DATA_SECTOR;
	for (size_t i = 0; i < segments->count && !r; i++) {
		if (i % SAMPLE == 0)
			commit->places[i / SAMPLE] = commit->data_end;
		r = add_segment(commit, segments->key[i], segments->map[i]);
	}
	if (r == -EFBIG)
		return obd_fail(err, EFBIG, "the layer would have more than %d segments, which nobody could read back",
				OBD_LSMT_ENTRIES_MAX / PADDED * PADDED);
	return r ? obd_fail(err, -r, "no memory for the index of the layer") : 0;
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

/** The segment that has the data at place, and where in it place lies. */
static size_t find_segment(const struct commit *commit, uint64_t place, uint64_t *in)
{
	const struct obd_segments *segments = commit->segments;
	size_t low = 0, high = (segments->count + SAMPLE - 1) / SAMPLE, i;

	while (high - low > 1) {
		const size_t middle = low + (high - low) / 2;

		if (commit->places[middle] <= place)
			low = middle;
		else
			high = middle;
	}
	*in = place - commit->places[low];
	for (i = low * SAMPLE; obd_map_zeroed(segments->map[i]) || *in >= obd_key_length(segments->key[i]); i++)
		if (!obd_map_zeroed(segments->map[i]))
			*in -= obd_key_length(segments->key[i]);
	return i;
}

/** Sectors of data from segment i on that lie one after the other in its layer as well, at most count. */
static uint64_t measure_run(const struct commit *commit, size_t *i, uint64_t in, uint64_t count)
{
	const struct obd_segments *segments = commit->segments;
	const uint64_t layer = obd_map_layer(segments->map[*i]);
	const uint64_t begin = obd_map_msector(segments->map[*i]) + in;
	uint64_t run = obd_key_length(segments->key[*i]) - in;

	for ((*i)++; *i < segments->count && run < count; (*i)++) {
		const uint64_t map = segments->map[*i];

		if (obd_map_zeroed(map))
			continue;
		if (obd_map_layer(map) != layer || obd_map_msector(map) != begin + run)
			break;
		run += obd_key_length(segments->key[*i]);
	}
	return run < count ? run : count;
}

/** A layer that is fetched as it is read is waited for, a moment at a time, so that the task can be stopped. */
static int read_layer(struct commit *commit, unsigned thread, struct obd_layer *layer, uint8_t *to, uint64_t count,
		      uint64_t offset, struct obd_error *err)
{
	int r = 0;

	for (unsigned moment = 0; moment < FETCH_MOMENTS; moment++) {
		obd_blob_wait(layer->blob, MOMENT_MS);
		r = obd_unwrap_pread(commit->unwraps[thread], layer, to, count, offset, err);
		if (r != -ETIMEDOUT || !layer->blob->cache || obd_task_stopped(commit->task))
			break;
	}
	return r;
}

/** sectors from place on, all of them data. */
static int read_data(struct commit *commit, unsigned thread, uint8_t *to, uint64_t place, uint64_t sectors,
		     struct obd_error *err)
{
	uint64_t in;
	size_t i = find_segment(commit, place, &in);

	while (sectors) {
		const uint64_t map = commit->segments->map[i];
		const uint64_t run = measure_run(commit, &i, in, sectors);
		int r = read_layer(commit, thread, commit->layers[obd_map_layer(map)], to, run * OBD_SECTOR,
				   (obd_map_msector(map) + in) * OBD_SECTOR, err);

		if (r)
			return r;
		in = 0;
		to += run * OBD_SECTOR;
		sectors -= run;
		while (sectors && obd_map_zeroed(commit->segments->map[i]))
			i++;
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

/** obd_source's read; offsets and counts are multiples of a sector, for all parts of the stream are. */
static int64_t read_stream(void *opaque, unsigned thread, void *buf, size_t count, uint64_t offset,
			   struct obd_error *err)
{
	struct commit *commit = opaque;
	const uint64_t index = commit->data_end * OBD_SECTOR, trailer = commit->size - OBD_LSMT_RECORD;
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
			r = read_data(commit, thread, to, offset / OBD_SECTOR, part / OBD_SECTOR, err);
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
static const uint8_t *look_at(void *opaque, size_t count, uint64_t offset, struct obd_pages **ret)
{
	const struct commit *commit = opaque;
	const struct obd_layer *layer;
	uint64_t in, at;
	size_t i;

	if (offset < OBD_LSMT_RECORD || offset + count > commit->data_end * OBD_SECTOR)
		return NULL;
	i = find_segment(commit, offset / OBD_SECTOR, &in);
	layer = commit->layers[obd_map_layer(commit->segments->map[i])];
	at = layer->base + (obd_map_msector(commit->segments->map[i]) + in) * OBD_SECTOR;
	if (layer->zfile || !layer->blob->pages || at + count > layer->blob->pages->size ||
	    measure_run(commit, &i, in, count / OBD_SECTOR) < count / OBD_SECTOR)
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
	obd_segments_deinit(&commit->upper);
	obd_segments_deinit(&commit->entries);
	obd_index_destroy(commit->index);
	free(commit->places);
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
	struct obd_source source = {.read = read_stream, .look = look_at, .forget = forget_all, .opaque = commit};
	int r = check_options(options, err);

	if (!commit)
		return obd_fail(err, ENOMEM, "no memory to commit");
	commit->task = task;
	settled.threads = obd_pipeline_threads(output->threads);
	if (!r)
		r = take_layers(commit, layers, count, upper, err);
	if (!r)
		r = plan_data(commit, err);
	if (!r)
		r = start_reading(commit, settled.threads, err);
	if (!r) {
		plan_records(commit, options, upper);
		source.size = commit->size;
		r = obd_store_file(&source, &settled, task, err);
	}
	commit_destroy(commit);
	return r;
}
