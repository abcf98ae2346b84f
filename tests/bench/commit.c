/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Committing a layer as lz4 in blocks of 4 KiB, to a file that is on the disk at the end, beside the one thing that
 * cannot be left out: LZ4_compress_default over the same blocks, which lie in memory, to nowhere.
 */
#include <lz4.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../native/obd.h"
#include "probe.h"

enum { BLOCK = 4096 };

struct bare {
	pthread_t thread;
	const uint8_t *data;
	uint64_t size;
};

static void *bare_loop(void *argument)
{
	const struct bare *bare = argument;
	char to[LZ4_COMPRESSBOUND(BLOCK)];

	for (uint64_t at = 0; at < bare->size; at += BLOCK)
		if (LZ4_compress_default((const char *)bare->data + at, to, BLOCK, sizeof(to)) <= 0)
			die("limit: a block does not compress");
	return NULL;
}

/* Each thread its part of the blocks. */
static struct speed bare_run(const struct disk *disk, unsigned threads)
{
	const uint64_t part = disk->size / threads / BLOCK * BLOCK;
	struct bare all[THREADS_MAX];
	struct stopwatch since = stopwatch_start();

	for (unsigned i = 0; i < threads; i++) {
		all[i] = (struct bare){.data = disk->data + i * part, .size = part};
		if (pthread_create(&all[i].thread, NULL, bare_loop, &all[i]))
			die("no thread");
	}
	for (unsigned i = 0; i < threads; i++)
		pthread_join(all[i].thread, NULL);
	return stopwatch_speed(&since, part * threads / BLOCK);
}

static struct obd_layer *open_layer(const char *path)
{
	struct obd_error error = {0};
	struct obd_layer *layer;
	struct obd_blob *blob;

	if (obd_blob_open(path, 0, &blob, &error) || obd_layer_open(blob, &layer, &error))
		die("%s", error.text);
	return layer;
}

static struct speed commit_run(const struct disk *disk, struct obd_layer *layer, const char *path, unsigned threads)
{
	const struct obd_commit_options options = {0};
	const struct obd_output_options output = {
		.path = path,
		.mode = 0644,
		.algo = 1,
		.block_size = BLOCK,
		.final_header = 1,
		.threads = threads,
	};
	struct obd_error error = {0};
	struct stopwatch since;

	unlink(path); /* giving back the space of the last one is no part of it */
	since = stopwatch_start();
	if (obd_commit(&layer, 1, NULL, &options, &output, NULL, &error))
		die("%s", error.text);
	return stopwatch_speed(&since, disk->size / BLOCK);
}

static void check_committed(const struct disk *disk, const char *path)
{
	const struct obd_image_options options = {0};
	struct obd_layer *layer = open_layer(path);
	struct obd_error error = {0};
	struct obd_image *image;
	uint8_t *bytes = malloc(CHUNK);

	if (!bytes || obd_image_create(&layer, 1, NULL, &options, NULL, "committed", &image, &error))
		die("%s", error.text);
	for (uint64_t at = 0; at < disk->size; at += CHUNK) {
		if (obd_image_pread(image, bytes, CHUNK, at) != CHUNK)
			die("%s: cannot be read at %llu", path, (unsigned long long)at);
		check_bytes(disk, at, bytes, CHUNK);
	}
	obd_image_destroy(image);
	free(bytes);
}

/* One core for both sides, writer included; more than one thread may use every core. */
static void stay_on_one_core(void)
{
	cpu_set_t cpus, one;

	CPU_ZERO(&one);
	if (sched_getaffinity(0, sizeof(cpus), &cpus))
		die("no affinity");
	for (int i = 0; i < CPU_SETSIZE; i++)
		if (CPU_ISSET(i, &cpus)) {
			CPU_SET(i, &one);
			break;
		}
	if (sched_setaffinity(0, sizeof(one), &one))
		die("cannot stay on one core");
}

void commit_rounds(const struct disk *disk, unsigned threads, unsigned rounds)
{
	struct obd_layer *layer;
	char path[4096];

	if (threads == 1)
		stay_on_one_core();
	layer_path(disk, 0, path, sizeof(path));
	layer = open_layer(path);
	snprintf(path, sizeof(path), "%s/committed", disk->folder);
	commit_run(disk, layer, path, threads);
	check_committed(disk, path);
	bare_run(disk, 1); /* touches all of the data once */
	for (unsigned i = 0; i < rounds; i++) {
		printf("{");
		print_speed("limit", bare_run(disk, 1), ", ");
		if (threads > 1)
			print_speed("limit_threads", bare_run(disk, threads), ", ");
		print_speed("ours", commit_run(disk, layer, path, threads), "}\n");
	}
	unlink(path);
	obd_layer_close(layer);
}
