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
};

struct obd_unwrap {
	struct obd_codec *codec;
	uint8_t *stored;
	uint8_t *kept; /**< block of this layer, decoded */
	const struct obd_layer *layer;
	uint64_t block;
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

static int decode(struct obd_unwrap *unwrap, const struct obd_layer *layer, uint64_t block, const uint8_t *stored,
		  uint8_t *to, struct obd_error *err)
{
	const uint64_t at = obd_zfile_at(layer->zfile, block);
	const uint32_t length = obd_zfile_block_length(layer->zfile, block);
	int r = obd_zfile_decode(layer->zfile, unwrap->codec, block, stored,
				 (size_t)(obd_zfile_at(layer->zfile, block + 1) - at), to, length, length);

	return r < 0 ? obd_fail(err, -r, "%s: block %llu (stored at offset %llu): %s", layer->blob->path,
				(unsigned long long)block, (unsigned long long)(layer->base + at),
				r == -EUCLEAN ? "checksum does not match"
					      : "payload does not decode to the block's length")
		     : 0;
}

/** Has block decoded in unwrap->kept. */
static int keep_block(struct obd_unwrap *unwrap, const struct obd_layer *layer, uint64_t block, struct obd_error *err)
{
	const uint64_t at = obd_zfile_at(layer->zfile, block);
	int r;

	if (unwrap->layer == layer && unwrap->block == block)
		return 0;
	unwrap->layer = NULL;
	r = read_stored(layer, unwrap->stored, (size_t)(obd_zfile_at(layer->zfile, block + 1) - at), at, err);
	if (!r)
		r = decode(unwrap, layer, block, unwrap->stored, unwrap->kept, err);
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
	const uint64_t at = obd_zfile_at(zfile, block), fit = STORED / zfile->stored_max;
	const uint8_t *stored = unwrap->stored;
	int r;

	if (count > fit)
		count = fit;
	r = read_stored(layer, unwrap->stored, (size_t)(obd_zfile_at(zfile, block + count) - at), at, err);
	for (uint64_t i = 0; !r && i < count; i++) {
		r = decode(unwrap, layer, block + i, stored, to, err);
		stored += obd_zfile_at(zfile, block + i + 1) - obd_zfile_at(zfile, block + i);
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
