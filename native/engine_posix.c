/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ioEngine 2: POSIX AIO, which glibc builds from threads of its own. Its place: file systems without O_DIRECT whose
 * reads shall not run on our threads. glibc serves the requests of one descriptor one after another, so a deep queue
 * on one layer gains nothing here; it is kept because configurations name it.
 */
#include <aio.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "error.h"
#include "image_private.h"

struct control {
	struct aiocb aiocb;
	struct obd_io *io;
	struct obd_engine_state *state;
};

struct obd_engine_state {
	struct obd_image *image;
	unsigned callbacks;	  /* atomic: notifications that may still run */
	struct control *controls; /* OBD_SLOT_IOS for each slot */
};

static void slot_over(struct obd_image *image, struct obd_slot *slot)
{
	struct obd_worker *worker = obd_image_lend(image);

	if (!worker) {
		obd_piece_done(NULL, &slot->piece, -ENOMEM);
		obd_work_slot_free(image, slot);
		return;
	}
	obd_slot_finish(worker, slot);
	while (obd_image_work(image, worker))
		;
	obd_image_return(worker);
}

/* On a thread that glibc made for this one call. */
static void notified(union sigval value)
{
	struct control *control = value.sival_ptr;
	struct obd_engine_state *state = control->state;
	int error = aio_error(&control->aiocb);
	ssize_t count = aio_return(&control->aiocb);
	struct obd_slot *slot = obd_io_done(control->io, error ? -error : count);

	if (slot)
		slot_over(state->image, slot);
	__atomic_sub_fetch(&state->callbacks, 1, __ATOMIC_RELEASE);
}

static void posix_submit(struct obd_engine_state *state, struct obd_slot *slot)
{
	struct control *controls = slot->engine;
	const unsigned count = slot->count;

	for (unsigned i = 0; i < count; i++) {
		struct control *control = &controls[i];
		struct obd_io *io = &slot->io[i];

		memset(control, 0, sizeof(*control));
		control->io = io;
		control->state = state;
		control->aiocb.aio_fildes = io->layer->blob->fd;
		control->aiocb.aio_buf = io->buffer;
		control->aiocb.aio_nbytes = io->read_count;
		control->aiocb.aio_offset = (off_t)io->read_offset;
		control->aiocb.aio_sigevent.sigev_notify = SIGEV_THREAD;
		control->aiocb.aio_sigevent.sigev_notify_function = notified;
		control->aiocb.aio_sigevent.sigev_value.sival_ptr = control;
		__atomic_add_fetch(&state->callbacks, 1, __ATOMIC_RELAXED);
		obd_io_arm(slot, io);
		if (!aio_read(&control->aiocb))
			continue;
		__atomic_sub_fetch(&state->callbacks, 1, __ATOMIC_RELEASE);
		if (obd_io_done(io, -errno))
			obd_work_ready(state->image, slot);
	}
}

static void posix_destroy(struct obd_engine_state *state)
{
	const struct timespec moment = {.tv_nsec = 1000000};

	if (!state)
		return;
	/* no request is in flight, but the thread that completed the last one may still be on its way out */
	while (__atomic_load_n(&state->callbacks, __ATOMIC_ACQUIRE))
		nanosleep(&moment, NULL);
	free(state->controls);
	free(state);
}

static int posix_create(struct obd_image *image, struct obd_engine_state **ret, struct obd_error *err)
{
	const unsigned depth = image->options.depth;
	struct obd_engine_state *state = calloc(1, sizeof(*state));

	if (!state)
		return obd_fail(err, ENOMEM, "no memory for POSIX AIO");
	state->image = image;
	state->controls = calloc((size_t)depth * OBD_SLOT_IOS, sizeof(*state->controls));
	if (!state->controls) {
		free(state);
		return obd_fail(err, ENOMEM, "no memory for POSIX AIO");
	}
	for (unsigned i = 0; i < depth; i++)
		image->slots[i].engine = state->controls + (size_t)i * OBD_SLOT_IOS;
	*ret = state;
	return 0;
}

const struct obd_engine_ops obd_engine_posix = {
	.name = "posix aio",
	.direct = false,
	.create = posix_create,
	.destroy = posix_destroy,
	.submit = posix_submit,
};
