/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A front end that does nothing but ask: it keeps a number of requests in flight against native/image.h, as a ring with
 * that many commands would, and looks at what is done after each piece of work, as the TCMU loop looks at its ring.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../native/image.h"
#include "probe.h"

enum { DEPTH_MAX = 256 };

struct driver {
	const struct disk *disk;
	struct obd_image *image;
	struct obd_worker *worker;
};

struct __attribute__((aligned(64))) command {
	struct obd_request request;
	struct iovec iov;
	struct run *run;
	struct command *next;
};

struct run {
	struct command *done; /* atomic: a stack that any thread pushes to and the front end empties */
	struct command commands[DEPTH_MAX];
	struct obd_request *batch[DEPTH_MAX];
	uint64_t requests, inflight;
};

struct driver *driver_open(const struct disk *disk, unsigned helpers)
{
	struct obd_image_options options = {.engine = OBD_ENGINE_PSYNC, .helpers = helpers};
	struct driver *driver = calloc(1, sizeof(*driver));
	struct obd_layer *layers[LAYERS];
	struct obd_error error;

	if (!driver)
		die("no memory");
	driver->disk = disk;
	for (unsigned i = 0; i < disk->layers; i++) {
		struct obd_blob *blob;
		char path[4096];

		layer_path(disk, i, path, sizeof(path));
		if (obd_blob_open(path, 0, &blob, &error) < 0 || obd_layer_open(blob, &layers[i], &error) < 0)
			die("%s", error.text);
	}
	if (obd_image_create(layers, disk->layers, NULL, &options, NULL, "bench", &driver->image, &error) < 0)
		die("%s", error.text);
	if (obd_worker_create(driver->image, &driver->worker) < 0)
		die("no memory");
	return driver;
}

void driver_close(struct driver *driver)
{
	obd_worker_destroy(driver->worker);
	obd_image_destroy(driver->image);
	free(driver);
}

static void command_done(struct obd_request *request)
{
	struct command *command = (struct command *)request;
	struct run *run = command->run;

	command->next = __atomic_load_n(&run->done, __ATOMIC_RELAXED);
	while (!__atomic_compare_exchange_n(&run->done, &command->next, command, true, __ATOMIC_RELEASE,
					    __ATOMIC_RELAXED))
		;
}

/* Takes what is done; gives each command its next offset, or retires it. Returns how many are to be submitted. */
static unsigned reap(struct driver *driver, struct run *run, struct load *load, bool more, bool check)
{
	struct command *command = __atomic_exchange_n(&run->done, NULL, __ATOMIC_ACQUIRE), *next;
	unsigned count = 0;

	for (; command; command = next) {
		next = command->next;
		if (command->request.result < 0)
			die("a read failed: %s", strerror(-command->request.result));
		if (check)
			check_bytes(driver->disk, command->request.offset, command->iov.iov_base, load->count);
		run->requests++;
		run->inflight--;
		if (!more)
			continue;
		command->request.offset = load_next(load, driver->disk->size);
		run->batch[count++] = &command->request;
	}
	run->inflight += count;
	return count;
}

static void start(struct driver *driver, struct run *run, struct load *load, uint8_t *buffers)
{
	for (unsigned i = 0; i < load->depth; i++) {
		struct command *command = &run->commands[i];

		command->run = run;
		command->iov = (struct iovec){buffers + (size_t)load->count * i, load->count};
		command->request = (struct obd_request){.op = OBD_READ,
							.offset = load_next(load, driver->disk->size),
							.count = load->count,
							.iov = &command->iov,
							.iov_count = 1,
							.done = command_done};
		run->batch[i] = &command->request;
	}
	run->inflight = load->depth;
	obd_image_submit(driver->image, driver->worker, run->batch, load->depth);
}

struct speed driver_run(struct driver *driver, struct load load, double seconds, bool check)
{
	uint8_t *buffers = aligned_alloc(4096, (size_t)load.count * load.depth);
	struct run *run = aligned_alloc(64, sizeof(*run));
	struct stopwatch since;
	struct speed speed;
	unsigned turn = 0;
	double now;

	if (!buffers || !run || load.depth > DEPTH_MAX)
		die("depth: %u", load.depth);
	memset(run, 0, sizeof(*run));
	memset(buffers, 1, (size_t)load.count * load.depth);
	since = stopwatch_start();
	now = since.wall;
	start(driver, run, &load, buffers);
	while (now - since.wall < seconds) {
		unsigned count = reap(driver, run, &load, true, check);

		if (count)
			obd_image_submit(driver->image, driver->worker, run->batch, count);
		obd_image_work(driver->image, driver->worker);
		// A look at the clock costs 25 ns: as seldom as the bare loop's.
		if (turn++ % 16 == 0 || load.count > 4096)
			now = seconds_now();
	}
	speed = stopwatch_speed(&since, run->requests);
	while (run->inflight) {
		obd_image_work(driver->image, driver->worker);
		reap(driver, run, &load, false, check);
	}
	free(run);
	free(buffers);
	return speed;
}
