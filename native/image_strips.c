/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An image that is gone through from its beginning to its end, by a program that has not the memory for all of its
 * index: it knows a part of the disk at a time. The reader is the one of every image; a writable layer, which nobody
 * changes meanwhile, is to it the topmost of the layers.
 */
#include <errno.h>
#include <string.h>

#include "error.h"
#include "feed.h"
#include "image_private.h"
#include "stack.h"
#include "task.h"

enum { PART = 1000000 }; /**< segments */

int obd_image_strips(struct obd_image *image, struct obd_error *err)
{
	bool lean = image->lean_upper != NULL, others = image->upper != NULL;

	for (uint32_t i = 0; i < image->info.layers; i++) {
		const struct obd_layer *layer = image->layers[i];

		lean |= layer->lsmt.lean;
		others |= !layer->lsmt.lean;
		if (layer->zfile && !layer->zfile->delta)
			return obd_fail(err, EINVAL, "%s: was opened lean, no image is made of it", layer->blob->path);
	}
	if (!lean)
		return 0;
	if (others)
		return obd_fail(err, EINVAL, "lean layers and others make no image together");
	if (image->lean_upper)
		image->layers[image->info.layers++] = &image->lean_upper->layer;
	if (obd_task_create(&image->strips))
		return obd_fail(err, ENOMEM, "no memory for an image");
	return obd_stack_create(image->layers, image->info.layers, image->lean_upper, image->strips, &image->stack,
				err);
}

static int next_part(struct obd_image *image, size_t room, struct obd_segments *ret, struct obd_error *err)
{
	int r = 1;

	if (obd_segments_init(ret, room))
		return obd_fail(err, ENOMEM, "no memory for %zu segments", room);
	while (r > 0 && ret->count < room) {
		r = obd_stack_next(image->stack, &ret->key[ret->count], &ret->map[ret->count], err);
		ret->count += r > 0;
	}
	return r;
}

int obd_image_advance(struct obd_image *image, uint64_t *end, struct obd_error *err)
{
	const size_t budget = obd_feed_budget(), room = budget < PART ? budget : PART;
	struct obd_segments segments;
	struct obd_index *index, *old = image->index;
	int r;

	if (!image->stack)
		return obd_fail(err, EINVAL, "the image knows all of its disk");
	r = next_part(image, room, &segments, err);
	*end = r > 0 ? obd_key_end(segments.key[segments.count - 1]) << 9 : image->info.virtual_size;
	if (*end > image->info.virtual_size)
		*end = image->info.virtual_size;
	if (r < 0) {
		obd_segments_deinit(&segments);
		return r;
	}
	r = obd_index_wrap(&segments, &index);
	if (r)
		return obd_fail(err, -r, "no memory for the index");
	__atomic_store_n(&image->index, index, __ATOMIC_RELEASE);
	obd_image_count(image);
	obd_index_destroy(old);
	return 0;
}
