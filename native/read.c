/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The walk: merged index -> layer -> stored bytes -> iovec. No locks, no allocation; everything it writes belongs to
 * the worker, the slot or the request.
 */
#include "read.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "error.h"
#include "image_private.h"
#include "miss.h"
#include "upper.h"
#include "walk.h"

/* A plan is full; not an error, and never seen outside this file. */
enum { PLAN_FULL = -ENOBUFS };

/* ---- the disk side ---- */

/* Asks for the range; the first of a piece is what it will wait for. */
static void missing(struct obd_worker *worker, const struct obd_layer *layer, uint64_t offset, uint64_t count)
{
	obd_miss_want(layer->blob->cache, offset, count, worker->image);
	if (worker->miss.file)
		return;
	worker->miss.file = layer->blob->cache;
	worker->miss.offset = offset;
	worker->miss.count = count;
}

/* The blocking read, timed and counted: only ever on a thread that may wait. Uses the list up. */
static int read_waiting(struct obd_worker *worker, const struct obd_layer *layer, struct iovec *list, int used,
			uint64_t count, uint64_t offset)
{
	const uint64_t start = obd_now_ns();
	int64_t r;

	obd_inflight_add(worker->image);
	r = layer->blob->cache ? obd_cachefile_preadv(layer->blob->cache, list, used, count, offset, true)
			       : obd_preadv_all(layer->blob->fd, list, used, count, offset);
	obd_inflight_sub(worker->image);
	obd_report_wait(worker, layer, offset, count, obd_now_ns() - start);
	if (r == OBD_MISSING || (layer->blob->cache && !r))
		return (int)r;
	if (r < 0)
		return obd_fail(&worker->error, (int)-r, "%s: reading %llu bytes at offset %llu: %s", layer->blob->path,
				(unsigned long long)count, (unsigned long long)offset, strerror((int)-r));
	if ((uint64_t)r < count)
		return obd_fail(&worker->error, EIO, "%s: the file ends at offset %llu, %llu bytes were expected there",
				layer->blob->path, (unsigned long long)offset + (uint64_t)r,
				(unsigned long long)count - (uint64_t)r);
	return 0;
}

/* As read_list, for a layer that is fetched as it is read. */
static int read_cached(struct obd_worker *worker, const struct obd_layer *layer, int used, uint64_t count,
		       uint64_t offset)
{
	int r = obd_cachefile_preadv(layer->blob->cache, worker->iov, used, count, offset, false);

	obd_count(&worker->counters.hits, !r);
	if (r == -EAGAIN && worker->may_block)
		r = read_waiting(worker, layer, worker->iov, used, count, offset);
	else if (r && r != -EAGAIN && r != OBD_MISSING)
		obd_fail(&worker->error, -r, "%s: reading %llu bytes at offset %llu: %s", layer->blob->path,
			 (unsigned long long)count, (unsigned long long)offset, strerror(-r));
	if (r == OBD_MISSING)
		missing(worker, layer, offset, count);
	if (!r)
		obd_count_disk(&worker->counters, count, true);
	return r;
}

/* Reads into worker->iov[0, used): at once when the page cache has it, else by waiting, else -EAGAIN. */
static int read_list(struct obd_worker *worker, const struct obd_layer *layer, int used, uint64_t count,
		     uint64_t offset)
{
	const struct obd_blob *blob = layer->blob;
	ssize_t r = -1;

	if (blob->cache)
		return read_cached(worker, layer, used, count, offset);
	obd_count_disk(&worker->counters, count, false);
	if (blob->memory)
		r = used == 1 ? pread(blob->fd, worker->iov[0].iov_base, (size_t)count, (off_t)offset)
			      : preadv(blob->fd, worker->iov, used, (off_t)offset);
	else if (blob->nowait)
		r = preadv2(blob->fd, worker->iov, used, (off_t)offset, RWF_NOWAIT);
	obd_count(&worker->counters.hits, r == (ssize_t)count);
	if (r == (ssize_t)count)
		return 0;
	if (!worker->may_block && !blob->memory)
		return -EAGAIN;
	return read_waiting(worker, layer, worker->iov, used, count, offset);
}

/* Where the range lies in the page cache; NULL: nowhere, or nobody knows. */
static const uint8_t *find_in_place(struct walk *walk, const struct obd_layer *layer, uint64_t offset, uint64_t count)
{
	struct obd_pages *pages = layer->blob->pages;

	if (!walk->in_place || !pages || offset > pages->size || count > pages->size - offset)
		return NULL;
	if (layer->blob->cache && !obd_cachefile_in_place(layer->blob->cache, offset, count))
		return NULL;
	if (!obd_pages_seen(pages, offset, count) && !obd_pages_ask(pages, offset, count))
		return NULL;
	obd_count_in_place(&walk->worker->counters, count, layer->blob->cache);
	return pages->bytes + offset;
}

/* ---- planning ---- */

static int plan_read(struct walk *walk, const struct obd_layer *layer, uint64_t offset, uint64_t count, uint64_t blocks)
{
	struct obd_slot *slot = walk->slot;
	const uint64_t align = walk->worker->image->engine->direct ? OBD_DIRECT_ALIGN : 1;
	const uint64_t first = offset & ~(align - 1);
	const uint64_t last = (offset + count + align - 1) & ~(align - 1);
	struct obd_io *io = &slot->io[slot->count];

	if (slot->count == OBD_SLOT_IOS || last - first > OBD_SLOT_BUFFER - slot->used)
		return PLAN_FULL;
	*io = (struct obd_io){
		.layer = layer,
		.offset = offset,
		.count = (uint32_t)count,
		.blocks = (uint32_t)blocks,
		.read_offset = first,
		.read_count = (uint32_t)(last - first),
		.buffer = slot->buffer + slot->used,
	};
	slot->used += (last - first + OBD_DIRECT_ALIGN - 1) & ~(uint64_t)(OBD_DIRECT_ALIGN - 1);
	slot->count++;
	obd_count_disk(&walk->worker->counters, count, false);
	return 0;
}

/* Planning's counterpart for a piece that cannot be served yet: what else does it lack? */
static void probe_read(struct walk *walk, const struct obd_layer *layer, uint64_t offset, uint64_t count)
{
	uint64_t at = offset, size = count;

	if (layer->blob->cache && obd_cachefile_missing(layer->blob->cache, &at, &size))
		missing(walk->worker, layer, at, size);
}

/* The wanted bytes of the next finished read. */
static int take_planned(struct walk *walk, const struct obd_io **ret, const uint8_t **bytes)
{
	const struct obd_io *io = &walk->slot->io[walk->io++];
	const uint64_t skip = io->offset - io->read_offset;

	if (io->result < 0)
		return obd_fail(&walk->worker->error, (int)-io->result, "%s: reading %u bytes at offset %llu: %s",
				io->layer->blob->path, io->count, (unsigned long long)io->offset,
				strerror((int)-io->result));
	if ((uint64_t)io->result < skip + io->count)
		return obd_fail(&walk->worker->error, EIO,
				"%s: the file ends at offset %llu, %u bytes were expected at offset %llu",
				io->layer->blob->path, (unsigned long long)(io->read_offset + (uint64_t)io->result),
				io->count, (unsigned long long)io->offset);
	*ret = io;
	*bytes = io->buffer + skip;
	return 0;
}

/* ---- a layer stored as it is ---- */

static int raw_data(struct walk *walk, const struct obd_layer *layer, uint64_t offset, uint64_t count)
{
	offset += layer->base;
	while (count) {
		const uint8_t *there = walk->mode == WALK_NOW ? find_in_place(walk, layer, offset, count) : NULL;
		uint64_t part = count;
		int r;

		if (there) {
			out_copy(walk, there, count);
			obd_pages_check(layer->blob->pages);
		} else if (walk->mode == WALK_NOW) {
			int used = 1;

			if (out_room(walk) >= count)
				walk->worker->iov[0] = (struct iovec){out_pointer(walk), (size_t)count};
			else
				used = out_list(walk, count, &part);
			r = read_list(walk->worker, layer, used, part, offset);
			if (r == OBD_MISSING)
				walk->mode = WALK_PROBE;
			else if (r)
				return r;
			out_advance(walk, part);
		} else if (walk->mode == WALK_PROBE) {
			probe_read(walk, layer, offset, count);
			out_advance(walk, count);
		} else if (walk->mode == WALK_PLAN) {
			/* two aligned ends may add up to two alignment units to what is asked for */
			part = min_u64(count, OBD_SLOT_BUFFER - 2 * OBD_DIRECT_ALIGN);
			r = plan_read(walk, layer, offset, part, 0);
			if (r)
				return r;
			out_advance(walk, part);
		} else {
			const struct obd_io *io;
			const uint8_t *bytes;

			r = take_planned(walk, &io, &bytes);
			if (r)
				return r;
			part = io->count;
			out_copy(walk, bytes, part);
		}
		offset += part;
		count -= part;
	}
	return 0;
}

/* ---- a layer in a ZFile ---- */

static struct obd_decoded *decoded_find(struct obd_worker *worker, const struct obd_layer *layer, uint64_t block)
{
	for (unsigned i = 0; i < OBD_DECODED_SLOTS; i++)
		if (worker->decoded[i].block == block && worker->decoded[i].layer == layer)
			return &worker->decoded[i];
	return NULL;
}

static int decode_failed(struct obd_worker *worker, const struct obd_layer *layer, uint64_t block, int code)
{
	return obd_fail(&worker->error, -code, "%s: block %llu (stored at offset %llu): %s", layer->blob->path,
			(unsigned long long)block,
			(unsigned long long)(layer->base + obd_zfile_at(layer->zfile, block)),
			code == -EUCLEAN ? "checksum does not match" : "payload does not decode to the block's length");
}

/* Counts, and times the first block of every so many: two looks at the clock for each would be felt. */
static int decode(struct obd_worker *worker, const struct obd_layer *layer, uint64_t block, const uint8_t *stored,
		  size_t stored_count, uint8_t *out, size_t room, uint32_t need)
{
	const bool timed = worker->counters.blocks_decoded % OBD_DECODE_SAMPLE == 0;
	const uint64_t start = timed ? obd_now_ns() : 0;
	int r = obd_zfile_decode(layer->zfile, worker->codec, block, stored, stored_count, out, room, need);

	if (timed)
		obd_latency_add(&worker->counters.stages[OBD_STAGE_DECODE], obd_now_ns() - start);
	obd_count(&worker->counters.blocks_decoded, 1);
	return r;
}

/* Delivers [in, in + take) of one block from its stored bytes. */
static int decode_block(struct walk *walk, const struct obd_layer *layer, uint64_t block, const uint8_t *stored,
			size_t stored_count, uint32_t in, uint32_t take)
{
	struct obd_worker *worker = walk->worker;
	const uint32_t length = obd_zfile_block_length(layer->zfile, block);
	struct obd_decoded *slot;
	uint32_t need = in + take;
	int r;

	if (take == length && out_room(walk) >= take) {
		r = decode(worker, layer, block, stored, stored_count, out_pointer(walk), length, length);
		if (r < 0)
			return decode_failed(worker, layer, block, r);
		out_advance(walk, take);
		return 0;
	}
	slot = decoded_find(worker, layer, block);
	if (slot || walk->streaming)
		need = length; /* the rest of the block will be wanted too */
	if (!slot) {
		slot = &worker->decoded[worker->victim];
		worker->victim = (worker->victim + 1) % OBD_DECODED_SLOTS;
	}
	slot->layer = NULL;
	r = decode(worker, layer, block, stored, stored_count, slot->bytes, worker->image->block_size_max, need);
	if (r < 0)
		return decode_failed(worker, layer, block, r);
	*slot = (struct obd_decoded){.layer = layer, .block = block, .valid = (uint32_t)r, .bytes = slot->bytes};
	out_copy(walk, slot->bytes + in, take);
	return 0;
}

/*
 * A block of a lazily fetched layer that does not decode is forgotten and fetched anew, once for each piece that meets
 * it. false: it was already, or it cannot be fetched.
 */
static bool reject_block(struct walk *walk, const struct obd_layer *layer, uint64_t block)
{
	struct obd_worker *worker = walk->worker;
	const uint64_t at = obd_zfile_at(layer->zfile, block);
	const uint64_t count = obd_zfile_at(layer->zfile, block + 1) - at;
	char text[sizeof(worker->error.text) + 16];

	/* what does not decode in place may have been evicted meanwhile: it is read again, by system calls */
	if (walk->in_place || !walk->piece || !layer->blob->cache ||
	    !obd_cachefile_reject(layer->blob->cache, layer->base + at, count))
		return false;
	if (walk->piece->rejected_layer == layer && walk->piece->rejected_block == block)
		return false; /* it is forgotten all the same: the next read shall not find it again */
	snprintf(text, sizeof(text), "fetched again: %s", worker->error.text);
	obd_image_report(worker->image, OBD_EVENT_DEVICE, worker->error.code, text);
	missing(worker, layer, layer->base + at, count);
	worker->rejected.layer = layer;
	worker->rejected.block = block;
	walk->mode = WALK_PROBE;
	return true;
}

/* Stored bytes of blocks [block, *stop): reads, plans or takes them. *stop may come back smaller. */
static int zfile_fetch(struct walk *walk, const struct obd_layer *layer, uint64_t block, uint64_t *stop,
		       const uint8_t **bytes)
{
	struct obd_worker *worker = walk->worker;
	const struct obd_zfile *zfile = layer->zfile;
	const uint64_t at = obd_zfile_at(zfile, block);
	uint64_t count;

	if (walk->mode == WALK_FINISH) {
		const struct obd_io *io;
		int r = take_planned(walk, &io, bytes);

		if (!r)
			*stop = block + io->blocks;
		return r;
	}
	count = obd_zfile_at(zfile, *stop) - at;
	if (walk->mode == WALK_PROBE) {
		probe_read(walk, layer, layer->base + at, count);
		return 0;
	}
	*bytes = find_in_place(walk, layer, layer->base + at, count);
	if (*bytes)
		return 0;
	if (count > worker->stored_size) {
		*stop = block + worker->stored_size / zfile->stored_max;
		count = obd_zfile_at(zfile, *stop) - at;
	}
	if (walk->mode == WALK_PLAN)
		return plan_read(walk, layer, layer->base + at, count, *stop - block);
	// The kernel copies 5 % faster when both ends are equally far from a cache line's start.
	*bytes = worker->stored + ((layer->base + at) & (OBD_STORED_SLACK - 1));
	worker->iov[0] = (struct iovec){(void *)*bytes, (size_t)count};
	return read_list(worker, layer, 1, count, layer->base + at);
}

static int zfile_data(struct walk *walk, const struct obd_layer *layer, uint64_t offset, uint64_t count)
{
	const struct obd_zfile *zfile = layer->zfile;

	while (count) {
		uint64_t block = offset >> zfile->block_shift;
		uint32_t in = (uint32_t)(offset & (zfile->block_size - 1));
		uint64_t stop = ((offset + count - 1) >> zfile->block_shift) + 1;
		const uint8_t *bytes = NULL;
		int r;

		if (walk->mode == WALK_NOW && (in || count < zfile->block_size)) {
			const struct obd_decoded *hit = decoded_find(walk->worker, layer, block);
			uint64_t take = min_u64(count, zfile->block_size - in);

			if (hit && hit->valid >= in + take) {
				obd_count(&walk->worker->counters.block_hits, 1);
				out_copy(walk, hit->bytes + in, take);
				offset += take;
				count -= take;
				continue;
			}
		}
		r = zfile_fetch(walk, layer, block, &stop, &bytes);
		if (r == OBD_MISSING)
			walk->mode = WALK_PROBE;
		else if (r)
			return r;
		if (!delivers(walk)) {
			uint64_t covered = min_u64(count, (stop << zfile->block_shift) - offset);

			out_advance(walk, covered);
			offset += covered;
			count -= covered;
			continue;
		}
		for (uint64_t at = obd_zfile_at(zfile, block); block < stop; block++, in = 0) {
			uint64_t next = obd_zfile_at(zfile, block + 1);
			uint32_t take = (uint32_t)min_u64(count, zfile->block_size - in);

			r = decode_block(walk, layer, block, bytes, (size_t)(next - at), in, take);
			if (r && reject_block(walk, layer, block))
				break; /* the probe begins here */
			if (r)
				return r;
			bytes += next - at;
			at = next;
			offset += take;
			count -= take;
		}
		if (walk->in_place && !zfile->verify && layer->blob->pages)
			obd_pages_check(layer->blob->pages);
	}
	return 0;
}

/* ---- the merged index ---- */

/* As for decode: most searches take no longer than two looks at the clock. */
static bool lookup_is_timed(struct obd_worker *worker)
{
	const bool timed = worker->counters.lookups % OBD_LOOKUP_SAMPLE == 0;

	obd_count(&worker->counters.lookups, 1);
	return __builtin_expect(timed, false);
}

static void lookup_took(struct obd_worker *worker, uint64_t start)
{
	obd_latency_add(&worker->counters.stages[OBD_STAGE_LOOKUP], obd_now_ns() - start);
}

static size_t find_lower(struct obd_worker *worker, const struct obd_index *index, uint64_t sector)
{
	uint64_t start;
	size_t found;

	if (!lookup_is_timed(worker))
		return obd_index_find(index, sector);
	start = obd_now_ns();
	found = obd_index_find(index, sector);
	lookup_took(worker, start);
	return found;
}

static unsigned find_upper(struct obd_worker *worker, struct obd_upper *upper, uint64_t sector, uint64_t end,
			   uint64_t *keys, uint64_t *maps, unsigned count)
{
	const bool timed = lookup_is_timed(worker);
	const uint64_t start = timed ? obd_now_ns() : 0;
	const unsigned found = obd_upper_find(upper, sector, end, keys, maps, count);

	if (timed)
		lookup_took(worker, start);
	return found;
}

static int walk_lowers(struct walk *walk, uint64_t offset, uint64_t count)
{
	struct obd_image *image = walk->worker->image;
	const struct obd_index *index = obd_image_index(image);
	const struct obd_segments *segments = &index->segments;
	const uint64_t end = offset + count;
	size_t i = find_lower(walk->worker, index, offset >> 9);

	while (offset < end) {
		uint64_t start = end, stop = end;
		int r = 0;

		if (i < segments->count) {
			start = obd_key_sector(segments->key[i]) << 9;
			stop = min_u64(obd_key_end(segments->key[i]) << 9, end);
		}
		if (start > offset) {
			uint64_t hole = min_u64(start, end) - offset;

			out_zero(walk, hole);
			if (delivers(walk))
				obd_count(&walk->worker->counters.zero_bytes, hole);
			offset += hole;
			continue;
		}
		if (obd_map_zeroed(segments->map[i])) {
			out_zero(walk, stop - offset);
		} else {
			const struct obd_layer *layer = image->layers[obd_map_layer(segments->map[i])];
			uint64_t from = (obd_map_msector(segments->map[i]) << 9) + (offset - start);

			r = layer->zfile ? zfile_data(walk, layer, from, stop - offset)
					 : raw_data(walk, layer, from, stop - offset);
		}
		if (r)
			return r;
		offset = stop;
		i++;
	}
	return 0;
}

/* ---- a writable layer in front of it ---- */

static int walk_segment(struct walk *walk, const struct obd_upper *upper, uint64_t key, uint64_t map, uint64_t offset,
			uint64_t count)
{
	if (!obd_map_zeroed(map))
		return raw_data(walk, &upper->layer,
				(obd_map_msector(map) << 9) + (offset - (obd_key_sector(key) << 9)), count);
	out_zero(walk, count);
	return 0;
}

static int walk_upper(struct walk *walk, struct obd_upper *upper, uint64_t offset, uint64_t count)
{
	enum { FOUND = 16 };
	const uint64_t end = offset + count;
	unsigned found = FOUND;

	while (offset < end && found == FOUND) {
		uint64_t keys[FOUND], maps[FOUND];

		found = find_upper(walk->worker, upper, offset >> 9, (end + 511) >> 9, keys, maps, FOUND);
		for (unsigned i = 0; i < found; i++) {
			const uint64_t start = obd_key_sector(keys[i]) << 9;
			const uint64_t stop = min_u64(obd_key_end(keys[i]) << 9, end);
			int r = start > offset ? walk_lowers(walk, offset, start - offset) : 0;

			if (start > offset)
				offset = start;
			if (!r)
				r = walk_segment(walk, upper, keys[i], maps[i], offset, stop - offset);
			if (r)
				return r;
			offset = stop;
		}
	}
	return offset < end ? walk_lowers(walk, offset, end - offset) : 0;
}

static int walk_range(struct walk *walk, uint64_t offset, uint64_t count)
{
	struct obd_upper *upper = obd_image_upper(walk->worker->image);

	return upper ? walk_upper(walk, upper, offset, count) : walk_lowers(walk, offset, count);
}

static int read_piece(struct obd_worker *worker, const struct obd_piece *piece, bool in_place)
{
	const uint64_t offset = piece->request->offset + piece->offset;
	struct walk walk = {.worker = worker, .mode = WALK_NOW, .piece = piece, .in_place = in_place};
	int r;

	worker->miss.file = NULL;
	worker->rejected.layer = NULL;
	walk.streaming = piece->followed || (offset == worker->expected && obd_work_alone(worker->image));
	worker->expected = offset + piece->count;
	out_seek(&walk, piece->request, piece->offset);
	r = walk_range(&walk, offset, piece->count);
	return walk.mode == WALK_PROBE && !r ? OBD_MISSING : r;
}

static void forget_decoded(struct obd_worker *worker)
{
	for (unsigned i = 0; i < OBD_DECODED_SLOTS; i++)
		worker->decoded[i].layer = NULL;
}

/* false: pages were not where they had been seen. */
static bool read_guarded(struct obd_worker *worker, const struct obd_piece *piece, int *ret)
{
	if (sigsetjmp(worker->guard.back, 0)) {
		obd_image_forget(worker->image);
		forget_decoded(worker);
		return false;
	}
	obd_guard_set(&worker->guard);
	*ret = read_piece(worker, piece, true);
	obd_guard_set(NULL);
	return true;
}

/* As read_guarded, whose jump would spoil what is remembered here; also false when what was read may be evicted. */
static bool read_in_place(struct obd_worker *worker, const struct obd_piece *piece, int *ret)
{
	const struct obd_misses *misses = worker->image->misses;
	const unsigned clears = misses ? obd_misses_begin(misses) : 0;

	if (!read_guarded(worker, piece, ret))
		return false;
	if (!misses || obd_misses_hold(misses, clears))
		return true;
	forget_decoded(worker);
	return false;
}

/* What a writable image has found while it walks is neither freed nor punched before it leaves. */
static int read_graced(struct obd_worker *worker, const struct obd_piece *piece)
{
	struct obd_grace *grace = &worker->image->grace;
	const unsigned side = obd_grace_enter(grace);
	const int r = read_piece(worker, piece, false);

	obd_grace_leave(grace, side);
	return r;
}

int obd_read_piece(struct obd_worker *worker, const struct obd_piece *piece)
{
	int r;

	if (worker->image->writable)
		return read_graced(worker, piece);
	// What fails in place is read again by system calls, which can tell why.
	if (worker->image->in_place && obd_rest_busy(worker, piece->count) && read_in_place(worker, piece, &r) &&
	    (!r || r == -EAGAIN || r == OBD_MISSING))
		return r;
	return read_piece(worker, piece, false);
}

int obd_read_plan(struct obd_worker *worker, struct obd_slot *slot)
{
	struct walk walk = {.worker = worker, .mode = WALK_PLAN, .slot = slot, .done = slot->done};
	const struct obd_piece *piece = &slot->piece;
	int r;

	slot->count = 0;
	slot->used = 0;
	r = walk_range(&walk, piece->request->offset + piece->offset + slot->done, piece->count - slot->done);
	slot->planned = walk.done;
	return r == PLAN_FULL ? 0 : r;
}

int obd_read_finish(struct obd_worker *worker, struct obd_slot *slot)
{
	struct walk walk = {.worker = worker, .mode = WALK_FINISH, .slot = slot, .done = slot->done};
	const struct obd_piece *piece = &slot->piece;
	int r;

	out_seek(&walk, piece->request, piece->offset + slot->done);
	r = walk_range(&walk, piece->request->offset + piece->offset + slot->done, slot->planned - slot->done);
	slot->done = walk.done;
	return r;
}
