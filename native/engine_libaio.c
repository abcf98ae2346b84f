/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ioEngine 1: the kernel's native AIO on O_DIRECT descriptors. The front end's thread only submits; one reaper thread
 * sleeps on an eventfd that the kernel signals and finishes slots, sharing them with the helpers when several are done
 * at once. Its place: disks that are faster with many reads in flight, and layers that shall not fill the page cache.
 */
#include <errno.h>
#include <libaio.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "error.h"
#include "image_private.h"
#include "thread.h"

struct obd_engine_state {
	struct obd_image *image;
	io_context_t context;
	int eventfd;
	bool stop; /* atomic */
	pthread_t reaper;
	struct obd_worker *worker; /* the reaper's */
	struct iocb *iocbs;	   /* OBD_SLOT_IOS for each slot */
	/* The kernel takes so many requests and then refuses; what does not fit waits here, in order. */
	pthread_mutex_t lock; /* guards the next two, held for a list operation */
	unsigned room;	      /* requests the kernel would still take */
	struct obd_slot *stalled, **stalled_tail;
};

static void wake_reaper(const struct obd_engine_state *state)
{
	const uint64_t one = 1;

	while (write(state->eventfd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

/* Gives the slot's reads to the kernel, which has room for them. */
static void start_slot(struct obd_engine_state *state, struct obd_slot *slot)
{
	struct iocb *iocbs = slot->engine;
	struct iocb *list[OBD_SLOT_IOS];
	const io_context_t context = state->context;
	const unsigned count = slot->count;
	unsigned started = 0;
	int r = 0;

	for (unsigned i = 0; i < count; i++) {
		struct obd_io *io = &slot->io[i];

		io_prep_pread(&iocbs[i], io->layer->blob->direct_fd, io->buffer, io->read_count,
			      (long long)io->read_offset);
		io_set_eventfd(&iocbs[i], state->eventfd);
		iocbs[i].data = io;
		list[i] = &iocbs[i];
	}
	/* once the last one is in the kernel's hands slot and state may be somebody else's, or gone: touched no more */
	for (unsigned i = 0; i < count; i++)
		obd_io_arm(slot, &slot->io[i]);
	while (started < count) {
		r = io_submit(context, (long)(count - started), list + started);
		if (r > 0)
			started += (unsigned)r;
		else if (r == -EAGAIN || r == -EINTR)
			sched_yield(); /* out of memory, then: we keep within the room it has */
		else
			break;
	}
	if (started == count)
		return;
	/* with its last reads still to be told of, the slot is ours, and state is there */
	pthread_mutex_lock(&state->lock);
	state->room += count - started;
	pthread_mutex_unlock(&state->lock);
	wake_reaper(state);
	while (started < count) {
		struct obd_io *io = list[started++]->data;

		if (obd_io_done(io, r ? r : -EIO))
			obd_work_ready(state->image, slot);
	}
}

/* Nobody waits here: who asks may be the reaper, or a front end with other commands to look after. */
static void libaio_submit(struct obd_engine_state *state, struct obd_slot *slot)
{
	bool fits;

	pthread_mutex_lock(&state->lock);
	fits = !state->stalled && slot->count <= state->room;
	if (fits) {
		state->room -= slot->count;
	} else {
		slot->next = NULL;
		*state->stalled_tail = slot;
		state->stalled_tail = &slot->next;
	}
	pthread_mutex_unlock(&state->lock);
	if (fits)
		start_slot(state, slot);
}

/* For the reaper: count requests are the kernel's no more. */
static void make_room(struct obd_engine_state *state, unsigned count)
{
	pthread_mutex_lock(&state->lock);
	state->room += count;
	while (state->stalled && state->stalled->count <= state->room) {
		struct obd_slot *slot = state->stalled;

		state->stalled = slot->next;
		if (!state->stalled)
			state->stalled_tail = &state->stalled;
		state->room -= slot->count;
		pthread_mutex_unlock(&state->lock);
		start_slot(state, slot);
		pthread_mutex_lock(&state->lock);
	}
	pthread_mutex_unlock(&state->lock);
}

/* Finishes what is done, the last one here and the others wherever there is a hand free. */
static void reap(struct obd_engine_state *state)
{
	struct io_event events[64];
	struct timespec now = {0};
	struct obd_slot *mine = NULL;
	int n;

	make_room(state, 0); /* for what could not be started, and was not the kernel's */
	while ((n = io_getevents(state->context, 0, 64, events, &now)) > 0) {
		make_room(state, (unsigned)n);
		for (int i = 0; i < n; i++) {
			struct obd_slot *slot = obd_io_done(events[i].data, (int64_t)events[i].res);

			if (!slot)
				continue;
			if (mine)
				obd_work_ready(state->image, mine);
			mine = slot;
		}
	}
	if (mine)
		obd_slot_finish(state->worker, mine);
	while (obd_image_work(state->image, state->worker))
		;
}

static void *reaper_main(void *argument)
{
	struct obd_engine_state *state = argument;

	pthread_setname_np(pthread_self(), "obd-reaper");
	for (;;) {
		uint64_t count;

		if (read(state->eventfd, &count, sizeof(count)) < 0 && errno != EINTR)
			return NULL;
		if (__atomic_load_n(&state->stop, __ATOMIC_ACQUIRE))
			return NULL;
		reap(state);
	}
}

static void libaio_destroy(struct obd_engine_state *state)
{
	if (!state)
		return;
	if (state->reaper) {
		__atomic_store_n(&state->stop, true, __ATOMIC_RELEASE);
		wake_reaper(state);
		pthread_join(state->reaper, NULL);
	}
	if (state->context)
		io_destroy(state->context);
	if (state->eventfd >= 0)
		close(state->eventfd);
	obd_worker_destroy(state->worker);
	pthread_mutex_destroy(&state->lock);
	free(state->iocbs);
	free(state);
}

static int libaio_create(struct obd_image *image, struct obd_engine_state **ret, struct obd_error *err)
{
	const unsigned depth = image->options.depth;
	struct obd_engine_state *state = calloc(1, sizeof(*state));
	int r;

	if (!state)
		return obd_fail(err, ENOMEM, "no memory for libaio");
	state->image = image;
	pthread_mutex_init(&state->lock, NULL);
	state->stalled_tail = &state->stalled;
	/* a slot has to fit; beyond that most slots have few reads, and the host's stock (aio-max-nr) is shared */
	state->room = depth * 4 < OBD_SLOT_IOS ? OBD_SLOT_IOS : depth * 4;
	state->eventfd = eventfd(0, EFD_CLOEXEC);
	state->iocbs = calloc((size_t)depth * OBD_SLOT_IOS, sizeof(*state->iocbs));
	if (state->eventfd < 0 || !state->iocbs || obd_worker_create(image, &state->worker)) {
		libaio_destroy(state);
		return obd_fail(err, ENOMEM, "no memory for libaio");
	}
	state->worker->may_block = true;
	r = io_setup((int)state->room, &state->context);
	if (r) {
		libaio_destroy(state);
		return obd_fail(err, -r, "libaio: io_setup for %u requests: %s (fs.aio-max-nr?)", state->room,
				strerror(-r));
	}
	for (unsigned i = 0; i < depth; i++)
		image->slots[i].engine = state->iocbs + (size_t)i * OBD_SLOT_IOS;
	r = obd_thread_create(&state->reaper, NULL, reaper_main, state);
	if (r) {
		state->reaper = 0;
		libaio_destroy(state);
		return obd_fail(err, r, "libaio: starting the reaper: %s", strerror(r));
	}
	*ret = state;
	return 0;
}

const struct obd_engine_ops obd_engine_libaio = {
	.name = "libaio",
	.direct = true,
	.create = libaio_create,
	.destroy = libaio_destroy,
	.submit = libaio_submit,
};
