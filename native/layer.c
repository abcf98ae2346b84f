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
#include "unwrap.h"

/** The unwrapped stream of a layer, as obd_lsmt_open wants to see it. */
struct reader {
	const struct obd_layer *layer;
	struct obd_unwrap *unwrap;
};

static int reader_pread(void *opaque, void *buf, size_t count, uint64_t offset)
{
	struct reader *reader = opaque;

	return obd_unwrap_pread(reader->unwrap, reader->layer, buf, count, offset, NULL);
}

static int open_zfile(struct obd_layer *layer, bool lean, struct obd_error *err)
{
	int r = obd_zfile_probe(layer->blob, layer->base, layer->stored_size, err);

	if (r <= 0)
		return r;
	return obd_zfile_open(layer->blob, layer->base, layer->stored_size, lean, &layer->zfile, err);
}

static int open_lsmt(struct obd_layer *layer, bool lean, struct obd_error *err)
{
	struct reader reader = {.layer = layer};
	const struct obd_stream stream = {obd_unwrap_size(layer), layer->blob->path, reader_pread, &reader};
	int r = obd_unwrap_create(&reader.unwrap);

	if (r)
		return obd_fail(err, -r, "%s: no memory", layer->blob->path);
	r = obd_lsmt_open(&stream, lean, &layer->lsmt, err);
	obd_unwrap_destroy(reader.unwrap);
	return r;
}

static int open_wrappers(struct obd_layer *layer, bool lean, struct obd_error *err)
{
	int r;

	layer->stored_size = layer->blob->size;
	r = obd_tar_probe(layer->blob, &layer->base, &layer->stored_size, err);
	if (r < 0)
		return r;
	layer->tar = r > 0;
	return open_zfile(layer, lean, err);
}

static int layer_open(struct obd_blob *blob, bool lsmt, bool lean, bool lean_zfile, struct obd_layer **ret,
		      struct obd_error *err)
{
	struct obd_layer *layer = calloc(1, sizeof(*layer));
	int r;

	if (!layer)
		return obd_fail(err, ENOMEM, "%s: no memory", blob->path);
	layer->blob = blob;
	r = open_wrappers(layer, lean_zfile, err);
	if (!r && lsmt)
		r = open_lsmt(layer, lean, err);
	if (r) {
		layer->blob = NULL; // stays the caller's
		obd_layer_close(layer);
		return r;
	}
	*ret = layer;
	return 0;
}

int obd_layer_open(struct obd_blob *blob, struct obd_layer **ret, struct obd_error *err)
{
	return layer_open(blob, true, false, false, ret, err);
}

int obd_layer_open_lean(struct obd_blob *blob, uint32_t for_image, struct obd_layer **ret, struct obd_error *err)
{
	return layer_open(blob, true, true, !for_image, ret, err);
}

int obd_layer_open_wrappers(struct obd_blob *blob, struct obd_layer **ret, struct obd_error *err)
{
	return layer_open(blob, false, true, true, ret, err);
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
		.stream_size = obd_unwrap_size(layer),
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
	struct obd_unwrap *unwrap;
	int r;

	if (offset > obd_unwrap_size(layer) || count > obd_unwrap_size(layer) - offset)
		return -EINVAL;
	r = obd_unwrap_create(&unwrap);
	if (r)
		return r;
	r = obd_unwrap_pread(unwrap, layer, buf, count, offset, NULL);
	obd_unwrap_destroy(unwrap);
	return r ? r : (int64_t)count;
}
