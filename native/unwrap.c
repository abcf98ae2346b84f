/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading the stream in a layer's wrappers. Stored blocks are read many at a time; whole ones are decoded into the
 * caller's buffer, one that is wanted in part is kept, because what comes next is often its other part.
 */
#include "unwrap.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"

enum {
	BLOCK_MAX = 65536,
	STORED = 256 * 1024, /**< read at once; the longest stored block fits, whatever it says of itself */
	STRIDES = 8,	     /**< of lean ZFiles' indexes kept; what merges layers goes to and fro between them */
	MOMENT_MS = 500,
	FETCH_MOMENTS = 120, /**< a minute without any of what is wanted, and it has failed */
};

struct stride {
	const struct obd_layer *layer; /**< NULL: none */
	uint64_t number;
	uint32_t *offsets;
};

struct obd_unwrap {
	struct obd_codec *codec;
	uint8_t *stored;
	uint8_t *kept; /**< block of this layer, decoded */
	const struct obd_layer *layer;
	uint64_t block;
	struct stride strides[STRIDES];
	unsigned oldest; /**< of them */
};

int obd_unwrap_create(struct obd_unwrap **ret)
{
	struct obd_unwrap *unwrap = calloc(1, sizeof(*unwrap));

	if (!unwrap)
		return -ENOMEM;
	unwrap->stored = malloc(STORED);
	unwrap->kept = malloc(BLOCK_MAX);
	if (unwrap->stored && unwrap->kept && !obd_codec_create(&unwrap->codec)) {
		*ret = unwrap;
		return 0;
	}
	obd_unwrap_destroy(unwrap);
	return -ENOMEM;
}

void obd_unwrap_destroy(struct obd_unwrap *unwrap)
{
	if (!unwrap)
		return;
	obd_codec_destroy(unwrap->codec);
	free(unwrap->stored);
	free(unwrap->kept);
	for (unsigned i = 0; i < STRIDES; i++)
		free(unwrap->strides[i].offsets);
	free(unwrap);
}

uint64_t obd_unwrap_size(const struct obd_layer *layer)
{
	return layer->zfile ? layer->zfile->original_size : layer->stored_size;
}

static int read_stored(const struct obd_layer *layer, void *buf, size_t count, uint64_t offset, struct obd_error *err)
{
	int r = obd_blob_pread(layer->blob, buf, count, layer->base + offset);

	return r ? obd_fail(err, -r, "%s: reading %zu bytes at offset %llu: %s", layer->blob->path, count,
			    (unsigned long long)(layer->base + offset), strerror(-r))
		 : 0;
}

/* ---- where blocks are ---- */

static int read_stride(struct stride *stride, const struct obd_layer *layer, uint64_t number, struct obd_error *err)
{
	int r;

	stride->layer = NULL;
	if (!stride->offsets)
		stride->offsets = malloc((OBD_ZFILE_STRIDE + 1) * sizeof(*stride->offsets));
	if (!stride->offsets)
		return obd_fail(err, ENOMEM, "%s: no memory for its index", layer->blob->path);
	r = obd_zfile_read_stride(layer->zfile, layer->blob, layer->base, number, stride->offsets);
	if (r)
		return obd_fail(err, -r, "%s: reading the ZFile index of block %llu again: %s", layer->blob->path,
				(unsigned long long)(number * OBD_ZFILE_STRIDE), strerror(-r));
	stride->layer = layer;
	stride->number = number;
	return 0;
}

/** obd_zfile_at of any ZFile. */
static int stored_at(struct obd_unwrap *unwrap, const struct obd_layer *layer, uint64_t block, uint64_t *at,
		     struct obd_error *err)
{
	const struct obd_zfile *zfile = layer->zfile;
	const uint64_t number = block / OBD_ZFILE_STRIDE;
	unsigned i = 0;

	if (zfile->delta || block >= zfile->blocks) {
		*at = obd_zfile_at(zfile, block);
		return 0;
	}
	while (i < STRIDES && (unwrap->strides[i].layer != layer || unwrap->strides[i].number != number))
		i++;
	if (i == STRIDES) {
		int r = read_stride(&unwrap->strides[unwrap->oldest], layer, number, err);

		if (r)
			return r;
		i = unwrap->oldest;
		unwrap->oldest = (i + 1) % STRIDES;
	}
	*at = zfile->base[number] + unwrap->strides[i].offsets[block % OBD_ZFILE_STRIDE];
	return 0;
}

/* ---- reading ---- */

/** stored: the block's bytes, which begin at at and end at end. */
static int decode(struct obd_unwrap *unwrap, const struct obd_layer *layer, uint64_t block, const uint8_t *stored,
		  uint64_t at, uint64_t end, uint8_t *to, struct obd_error *err)
{
	const uint32_t length = obd_zfile_block_length(layer->zfile, block);
	int r = obd_zfile_decode(layer->zfile, unwrap->codec, block, stored, (size_t)(end - at), to, length, length);

	return r < 0 ? obd_fail(err, -r, "%s: block %llu (stored at offset %llu): %s", layer->blob->path,
				(unsigned long long)block, (unsigned long long)(layer->base + at),
				r == -EUCLEAN ? "checksum does not match"
					      : "payload does not decode to the block's length")
		     : 0;
}

/** Has block decoded in unwrap->kept. */
static int keep_block(struct obd_unwrap *unwrap, const struct obd_layer *layer, uint64_t block, struct obd_error *err)
{
	uint64_t at = 0, end = 0;
	int r;

	if (unwrap->layer == layer && unwrap->block == block)
		return 0;
	unwrap->layer = NULL;
	r = stored_at(unwrap, layer, block, &at, err);
	if (!r)
		r = stored_at(unwrap, layer, block + 1, &end, err);
	if (!r)
		r = read_stored(layer, unwrap->stored, (size_t)(end - at), at, err);
	if (!r)
		r = decode(unwrap, layer, block, unwrap->stored, at, end, unwrap->kept, err);
	if (r)
		return r;
	unwrap->layer = layer;
	unwrap->block = block;
	return 0;
}

/** Decodes whole blocks from block on, as many of count as one read brings; returns how many, or -errno. */
static int64_t read_blocks(struct obd_unwrap *unwrap, const struct obd_layer *layer, uint64_t block, uint64_t count,
			   uint8_t *to, struct obd_error *err)
{
	const struct obd_zfile *zfile = layer->zfile;
	const uint64_t fit = STORED / zfile->stored_max;
	const uint8_t *stored = unwrap->stored;
	uint64_t at = 0, end = 0;
	int r;

	if (count > fit)
		count = fit;
	r = stored_at(unwrap, layer, block, &at, err);
	if (!r)
		r = stored_at(unwrap, layer, block + count, &end, err);
	if (!r)
		r = read_stored(layer, unwrap->stored, (size_t)(end - at), at, err);
	for (uint64_t i = 0; !r && i < count; i++, at = end) {
		r = stored_at(unwrap, layer, block + i + 1, &end, err);
		if (!r)
			r = decode(unwrap, layer, block + i, stored, at, end, to, err);
		stored += end - at;
		to += obd_zfile_block_length(zfile, block + i);
	}
	return r ? r : (int64_t)count;
}

static int pread_zfile(struct obd_unwrap *unwrap, const struct obd_layer *layer, uint8_t *to, size_t count,
		       uint64_t offset, struct obd_error *err)
{
	const struct obd_zfile *zfile = layer->zfile;

	while (count) {
		const uint64_t block = offset >> zfile->block_shift;
		const uint32_t in = (uint32_t)(offset & (zfile->block_size - 1));
		const uint32_t length = obd_zfile_block_length(zfile, block);
		size_t took = length - in < count ? length - in : count;

		if (!in && took == length) {
			// A last block that is shorter is whole only when the stream's end is asked for.
			const uint64_t whole = count >> zfile->block_shift;
			int64_t r = read_blocks(unwrap, layer, block, whole ? whole : 1, to, err);

			if (r < 0)
				return (int)r;
			if (whole)
				took = (size_t)r << zfile->block_shift;
		} else {
			int r = keep_block(unwrap, layer, block, err);

			if (r)
				return r;
			memcpy(to, unwrap->kept + in, took);
		}
		to += took;
		offset += took;
		count -= took;
	}
	return 0;
}

int obd_unwrap_pread(struct obd_unwrap *unwrap, const struct obd_layer *layer, void *buf, size_t count, uint64_t offset,
		     struct obd_error *err)
{
	if (layer->zfile)
		return pread_zfile(unwrap, layer, buf, count, offset, err);
	return read_stored(layer, buf, count, offset, err);
}

int obd_unwrap_await(struct obd_unwrap *unwrap, const struct obd_layer *layer, void *buf, size_t count, uint64_t offset,
		     struct obd_task *task, struct obd_error *err)
{
	int r = 0;

	for (unsigned moment = 0; moment < FETCH_MOMENTS; moment++) {
		obd_blob_wait(layer->blob, MOMENT_MS);
		r = obd_unwrap_pread(unwrap, layer, buf, count, offset, err);
		if (r != -ETIMEDOUT || !layer->blob->cache)
			break;
		if (obd_task_stopped(task))
			return obd_fail(err, ECANCELED, "stopped");
	}
	return r;
}
