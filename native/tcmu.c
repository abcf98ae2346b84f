/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The front end of one TCMU device. One thread takes commands from the ring, answers what needs no data, and submits
 * the rest; whoever finishes a request writes its answer into the ring at once, and the kernel is told of several
 * together where that costs no latency:
 *
 *     taken ---> answered at once ---------------------------.
 *        `-----> submitted ---> done(), any thread ----------+--> ring_lock: into the ring --> notify()
 *
 * Locks: ring_lock guards the ring's tail and the list of free commands, for the copy of one answer; nothing is taken
 * under it. Telling the kernel needs none: `unsaid` is set behind each answer, and who swaps it to 0 writes.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "error.h"
#include "image.h"
#include "latency.h"
#include "ring.h"
#include "scsi.h"

enum {
	BATCH = 64,	   /* requests submitted at once */
	INLINE_IOV = 8,	   /* of a command's own; longer lists are allocated once and kept */
	CHUNK = 32,	   /* commands allocated together */
	NOTIFY_NS = 20000, /* answers wait at most about this long for others to be told with them */
	STARVED_MS = 1,	   /* no memory for a command: look again */
	DRAIN_NS = 200000, /* between two looks while the last reads end */
};

struct command {
	struct obd_request request; /* first: done() gets a pointer to it */
	struct obd_tcmu *tcmu;
	struct obd_scsi_command scsi;
	struct iovec *iov; /* room for iov_room, or own */
	unsigned iov_room;
	uint16_t id;
	uint64_t taken; /* atomic: when, ns; 0: nothing is submitted. Set last, with it the next three are true */
	uint64_t offset, count;
	uint32_t kind;
	struct command *next;
	struct iovec own[INLINE_IOV];
};

struct chunk {
	struct chunk *next;
	struct command commands[CHUNK];
};

struct obd_tcmu {
	struct obd_image *image;
	struct obd_worker *worker;
	struct obd_scsi scsi;
	uint64_t size; /* bytes: what scsi.blocks was made of */
	char *serial_path, *cfgstring;
	int uio_fd, stop_fd;
	bool stop;	   /* atomic */
	bool looking;	   /* atomic: the device's thread is awake and will look at unsaid */
	bool unsaid;	   /* atomic: the ring has answers that the kernel was not told of */
	uint64_t said;	   /* atomic: when it was last told, ns */
	unsigned inflight; /* atomic; the last thing done() touches */
	pthread_mutex_t ring_lock;
	struct obd_ring ring;
	struct command *free_commands;
	struct chunk *chunks;	     /* atomic: only grows, for obd_tcmu_pending */
	struct obd_tcmu_stats stats; /* notifies: atomic; errors: under ring_lock; others are the device's thread's */
	struct obd_latency latency[OBD_TCMU_KINDS]; /* written under ring_lock */
};

static __thread const struct obd_tcmu *serving; /* whose thread this is */

static inline void count(uint64_t *counter)
{
	__atomic_store_n(counter, *counter + 1, __ATOMIC_RELAXED);
}

/* ---- telling the kernel ---- */

static void notify(struct obd_tcmu *tcmu)
{
	const int32_t any = 0;

	if (!__atomic_load_n(&tcmu->unsaid, __ATOMIC_RELAXED) ||
	    !__atomic_exchange_n(&tcmu->unsaid, false, __ATOMIC_SEQ_CST))
		return;
	__atomic_store_n(&tcmu->said, obd_now_ns(), __ATOMIC_RELAXED);
	__atomic_add_fetch(&tcmu->stats.notifies, 1, __ATOMIC_RELAXED);
	/* fails only for a device that is gone, which the device's thread sees itself */
	while (write(tcmu->uio_fd, &any, sizeof(any)) < 0 && errno == EINTR)
		;
}

static bool notify_is_due(const struct obd_tcmu *tcmu)
{
	return obd_now_ns() - __atomic_load_n(&tcmu->said, __ATOMIC_RELAXED) >= NOTIFY_NS;
}

/* ---- answering ---- */

/* What a submitted command has come to. Called with ring_lock, which is taken for the answer anyway. */
static void account(struct obd_tcmu *tcmu, struct command *command, uint64_t now)
{
	obd_latency_add(&tcmu->latency[command->kind], now - command->taken);
	if (command->request.result)
		count(command->kind == OBD_TCMU_READ ? &tcmu->stats.read_errors : &tcmu->stats.change_errors);
	__atomic_store_n(&command->taken, 0, __ATOMIC_RELEASE);
}

static void complete(struct obd_tcmu *tcmu, struct command *command, const struct obd_scsi_answer *answer)
{
	struct obd_ring_answer to_ring = {.status = answer->status};
	const uint64_t now = command->taken ? obd_now_ns() : 0;

	if (answer->status == OBD_SCSI_CHECK_CONDITION) {
		to_ring.sense = answer->sense;
		to_ring.sense_count = sizeof(answer->sense);
	} else if (answer->read_count < command->scsi.data_count) {
		to_ring.read_count = answer->read_count;
	}
	pthread_mutex_lock(&tcmu->ring_lock);
	if (now)
		account(tcmu, command, now);
	obd_ring_complete(&tcmu->ring, command->id, &to_ring);
	command->next = tcmu->free_commands;
	tcmu->free_commands = command;
	pthread_mutex_unlock(&tcmu->ring_lock);
	__atomic_store_n(&tcmu->unsaid, true, __ATOMIC_SEQ_CST);
}

/* Any thread. The device's own tells the kernel later, in serve(); another one leaves it to it when it is soon. */
static void request_done(struct obd_request *request)
{
	struct command *command = (struct command *)request;
	struct obd_tcmu *tcmu = command->tcmu;
	struct obd_scsi_answer answer = {.status = OBD_SCSI_GOOD};

	if (request->result == -ECANCELED) {
		/* the device goes, or whoever serves it next is asked again: the command stays unanswered */
		__atomic_sub_fetch(&tcmu->inflight, 1, __ATOMIC_RELEASE);
		return;
	}
	if (request->op != OBD_READ && request->result)
		obd_scsi_change_failed(-request->result, &answer);
	else if (request->result)
		obd_scsi_read_failed(&tcmu->scsi, request->offset, &answer);
	else if (request->op == OBD_READ)
		answer.read_count = (uint32_t)request->count;
	complete(tcmu, command, &answer);
	if (serving != tcmu && (!__atomic_load_n(&tcmu->looking, __ATOMIC_SEQ_CST) || notify_is_due(tcmu)))
		notify(tcmu);
	__atomic_sub_fetch(&tcmu->inflight, 1, __ATOMIC_RELEASE);
}

/* ---- taking ---- */

/* false: no memory. Called with ring_lock. */
static bool more_commands(struct obd_tcmu *tcmu)
{
	struct chunk *chunk = calloc(1, sizeof(*chunk));

	if (!chunk)
		return false;
	chunk->next = tcmu->chunks;
	for (unsigned i = 0; i < CHUNK; i++) {
		struct command *command = &chunk->commands[i];

		command->tcmu = tcmu;
		command->iov = command->own;
		command->iov_room = INLINE_IOV;
		command->next = tcmu->free_commands;
		tcmu->free_commands = command;
	}
	__atomic_store_n(&tcmu->chunks, chunk, __ATOMIC_RELEASE);
	return true;
}

/* false: no memory; the list is as it was. */
static bool grow_iovec(struct command *command, unsigned count)
{
	struct iovec *iov = malloc(count * sizeof(*iov));

	if (!iov)
		return false;
	if (command->iov != command->own)
		free(command->iov);
	command->iov = iov;
	command->iov_room = count;
	return true;
}

static struct command *new_command(struct obd_tcmu *tcmu, unsigned iov_count)
{
	struct command *command;

	pthread_mutex_lock(&tcmu->ring_lock);
	if (tcmu->free_commands || more_commands(tcmu)) {
		command = tcmu->free_commands;
		tcmu->free_commands = command->next;
	} else {
		command = NULL;
	}
	pthread_mutex_unlock(&tcmu->ring_lock);
	if (command && iov_count > command->iov_room && !grow_iovec(command, iov_count)) {
		pthread_mutex_lock(&tcmu->ring_lock);
		command->next = tcmu->free_commands;
		tcmu->free_commands = command;
		pthread_mutex_unlock(&tcmu->ring_lock);
		return NULL;
	}
	return command;
}

/* The first count bytes of the command's iovec, which has at least that many. */
static unsigned trim_iovec(struct command *command, uint64_t wanted)
{
	unsigned used = 0;

	while (wanted) {
		struct iovec *iov = &command->iov[used++];

		if (iov->iov_len > wanted)
			iov->iov_len = (size_t)wanted;
		wanted -= iov->iov_len;
	}
	return used;
}

/* The block that the iovec begins with, as often as it fits into count bytes. 0: no memory. */
static unsigned repeat_iovec(struct command *command, size_t block_size, uint64_t count)
{
	const struct iovec block = {command->iov[0].iov_base, block_size};
	const unsigned blocks = (unsigned)(count / block_size);

	if (blocks > command->iov_room && !grow_iovec(command, blocks))
		return 0;
	for (unsigned i = 0; i < blocks; i++)
		command->iov[i] = block;
	return blocks;
}

/* false: no memory. */
static bool fill_request(struct obd_tcmu *tcmu, struct command *command, enum obd_scsi_verdict verdict, uint64_t offset,
			 uint64_t bytes)
{
	static const enum obd_op ops[] = {
		[OBD_SCSI_READ] = OBD_READ,	  [OBD_SCSI_WRITE] = OBD_WRITE, [OBD_SCSI_REPEAT] = OBD_WRITE,
		[OBD_SCSI_DISCARD] = OBD_DISCARD, [OBD_SCSI_FLUSH] = OBD_FLUSH,
	};
	struct obd_request *request = &command->request;

	request->op = ops[verdict];
	request->offset = offset;
	request->count = bytes;
	request->iov_count = 0;
	request->done = request_done;
	if (verdict == OBD_SCSI_REPEAT)
		request->iov_count = repeat_iovec(command, tcmu->scsi.block_size, bytes);
	else if (verdict == OBD_SCSI_READ || verdict == OBD_SCSI_WRITE)
		request->iov_count = trim_iovec(command, bytes);
	request->iov = command->iov;
	return verdict != OBD_SCSI_REPEAT || request->iov_count;
}

/* From here on obd_tcmu_pending sees it. */
static void watch(struct command *command, uint64_t now)
{
	static const uint32_t kinds[] = {
		[OBD_READ] = OBD_TCMU_READ,
		[OBD_WRITE] = OBD_TCMU_WRITE,
		[OBD_FLUSH] = OBD_TCMU_FLUSH,
		[OBD_DISCARD] = OBD_TCMU_DISCARD,
	};
	const struct obd_request *request = &command->request;

	__atomic_store_n(&command->offset, request->offset, __ATOMIC_RELAXED);
	__atomic_store_n(&command->count, request->count, __ATOMIC_RELAXED);
	__atomic_store_n(&command->kind, kinds[request->op], __ATOMIC_RELAXED);
	__atomic_store_n(&command->taken, now, __ATOMIC_RELEASE);
}

static uint64_t *counter_of(struct obd_tcmu *tcmu, enum obd_scsi_verdict verdict)
{
	switch (verdict) {
	case OBD_SCSI_READ:
		return &tcmu->stats.reads;
	case OBD_SCSI_WRITE:
	case OBD_SCSI_REPEAT:
		return &tcmu->stats.writes;
	case OBD_SCSI_REJECTED:
		return &tcmu->stats.rejected;
	default:
		return &tcmu->stats.others;
	}
}

/* The image may have grown; a command that is taken from now on may be anywhere in it. */
static void look_at_size(struct obd_tcmu *tcmu)
{
	const uint64_t size = obd_image_bytes(tcmu->image);

	if (size == tcmu->size)
		return;
	tcmu->size = size;
	tcmu->scsi.blocks = size / tcmu->scsi.block_size;
	tcmu->scsi.capacity_changed = true;
}

/* 1: *ret is a request to submit; 0: it was answered; -errno. */
static int begin_command(struct obd_tcmu *tcmu, struct command *command, const struct obd_ring_entry *entry,
			 struct obd_request **ret)
{
	struct obd_scsi_command *scsi = &command->scsi;
	struct obd_scsi_answer answer;
	enum obd_scsi_verdict verdict;
	uint64_t offset = 0, bytes = 0;
	int r;

	command->id = entry->id;
	memset(scsi->cdb, 0, sizeof(scsi->cdb));
	memcpy(scsi->cdb, entry->cdb, entry->cdb_room);
	scsi->iov = command->iov;
	r = obd_ring_iovec(&tcmu->ring, entry, command->iov, &scsi->iov_count, &scsi->data_count);
	if (r)
		return r;
	count(&tcmu->stats.commands);
	look_at_size(tcmu);
	verdict = obd_scsi_execute(&tcmu->scsi, scsi, &answer, &offset, &bytes);
	count(counter_of(tcmu, verdict));
	if (verdict > OBD_SCSI_REJECTED) {
		if (fill_request(tcmu, command, verdict, offset, bytes)) {
			*ret = &command->request;
			return 1;
		}
		answer = (struct obd_scsi_answer){.status = OBD_SCSI_TASK_SET_FULL}; /* try again */
	}
	complete(tcmu, command, &answer);
	return 0;
}

/* Takes what is in the ring and submits it. Commands taken, or -errno for a ring that cannot be read on. */
static int take_commands(struct obd_tcmu *tcmu, bool *starved)
{
	struct obd_request *batch[BATCH];
	struct obd_ring_entry entry;
	uint64_t now = 0; /* one look at the clock is enough for a batch */
	unsigned requests = 0;
	int r = 0, taken = 0;

	*starved = false;
	while (requests < BATCH && (r = obd_ring_next(&tcmu->ring, &entry)) > 0) {
		struct command *command = new_command(tcmu, entry.iov_count);

		if (!command) {
			obd_ring_untake(&tcmu->ring, &entry);
			*starved = true;
			break;
		}
		r = begin_command(tcmu, command, &entry, &batch[requests]);
		if (r < 0)
			break;
		if (r) {
			now = now ? now : obd_now_ns();
			watch(command, now);
		}
		requests += (unsigned)r;
		taken++;
	}
	if (requests) {
		__atomic_add_fetch(&tcmu->inflight, requests, __ATOMIC_RELAXED);
		obd_image_submit(tcmu->image, tcmu->worker, batch, requests);
	}
	return r < 0 ? r : taken;
}

/* ---- the loop ---- */

/* Waits for the ring, or stop. 0, or -ENODEV. */
static int wait_for_commands(struct obd_tcmu *tcmu, bool starved)
{
	struct pollfd fds[] = {{.fd = tcmu->uio_fd, .events = POLLIN}, {.fd = tcmu->stop_fd, .events = POLLIN}};
	uint32_t events;
	ssize_t r;

	/* from here on whoever answers tells the kernel; what was answered before is told now */
	__atomic_store_n(&tcmu->looking, false, __ATOMIC_SEQ_CST);
	notify(tcmu);
	if (poll(fds, 2, starved ? STARVED_MS : obd_image_rest(tcmu->image)) < 0 && errno != EINTR)
		return -errno;
	__atomic_store_n(&tcmu->looking, true, __ATOMIC_SEQ_CST);
	if (!fds[0].revents)
		return 0;
	count(&tcmu->stats.wakeups);
	r = read(tcmu->uio_fd, &events, sizeof(events));
	if (r > 0 || (r < 0 && errno == EAGAIN && !(fds[0].revents & (POLLERR | POLLHUP | POLLNVAL))))
		return 0;
	return -ENODEV; /* unregistered: reads fail with EIO for ever */
}

static int serve(struct obd_tcmu *tcmu)
{
	while (!__atomic_load_n(&tcmu->stop, __ATOMIC_ACQUIRE)) {
		bool starved, more;
		int taken = take_commands(tcmu, &starved), r;

		if (taken < 0) {
			obd_image_report(tcmu->image, OBD_EVENT_DEVICE, -taken,
					 "the command ring holds an entry that makes no sense; not served any more");
			return taken;
		}
		more = obd_image_work(tcmu->image, tcmu->worker);
		if (taken || more) {
			if (__atomic_load_n(&tcmu->unsaid, __ATOMIC_RELAXED) && notify_is_due(tcmu))
				notify(tcmu);
			continue;
		}
		pthread_mutex_lock(&tcmu->ring_lock);
		obd_ring_skip(&tcmu->ring, tcmu->ring.taken);
		pthread_mutex_unlock(&tcmu->ring_lock);
		r = wait_for_commands(tcmu, starved);
		if (r)
			return r;
	}
	return 0;
}

/* The last reads end on whatever thread has them; done() touches nothing of ours once inflight is 0. */
static void drain(struct obd_tcmu *tcmu)
{
	const struct timespec pause = {0, DRAIN_NS};

	while (__atomic_load_n(&tcmu->inflight, __ATOMIC_ACQUIRE)) {
		while (obd_image_work(tcmu->image, tcmu->worker))
			;
		notify(tcmu);
		nanosleep(&pause, NULL);
	}
	notify(tcmu);
}

int obd_tcmu_run(struct obd_tcmu *tcmu)
{
	int r;

	serving = tcmu;
	__atomic_store_n(&tcmu->looking, true, __ATOMIC_SEQ_CST);
	r = serve(tcmu);
	__atomic_store_n(&tcmu->looking, false, __ATOMIC_SEQ_CST);
	drain(tcmu);
	serving = NULL;
	return r;
}

void obd_tcmu_stop(struct obd_tcmu *tcmu)
{
	const uint64_t one = 1;

	__atomic_store_n(&tcmu->stop, true, __ATOMIC_RELEASE);
	while (write(tcmu->stop_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

void obd_tcmu_stats(const struct obd_tcmu *tcmu, struct obd_tcmu_stats *ret)
{
	const uint64_t *from = (const uint64_t *)&tcmu->stats;
	uint64_t *to = (uint64_t *)ret;

	for (size_t i = 0; i < sizeof(*ret) / sizeof(*to); i++)
		to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
	ret->inflight = __atomic_load_n(&tcmu->inflight, __ATOMIC_RELAXED);
}

int obd_tcmu_latency(const struct obd_tcmu *tcmu, uint32_t kind, struct obd_latency *ret)
{
	if (kind >= OBD_TCMU_KINDS)
		return -EINVAL;
	*ret = (struct obd_latency){0};
	obd_latency_sum(ret, &tcmu->latency[kind]);
	return 0;
}

/* false: it is answered, or another one by now. */
static bool look(const struct command *command, uint64_t now, struct obd_tcmu_pending *ret)
{
	const uint64_t taken = __atomic_load_n(&command->taken, __ATOMIC_ACQUIRE);

	if (!taken)
		return false;
	*ret = (struct obd_tcmu_pending){
		.age_ns = now > taken ? now - taken : 0,
		.offset = __atomic_load_n(&command->offset, __ATOMIC_ACQUIRE),
		.count = __atomic_load_n(&command->count, __ATOMIC_ACQUIRE),
		.kind = __atomic_load_n(&command->kind, __ATOMIC_ACQUIRE),
	};
	return __atomic_load_n(&command->taken, __ATOMIC_ACQUIRE) == taken;
}

uint32_t obd_tcmu_pending(const struct obd_tcmu *tcmu, struct obd_tcmu_pending *ret, uint32_t max)
{
	const struct chunk *chunk = __atomic_load_n(&tcmu->chunks, __ATOMIC_ACQUIRE);
	const uint64_t now = obd_now_ns();
	uint32_t found = 0;

	for (; chunk; chunk = chunk->next)
		for (unsigned i = 0; i < CHUNK && found < max; i++)
			found += look(&chunk->commands[i], now, &ret[found]);
	return found;
}

/* ---- life ---- */

static int describe_disk(struct obd_tcmu *tcmu, const struct obd_tcmu_options *options, struct obd_error *err)
{
	struct obd_image_info info;
	uint64_t size;

	obd_image_info(tcmu->image, &info);
	size = info.virtual_size;
	if (options->block_size != 512 && options->block_size != 4096)
		return obd_fail(err, EINVAL, "hw_block_size: %u is neither 512 nor 4096", options->block_size);
	if (size < options->block_size)
		return obd_fail(err, EINVAL, "virtual_size: %llu bytes are less than one block of %u",
				(unsigned long long)size, options->block_size);
	tcmu->cfgstring = strdup(options->cfgstring ? options->cfgstring : "");
	tcmu->serial_path = options->serial_path ? strdup(options->serial_path) : NULL;
	if (!tcmu->cfgstring || (options->serial_path && !tcmu->serial_path))
		return obd_fail(err, ENOMEM, "no memory for a device");
	tcmu->size = size;
	tcmu->scsi = (struct obd_scsi){
		.blocks = size / options->block_size,
		.block_size = options->block_size,
		.max_transfer = options->max_transfer,
		.read_only = options->read_only || !info.writable,
		.discard = !options->read_only && info.discard,
		.serial_path = tcmu->serial_path,
		.cfgstring = tcmu->cfgstring,
	};
	return 0;
}

int obd_tcmu_create(struct obd_image *image, const struct obd_tcmu_options *options, struct obd_tcmu **ret,
		    struct obd_error *err)
{
	struct obd_tcmu *tcmu = calloc(1, sizeof(*tcmu));
	int r;

	if (!tcmu)
		return obd_fail(err, ENOMEM, "no memory for a device");
	tcmu->image = image;
	tcmu->uio_fd = options->uio_fd;
	pthread_mutex_init(&tcmu->ring_lock, NULL);
	tcmu->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r = tcmu->stop_fd < 0 ? obd_fail(err, errno, "eventfd: %s", strerror(errno)) : 0;
	if (!r)
		r = obd_ring_init(&tcmu->ring, options->map, options->map_size, err);
	if (!r)
		r = describe_disk(tcmu, options, err);
	if (!r && obd_worker_create(image, &tcmu->worker))
		r = obd_fail(err, ENOMEM, "no memory for a device");
	if (r) {
		obd_tcmu_destroy(tcmu);
		return r;
	}
	*ret = tcmu;
	return 0;
}

void obd_tcmu_destroy(struct obd_tcmu *tcmu)
{
	if (!tcmu)
		return;
	if (tcmu->worker)
		obd_worker_destroy(tcmu->worker);
	while (tcmu->chunks) {
		struct chunk *chunk = tcmu->chunks;

		tcmu->chunks = chunk->next;
		for (unsigned i = 0; i < CHUNK; i++)
			if (chunk->commands[i].iov != chunk->commands[i].own)
				free(chunk->commands[i].iov);
		free(chunk);
	}
	if (tcmu->stop_fd >= 0)
		close(tcmu->stop_fd);
	pthread_mutex_destroy(&tcmu->ring_lock);
	free(tcmu->serial_path);
	free(tcmu->cfgstring);
	free(tcmu);
}
