/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The limit: what no server of these files can beat on one thread. For each request the bare work and nothing else:
 * pread of the stored bytes, and for a ZFile the checksum and the decoding of each block they hold, whole. Where a
 * request's bytes are is worked out once, before the clock runs: no index, no jump table of the core, no queue, no
 * iovec.
 *
 * It keeps the last block it decoded in part: else a sequential read whose requests end within blocks would be charged
 * for them twice, and the limit would look lower than it is.
 */
#include <fcntl.h>
#include <lz4.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

#include "../../native/crc32c.h"
#include "probe.h"

enum { STORED_MAX = 192 * 1024, PIECE = 128 * 1024, BLOCK_SEED = 100007 };

struct stored_layer {
	int fd;
	uint64_t *block; /* where each block begins in the file; one more */
};

struct limit {
	const struct disk *disk;
	struct stored_layer layers[LAYERS];
	uint64_t *place; /* of each chunk: its layer << 56 | where it begins in the layer's stream */
	uint8_t *stored, *kept;
	const struct stored_layer *kept_layer;
	uint64_t kept_block, kept_valid;
	ZSTD_DCtx *zstd;
	bool partial;
};

static void read_fully(int fd, void *to, size_t count, uint64_t offset)
{
	if (pread(fd, to, count, (off_t)offset) != (ssize_t)count)
		die("limit: short read");
}

/* The clock runs on a warm page cache; what warms it must not be one of the two that are compared. */
static void warm(int fd, uint8_t *buffer)
{
	for (off_t at = 0; pread(fd, buffer, STORED_MAX, at) > 0; at += STORED_MAX)
		;
}

static void layer_open(struct stored_layer *layer, const struct disk *disk, unsigned number)
{
	uint64_t index_offset, blocks;
	uint8_t header[512];
	uint32_t *lengths;
	char path[4096];

	layer_path(disk, number, path, sizeof(path));
	layer->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (layer->fd < 0)
		die("%s: cannot be opened", path);
	if (!disk->format->algo)
		return;
	read_fully(layer->fd, header, sizeof(header), 0);
	memcpy(&index_offset, header + 40, 8);
	memcpy(&blocks, header + 48, 8);
	lengths = malloc(blocks * 4);
	layer->block = malloc((blocks + 1) * 8);
	if (!lengths || !layer->block)
		die("no memory");
	read_fully(layer->fd, lengths, blocks * 4, index_offset);
	layer->block[0] = 512;
	for (uint64_t i = 0; i < blocks; i++)
		layer->block[i + 1] = layer->block[i] + lengths[i];
	free(lengths);
}

struct limit *limit_open(const struct disk *disk)
{
	struct limit *limit = calloc(1, sizeof(*limit));
	uint64_t end[LAYERS], chunks = disk->size / CHUNK;

	if (!limit)
		die("no memory");
	limit->disk = disk;
	limit->place = malloc(chunks * sizeof(*limit->place));
	limit->stored = malloc(STORED_MAX);
	limit->kept = malloc(STORED_MAX);
	limit->zstd = ZSTD_createDCtx();
	for (unsigned i = 0; i < disk->layers; i++) {
		layer_open(&limit->layers[i], disk, i);
		warm(limit->layers[i].fd, limit->stored);
		end[i] = STREAM_HEADER;
	}
	for (uint64_t i = 0; i < chunks; i++) {
		unsigned layer = disk->layers > 1 ? chunk_layer(i) : 0;

		limit->place[i] = (uint64_t)layer << 56 | (layer ? end[layer] : STREAM_HEADER + i * CHUNK);
		end[layer] += CHUNK;
	}
	return limit;
}

void limit_close(struct limit *limit)
{
	for (unsigned i = 0; i < limit->disk->layers; i++) {
		close(limit->layers[i].fd);
		free(limit->layers[i].block);
	}
	ZSTD_freeDCtx(limit->zstd);
	free(limit->stored);
	free(limit->kept);
	free(limit->place);
	free(limit);
}

static void decode(const struct limit *limit, const uint8_t *stored, size_t count, uint8_t *to, size_t need)
{
	size_t size = limit->disk->format->block_size, payload = count - 4, decoded;
	uint32_t crc;

	memcpy(&crc, stored + payload, 4);
	if (obd_crc32c(stored, payload, BLOCK_SEED) != crc)
		die("limit: bad checksum");
	if (limit->disk->format->algo == 2)
		decoded = ZSTD_decompressDCtx(limit->zstd, to, size, stored, payload);
	else if (limit->partial)
		decoded = (size_t)LZ4_decompress_safe_partial((const char *)stored, (char *)to, (int)payload, (int)need,
							      (int)size);
	else
		decoded = (size_t)LZ4_decompress_safe((const char *)stored, (char *)to, (int)payload, (int)size);
	if (decoded < need || decoded > size)
		die("limit: bad block");
}

/* One chunk's part of a request, from the blocks that hold it, at most PIECE of them a pread. */
static void read_blocks(struct limit *limit, const struct stored_layer *layer, uint8_t *to, uint64_t count,
			uint64_t offset)
{
	const uint64_t size = limit->disk->format->block_size;

	while (count) {
		uint64_t block = offset / size, in = offset % size, stop = (offset + count + size - 1) / size;
		const uint8_t *stored = limit->stored;

		if (layer == limit->kept_layer && block == limit->kept_block) {
			uint64_t take = size - in < count ? size - in : count;

			if (in + take <= limit->kept_valid) {
				memcpy(to, limit->kept + in, take);
				to += take;
				offset += take;
				count -= take;
				continue;
			}
		}
		if (stop - block > PIECE / size)
			stop = block + PIECE / size;
		read_fully(layer->fd, limit->stored, layer->block[stop] - layer->block[block], layer->block[block]);
		for (; block < stop; block++, in = 0) {
			uint64_t length = layer->block[block + 1] - layer->block[block];
			uint64_t take = size - in < count ? size - in : count;

			if (take == size) {
				decode(limit, stored, length, to, size);
			} else {
				decode(limit, stored, length, limit->kept, in + take);
				memcpy(to, limit->kept + in, take);
				limit->kept_layer = layer;
				limit->kept_block = block;
				limit->kept_valid = limit->partial ? in + take : size;
			}
			stored += length;
			to += take;
			offset += take;
			count -= take;
		}
	}
}

static void read_request(struct limit *limit, uint8_t *to, uint64_t count, uint64_t offset)
{
	while (count) {
		uint64_t place = limit->place[offset / CHUNK], at = place & ((UINT64_C(1) << 56) - 1);
		uint64_t part = CHUNK - offset % CHUNK;
		const struct stored_layer *layer = &limit->layers[place >> 56];

		/* a stack of one layer has no chunks: all of it lies in one run */
		if (limit->disk->layers == 1 || part > count)
			part = count;
		at += offset % CHUNK;
		if (limit->disk->format->algo)
			read_blocks(limit, layer, to, part, at);
		else
			read_fully(layer->fd, to, part, at);
		to += part;
		offset += part;
		count -= part;
	}
}

static uint64_t run(struct limit *limit, struct load load, double seconds, bool check)
{
	uint8_t *buffers = aligned_alloc(4096, (size_t)load.count * load.depth);
	const double start = seconds_now();
	uint64_t requests = 0;

	if (!buffers)
		die("no memory");
	memset(buffers, 1, (size_t)load.count * load.depth);
	limit->kept_layer = NULL;
	do {
		for (int i = 0; i < 16; i++) {
			uint64_t offset = load_next(&load, limit->disk->size);
			uint8_t *buffer = buffers + (size_t)load.count * (requests++ % load.depth);

			read_request(limit, buffer, load.count, offset);
			if (check)
				check_bytes(limit->disk, offset, buffer, load.count);
		}
	} while (seconds_now() - start < seconds);
	free(buffers);
	return requests;
}

struct speed limit_run(struct limit *limit, struct load load, bool partial, double seconds, bool check)
{
	struct stopwatch since = stopwatch_start();

	limit->partial = partial;
	return stopwatch_speed(&since, run(limit, load, seconds, check));
}

struct one_of_several {
	pthread_t thread;
	struct limit *limit;
	struct load load;
	double seconds;
	uint64_t requests;
};

static void *run_one(void *argument)
{
	struct one_of_several *one = argument;

	one->requests = run(one->limit, one->load, one->seconds, false);
	return NULL;
}

struct speed limit_run_threads(struct limit **limits, unsigned threads, struct load load, double seconds)
{
	struct one_of_several all[THREADS_MAX];
	struct stopwatch since = stopwatch_start();
	uint64_t requests = 0;

	for (unsigned i = 0; i < threads; i++) {
		limits[i]->partial = false;
		all[i] = (struct one_of_several){.limit = limits[i], .load = load, .seconds = seconds};
		/* sequential readers at different places, or the second would find the first one's data in a cache */
		all[i].load.random += i;
		all[i].load.offset = limits[i]->disk->size / load.count / threads * i * load.count;
		if (pthread_create(&all[i].thread, NULL, run_one, &all[i]))
			die("no thread");
	}
	for (unsigned i = 0; i < threads; i++) {
		pthread_join(all[i].thread, NULL);
		requests += all[i].requests;
	}
	return stopwatch_speed(&since, requests);
}
