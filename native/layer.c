/* SPDX-License-Identifier: Apache-2.0 */
/* What is in a blob, found by content from the outside in: [tar [ZFile [LSMT]]], either wrapper optional. */
#include "layer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "obd_test.h"
#include "tar.h"

/** The unwrapped stream of a layer, read without hurry: for opening, and for tests. */
struct reader {
	const struct obd_layer *layer;
	struct obd_codec *codec; /**< this and the next two are for a ZFile alone */
	uint8_t *stored;
	uint8_t *decoded;
};

static void reader_deinit(struct reader *reader)
{
	obd_codec_destroy(reader->codec);
	free(reader->stored);
	free(reader->decoded);
}

static int reader_init(struct reader *reader, const struct obd_layer *layer)
{
	*reader = (struct reader){.layer = layer};
	if (!layer->zfile)
		return 0;
	reader->stored = malloc(layer->zfile->stored_max);
	reader->decoded = malloc(layer->zfile->block_size);
	if (reader->stored && reader->decoded && !obd_codec_create(&reader->codec))
		return 0;
	reader_deinit(reader);
	return -ENOMEM;
}

static uint64_t stream_size(const struct obd_layer *layer)
{
	return layer->zfile ? layer->zfile->original_size : layer->stored_size;
}

/** The first in + count bytes of a block; *ret is where the wanted count begin. */
static int read_block(struct reader *reader, uint64_t block, uint32_t in, uint32_t count, const uint8_t **ret)
{
	const struct obd_layer *layer = reader->layer;
	const struct obd_zfile *zfile = layer->zfile;
	const uint64_t at = obd_zfile_at(zfile, block);
	const size_t stored = (size_t)(obd_zfile_at(zfile, block + 1) - at);
	int r = obd_blob_pread(layer->blob, reader->stored, stored, layer->base + at);

	if (r)
		return r;
	r = obd_zfile_decode(zfile, reader->codec, block, reader->stored, stored, reader->decoded, zfile->block_size,
			     in + count);
	*ret = reader->decoded + in;
	return r < 0 ? r : 0;
}

/** obd_stream's pread. */
static int reader_pread(void *opaque, void *buf, size_t count, uint64_t offset)
{
	struct reader *reader = opaque;
	const struct obd_layer *layer = reader->layer;
	uint8_t *to = buf;

	if (!layer->zfile)
		return obd_blob_pread(layer->blob, buf, count, layer->base + offset);
	while (count) {
		const uint32_t in = (uint32_t)(offset & (layer->zfile->block_size - 1));
		uint32_t take = layer->zfile->block_size - in;
		const uint8_t *from;
		int r;

		if (take > count)
			take = (uint32_t)count;
		r = read_block(reader, offset >> layer->zfile->block_shift, in, take, &from);
		if (r)
			return r;
		memcpy(to, from, take);
		to += take;
		count -= take;
		offset += take;
	}
	return 0;
}

static int open_zfile(struct obd_layer *layer, struct obd_error *err)
{
	int r = obd_zfile_probe(layer->blob, layer->base, layer->stored_size, err);

	if (r <= 0)
		return r;
	return obd_zfile_open(layer->blob, layer->base, layer->stored_size, &layer->zfile, err);
}

static int open_lsmt(struct obd_layer *layer, struct obd_error *err)
{
	struct reader reader;
	const struct obd_stream stream = {stream_size(layer), layer->blob->path, reader_pread, &reader};
	int r = reader_init(&reader, layer);

	if (r)
		return obd_fail(err, -r, "%s: no memory", layer->blob->path);
	r = obd_lsmt_open(&stream, &layer->lsmt, err);
	reader_deinit(&reader);
	return r;
}

static int layer_init(struct obd_layer *layer, struct obd_error *err)
{
	int r;

	layer->stored_size = layer->blob->size;
	r = obd_tar_probe(layer->blob, &layer->base, &layer->stored_size, err);
	if (r < 0)
		return r;
	layer->tar = r > 0;
	r = open_zfile(layer, err);
	if (r)
		return r;
	return open_lsmt(layer, err);
}

int obd_layer_open(struct obd_blob *blob, struct obd_layer **ret, struct obd_error *err)
{
	struct obd_layer *layer = calloc(1, sizeof(*layer));
	int r;

	if (!layer)
		return obd_fail(err, ENOMEM, "%s: no memory", blob->path);
	layer->blob = blob;
	r = layer_init(layer, err);
	if (r) {
		layer->blob = NULL; // stays the caller's
		obd_layer_close(layer);
		return r;
	}
	*ret = layer;
	return 0;
}

void obd_layer_close(struct obd_layer *layer)
{
	if (!layer)
		return;
	obd_lsmt_deinit(&layer->lsmt);
	obd_zfile_close(layer->zfile);
	obd_blob_close(layer->blob);
	free(layer);
}

void obd_layer_info(const struct obd_layer *layer, struct obd_layer_info *ret)
{
	const struct obd_lsmt *lsmt = &layer->lsmt;

	*ret = (struct obd_layer_info){
		.virtual_size = lsmt->virtual_size,
		.stream_size = stream_size(layer),
		.segments = lsmt->segments.count,
		.memory = lsmt->segments.count * 2 * sizeof(uint64_t),
		.tar = layer->tar,
		.direct = layer->blob->direct_fd >= 0,
		.sparse = lsmt->sparse,
	};
	if (layer->zfile) {
		ret->memory += obd_zfile_memory(layer->zfile);
		ret->zfile = layer->zfile->algo;
		ret->block_size = layer->zfile->block_size;
		ret->verify = layer->zfile->verify;
	}
	snprintf(ret->uuid, sizeof(ret->uuid), "%s", lsmt->uuid);
	snprintf(ret->parent_uuid, sizeof(ret->parent_uuid), "%s", lsmt->parent_uuid);
	snprintf(ret->message, sizeof(ret->message), "%s", lsmt->message);
}

int64_t obd_test_layer_pread(const struct obd_layer *layer, void *buf, size_t count, uint64_t offset)
{
	struct reader reader;
	int r;

	if (offset > stream_size(layer) || count > stream_size(layer) - offset)
		return -EINVAL;
	r = reader_init(&reader, layer);
	if (r)
		return r;
	r = reader_pread(&reader, buf, count, offset);
	reader_deinit(&reader);
	return r ? r : (int64_t)count;
}
