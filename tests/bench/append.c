/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random 4 KiB writes to an append-only layer, against a bare loop that appends the same bytes to the same two files: a
 * block to one, an entry of 16 bytes to the other, and syncs both as often. Files are new in every round, and gone after
 * it.
 */
#include <fcntl.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../native/image.h"
#include "probe.h"

enum { BLOCK = 4096, ENTRY = 16, DEPTH_MAX = 128 };

#define DISK (UINT64_C(64) << 30)

struct target {
	char data[4096], index[4096];
	unsigned depth, sync_every; /* writes; 0: never */
	double seconds;
};

static void forget(const struct target *target)
{
	unlink(target->data);
	unlink(target->index);
}

static void append(int fd, const void *buf, size_t count, uint64_t offset)
{
	if (pwrite(fd, buf, count, (off_t)offset) != (ssize_t)count)
		die("a write failed");
}

/* entries: the second file as well. */
static struct speed bare(const struct target *target, bool entries)
{
	const int data = open(target->data, O_RDWR | O_CREAT | O_TRUNC, 0644);
	const int index = open(target->index, O_RDWR | O_CREAT | O_TRUNC, 0644);
	uint8_t *buffer = aligned_alloc(BLOCK, BLOCK);
	struct stopwatch stopwatch;
	struct speed speed;
	uint64_t count = 0;
	double now;

	if (data < 0 || index < 0 || !buffer)
		die("%s cannot be made", target->data);
	memset(buffer, 1, BLOCK);
	stopwatch = stopwatch_start();
	for (now = stopwatch.wall; now - stopwatch.wall < target->seconds;) {
		append(data, buffer, BLOCK, BLOCK + count * BLOCK);
		if (entries)
			append(index, buffer, ENTRY, BLOCK + count * ENTRY);
		count++;
		if (target->sync_every && count % target->sync_every == 0 &&
		    (fdatasync(data) || (entries && fdatasync(index))))
			die("a sync failed");
		if (count % 16 == 0)
			now = seconds_now();
	}
	speed = stopwatch_speed(&stopwatch, count);
	close(data);
	close(index);
	free(buffer);
	forget(target);
	return speed;
}

/* Requests on their way, and who waits for the last of them. */
struct flight {
	unsigned left; /* atomic */
	sem_t over;
};

struct command {
	struct obd_request request;
	struct iovec iov;
	struct flight *flight;
};

static void command_done(struct obd_request *request)
{
	struct command *command = (struct command *)request;

	if (request->result < 0)
		die("a request failed: %s", strerror(-request->result));
	if (!__atomic_sub_fetch(&command->flight->left, 1, __ATOMIC_ACQ_REL))
		sem_post(&command->flight->over);
}

static void submit(struct obd_image *image, struct obd_worker *worker, struct command *commands, unsigned count)
{
	struct obd_request *batch[DEPTH_MAX];
	struct flight flight = {.left = count};

	sem_init(&flight.over, 0, 0);
	for (unsigned i = 0; i < count; i++) {
		commands[i].flight = &flight;
		commands[i].request.done = command_done;
		batch[i] = &commands[i].request;
	}
	obd_image_submit(image, worker, batch, count);
	while (obd_image_work(image, worker))
		;
	sem_wait(&flight.over);
	sem_destroy(&flight.over);
}

static struct obd_image *open_image(const struct target *target)
{
	const struct obd_upper_options options = {.virtual_size = DISK};
	const struct obd_image_options image_options = {.helpers = 1};
	struct obd_upper *upper;
	struct obd_image *image;
	struct obd_error error;

	if (obd_upper_create(target->data, target->index, &options, &error) ||
	    obd_upper_open(target->data, target->index, 0, &upper, &error) ||
	    obd_image_create(NULL, 0, upper, &image_options, NULL, "bench", &image, &error))
		die("%s", error.text);
	return image;
}

static void aim(struct command *command, void *buffer, uint64_t *random)
{
	command->iov = (struct iovec){buffer, BLOCK};
	command->request = (struct obd_request){
		.op = OBD_WRITE,
		.offset = next_random(random) % (DISK / BLOCK) * BLOCK,
		.count = BLOCK,
		.iov = &command->iov,
		.iov_count = 1,
	};
}

static struct speed ours(const struct target *target, uint64_t *random)
{
	struct command commands[DEPTH_MAX] = {0}, flush = {.request.op = OBD_FLUSH};
	struct obd_image *image = open_image(target);
	uint8_t *buffer = aligned_alloc(BLOCK, BLOCK);
	struct obd_worker *worker;
	struct stopwatch stopwatch;
	struct speed speed;
	uint64_t count = 0;
	double now;

	if (!buffer || obd_worker_create(image, &worker))
		die("no memory");
	memset(buffer, 1, BLOCK);
	stopwatch = stopwatch_start();
	now = stopwatch.wall;
	for (unsigned turn = 0; now - stopwatch.wall < target->seconds; turn++) {
		for (unsigned i = 0; i < target->depth; i++)
			aim(&commands[i], buffer, random);
		submit(image, worker, commands, target->depth);
		count += target->depth;
		if (target->sync_every && count % target->sync_every == 0)
			submit(image, worker, &flush, 1);
		if (turn % 16 == 0 || target->depth > 1)
			now = seconds_now();
	}
	speed = stopwatch_speed(&stopwatch, count);
	obd_worker_destroy(worker);
	obd_image_destroy(image);
	free(buffer);
	forget(target);
	return speed;
}

void append_rounds(const char *folder, unsigned depth, unsigned sync_every, double seconds, unsigned rounds)
{
	struct target target = {.depth = depth, .sync_every = sync_every, .seconds = seconds};
	uint64_t random = 1;

	if (!depth || depth > DEPTH_MAX || (sync_every && sync_every % depth))
		die("depth: %u", depth);
	snprintf(target.data, sizeof(target.data), "%s/append.data", folder);
	snprintf(target.index, sizeof(target.index), "%s/append.index", folder);
	forget(&target);
	for (unsigned i = 0; i < rounds; i++) {
		printf("{");
		print_speed("limit", bare(&target, true), ", ");
		print_speed("data_alone", bare(&target, false), ", ");
		print_speed("ours", ours(&target, &random), "}\n");
	}
}
