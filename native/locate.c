/* SPDX-License-Identifier: Apache-2.0 */
/* Where a piece's bytes lie, looked up before it is read: to cut requests well, and to bring bytes closer in time. */
#include "image_private.h"

enum { PREFETCH_MAX = 4096 /**< more of a piece the CPU fetches ahead by itself */, CACHE_LINE = 64 };

struct place {
	const struct obd_layer *layer; /**< NULL: no layer has bytes there */
	uint64_t at;		       /**< in the layer's stream */
	uint64_t within;	       /**< bytes from the segment's begin */
};

static struct place locate(const struct obd_image *image, uint64_t offset)
{
	const struct obd_segments *segments = &image->index->segments;
	const size_t i = obd_index_find(image->index, offset >> 9);
	struct place place = {0};

	if (i == segments->count || obd_map_zeroed(segments->map[i]) || obd_key_sector(segments->key[i]) << 9 > offset)
		return place;
	place.within = offset - (obd_key_sector(segments->key[i]) << 9);
	place.at = (obd_map_msector(segments->map[i]) << 9) + place.within;
	place.layer = image->layers[obd_map_layer(segments->map[i])];
	return place;
}

/* The bytes in the file that hold what is at place: as they are, or the ZFile block. */
static uint64_t stored_at(const struct place *place, uint64_t *count)
{
	const struct obd_zfile *zfile = place->layer->zfile;
	uint64_t at = place->at;

	if (zfile) {
		const uint64_t block = at >> zfile->block_shift;

		at = obd_zfile_at(zfile, block);
		*count = obd_zfile_at(zfile, block + 1) - at;
	}
	return place->layer->base + at;
}

void obd_read_prefetch(const struct obd_worker *worker, const struct obd_piece *piece)
{
	uint64_t at, count = piece->count;
	const struct obd_pages *pages;
	struct place place;

	if (!worker->image->in_place)
		return;
	place = locate(worker->image, piece->request->offset + piece->offset);
	if (!place.layer || !place.layer->blob->pages)
		return;
	pages = place.layer->blob->pages;
	at = stored_at(&place, &count);
	if (count > PREFETCH_MAX)
		count = PREFETCH_MAX;
	if (at > pages->size || count > pages->size - at || !obd_pages_seen(pages, at, count))
		return;
	// A prefetch of a page that is gone does nothing.
	for (uint64_t i = 0; i < count; i += CACHE_LINE)
		__builtin_prefetch(pages->bytes + at + i, 0, 2);
}

uint64_t obd_read_cut(const struct obd_image *image, uint64_t offset, uint64_t count)
{
	struct place place;
	uint64_t in;

	if (image->writable) // its index may be replaced at any time, and nobody would wait for us
		return count;
	place = locate(image, offset + count);
	if (!place.layer || !place.layer->zfile)
		return count;
	in = place.at & (place.layer->zfile->block_size - 1);
	// The block begins in an earlier segment, or before this piece: nothing is won by moving.
	return in > place.within || in >= count ? count : count - in;
}

uint64_t obd_read_head(const struct obd_image *image, uint64_t offset)
{
	struct place place;
	uint64_t in;

	if (image->writable)
		return 0;
	place = locate(image, offset);
	if (!place.layer || !place.layer->zfile)
		return 0;
	in = place.at & (place.layer->zfile->block_size - 1);
	return in && in <= place.within ? place.layer->zfile->block_size - in : 0;
}
