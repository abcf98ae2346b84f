/* SPDX-License-Identifier: Apache-2.0 */
/* When what was written is made to last: flushes, the first and the last one of a session, and those nobody asked for.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "error.h"
#include "full_io.h"
#include "lsmt_record.h"
#include "obd_test.h"
#include "thread.h"
#include "upper.h"

enum {
	TIMER_MS = 10000, /* a power cut takes at most so much of what nobody has flushed */
	TIMER_STACK = 256 * 1024,
	PUNCH_SECTORS = 32768, /* 16 MiB: sorting garbage is worth it then */
};

/* ---- one flush; flush_lock is held ---- */

static int write_checkpoint(struct obd_upper *upper, const struct obd_checkpoint *checkpoint)
{
	uint8_t sector[OBD_CHECKPOINT_SECTOR];

	obd_checkpoint_fill(sector, checkpoint);
	return obd_pwrite_full(upper->index_fd, sector, sizeof(sector), obd_checkpoint_offset(checkpoint->sequence));
}

/*
 * The kernel reports a failed write-back once and drops the pages: a second sync would succeed and mean nothing. So
 * nothing is written any more until the layer is opened anew, which starts from what was confirmed.
 */
static int give_up(struct obd_upper *upper, int code)
{
	struct obd_checkpoint checkpoint = {
		.sequence = upper->sequence + 1,
		.index_end = upper->confirmed,
		.data_end = upper->confirmed_data,
		.index_begin = upper->confirmed,
		.state = OBD_CHECKPOINT_FAILED,
	};

	__atomic_store_n(&upper->failed, code, __ATOMIC_RELAXED);
	if (!upper->sparse) {
		memcpy(checkpoint.boot, upper->boot, sizeof(checkpoint.boot));
		write_checkpoint(upper, &checkpoint);
	}
	return -code;
}

static int sync_data(struct obd_upper *upper)
{
	return fdatasync(upper->data_fd) ? give_up(upper, errno) : 0;
}

static int confirm(struct obd_upper *upper, enum obd_checkpoint_state state, uint64_t index_end, uint64_t data_end)
{
	struct obd_checkpoint checkpoint = {
		.sequence = upper->sequence + 1,
		.index_end = index_end,
		.data_end = data_end,
		.index_begin = upper->confirmed,
		.state = state,
	};
	int r = obd_checkpoint_crc(upper->index_fd, upper->confirmed, index_end, &checkpoint.entries_crc);

	memcpy(checkpoint.boot, upper->boot, sizeof(checkpoint.boot));
	if (!r)
		r = write_checkpoint(upper, &checkpoint);
	if (r)
		return r;
	if (fdatasync(upper->index_fd))
		return give_up(upper, errno);
	upper->sequence++;
	upper->confirmed = index_end;
	upper->confirmed_data = data_end;
	return 0;
}

/* The garbage so far, if there is enough of it; its list then is the flush's, which hands back another one. */
static size_t take_garbage(struct obd_upper *upper, bool all)
{
	struct obd_upper_run *runs = upper->garbage;
	size_t count = upper->garbage_count;

	if (!count || (!all && upper->garbage_sectors < PUNCH_SECTORS))
		return 0;
	upper->garbage = upper->flushed_garbage;
	upper->flushed_garbage = runs;
	upper->garbage_count = 0;
	upper->garbage_sectors = 0;
	return count;
}

static void return_garbage(struct obd_upper *upper, size_t count)
{
	pthread_mutex_lock(&upper->append_lock);
	for (size_t i = 0; i < count; i++)
		obd_upper_lose(upper, upper->flushed_garbage[i].sector, upper->flushed_garbage[i].sectors);
	pthread_mutex_unlock(&upper->append_lock);
}

/* Whether any of it was worth it. */
static bool punch_garbage(struct obd_upper *upper, size_t count)
{
	size_t left;

	if (!count)
		return false;
	if (upper->readers_gone)
		upper->readers_gone(upper->readers);
	left = obd_upper_punch(upper, upper->flushed_garbage, count);
	return_garbage(upper, left);
	return left < count;
}

/* The garbage of changes that a flush has confirmed already. */
static bool punch_confirmed(struct obd_upper *upper)
{
	size_t garbage = 0;

	pthread_mutex_lock(&upper->append_lock);
	if (upper->index_end == upper->confirmed)
		garbage = take_garbage(upper, true);
	pthread_mutex_unlock(&upper->append_lock);
	return punch_garbage(upper, garbage);
}

/* Changes wait meanwhile, for the data of those that are complete is synced with it: a second in hours of writing. */
static int compact_if_long(struct obd_upper *upper)
{
	int r = 0;

	pthread_mutex_lock(&upper->append_lock);
	if (obd_upper_is_long(upper)) {
		r = sync_data(upper);
		if (!r) {
			r = obd_upper_compact(upper);
			if (r)
				r = give_up(upper, -r);
		}
	}
	pthread_mutex_unlock(&upper->append_lock);
	return r;
}

static int flush_now(struct obd_upper *upper, bool all_garbage)
{
	uint64_t covered, index_end, data_used;
	size_t garbage;
	int r;

	__atomic_store_n(&upper->dirty, false, __ATOMIC_RELAXED);
	covered = __atomic_load_n(&upper->changes, __ATOMIC_ACQUIRE);
	pthread_mutex_lock(&upper->append_lock);
	index_end = upper->index_end;
	data_used = upper->data_used;
	garbage = take_garbage(upper, all_garbage);
	pthread_mutex_unlock(&upper->append_lock);
	r = sync_data(upper);
	if (!r && !upper->sparse)
		r = confirm(upper, OBD_CHECKPOINT_OPEN, index_end, data_used);
	if (r) {
		return_garbage(upper, garbage);
		__atomic_store_n(&upper->dirty, true, __ATOMIC_RELAXED);
		return r;
	}
	__atomic_store_n(&upper->flushed, covered, __ATOMIC_RELEASE);
	punch_garbage(upper, garbage);
	return compact_if_long(upper);
}

static int flush(struct obd_upper *upper, bool all_garbage)
{
	const uint64_t wanted = __atomic_load_n(&upper->changes, __ATOMIC_ACQUIRE);
	int r;

	pthread_mutex_lock(&upper->flush_lock);
	r = -__atomic_load_n(&upper->failed, __ATOMIC_RELAXED);
	if (!r && upper->flushed < wanted)
		r = flush_now(upper, all_garbage);
	else if (!r && all_garbage)
		punch_confirmed(upper);
	pthread_mutex_unlock(&upper->flush_lock);
	return r;
}

int obd_upper_flush(struct obd_upper *upper)
{
	return flush(upper, false);
}

bool obd_upper_is_flushed(const struct obd_upper *upper)
{
	const uint64_t changes = __atomic_load_n(&upper->changes, __ATOMIC_ACQUIRE);

	return !__atomic_load_n(&upper->failed, __ATOMIC_RELAXED) &&
	       __atomic_load_n(&upper->flushed, __ATOMIC_ACQUIRE) >= changes;
}

bool obd_upper_reclaim(struct obd_upper *upper)
{
	bool found;

	pthread_mutex_lock(&upper->append_lock);
	found = upper->garbage_count > 0;
	pthread_mutex_unlock(&upper->append_lock);
	if (!found || obd_upper_flush(upper))
		return false;
	pthread_mutex_lock(&upper->flush_lock);
	found = punch_confirmed(upper);
	pthread_mutex_unlock(&upper->flush_lock);
	return found;
}

/* ---- sessions ---- */

static int failed(struct obd_error *err, const char *path, const char *what, int code)
{
	return obd_fail(err, code, "%s: %s: %s", path, what, strerror(code));
}

/* Both files end where what is believed ends; nothing may lead behind it when new data goes there. */
static int trim(struct obd_upper *upper, const struct obd_upper_found *found, struct obd_error *err)
{
	if (found->index_size != upper->index_end && ftruncate(upper->index_fd, (off_t)upper->index_end))
		return failed(err, upper->index_path, "cutting its tail", errno);
	if (found->data_size != upper->data_end && ftruncate(upper->data_fd, (off_t)upper->data_end))
		return failed(err, upper->layer.blob->path, "cutting its tail", errno);
	upper->index_padded = upper->index_end;
	upper->data_used = upper->data_end;
	return 0;
}

int obd_upper_begin(struct obd_upper *upper, const struct obd_upper_found *found, struct obd_error *err)
{
	int r;

	obd_checkpoint_boot(upper->boot);
	if (found->sizes_differ) {
		r = obd_upper_resize(upper, upper->virtual_size, err);
		if (r)
			return r;
	}
	if (upper->sparse) {
		const uint64_t size = OBD_LSMT_RECORD + upper->virtual_size;

		if (found->data_size < size && ftruncate(upper->data_fd, (off_t)size))
			return failed(err, upper->layer.blob->path, "making it as long as its disk", errno);
		return 0;
	}
	upper->garbage = calloc(OBD_UPPER_GARBAGE, sizeof(*upper->garbage));
	upper->flushed_garbage = calloc(OBD_UPPER_GARBAGE, sizeof(*upper->garbage));
	if (!upper->garbage || !upper->flushed_garbage)
		return failed(err, upper->layer.blob->path, "opening", ENOMEM);
	r = trim(upper, found, err);
	if (r)
		return r;
	if (fdatasync(upper->data_fd))
		return failed(err, upper->layer.blob->path, "syncing", errno);
	r = confirm(upper, OBD_CHECKPOINT_OPEN, upper->index_end, upper->data_end);
	if (r)
		return failed(err, upper->index_path, "saying that it is written to", -r);
	r = compact_if_long(upper);
	return r ? failed(err, upper->layer.blob->path, "syncing", -r) : 0;
}

int obd_upper_end(struct obd_upper *upper, struct obd_error *err)
{
	int r;

	obd_upper_timer_stop(upper);
	r = flush(upper, true);
	if (r)
		return failed(err, upper->layer.blob->path, "its last flush", -r);
	if (upper->sparse)
		return 0;
	if (ftruncate(upper->index_fd, (off_t)upper->index_end))
		return failed(err, upper->index_path, "cutting its padding", errno);
	r = confirm(upper, OBD_CHECKPOINT_CLOSED, upper->index_end, upper->data_used);
	return r ? failed(err, upper->index_path, "saying that it is closed", -r) : 0;
}

/* ---- the timer ---- */

static unsigned timer_ms = TIMER_MS;

void obd_test_upper_timer(unsigned ms)
{
	timer_ms = ms ? ms : TIMER_MS;
}

/* Sleeps for timer_ms; false when it is to stop. timer_lock is held. */
static bool timer_sleep(struct obd_upper *upper)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += timer_ms / 1000;
	until.tv_nsec += timer_ms % 1000 * 1000000L;
	if (until.tv_nsec >= 1000000000L) {
		until.tv_nsec -= 1000000000L;
		until.tv_sec++;
	}
	while (!upper->timer_stop)
		if (pthread_cond_timedwait(&upper->timer_wake, &upper->timer_lock, &until) == ETIMEDOUT)
			return true;
	return false;
}

static void *timer_main(void *argument)
{
	struct obd_upper *upper = argument;
	bool dirty = true;

	pthread_setname_np(pthread_self(), "obd-flush");
	pthread_mutex_lock(&upper->timer_lock);
	while (dirty && timer_sleep(upper)) {
		dirty = __atomic_load_n(&upper->dirty, __ATOMIC_RELAXED);
		pthread_mutex_unlock(&upper->timer_lock);
		flush(upper, true); /* who fails here is told by the next write or flush */
		pthread_mutex_lock(&upper->timer_lock);
		dirty |= __atomic_load_n(&upper->dirty, __ATOMIC_RELAXED);
	}
	upper->timer_runs = false;
	pthread_mutex_unlock(&upper->timer_lock);
	return NULL;
}

void obd_upper_timer_kick(struct obd_upper *upper)
{
	pthread_attr_t attr;

	pthread_mutex_lock(&upper->timer_lock);
	if (!upper->timer_runs && !upper->timer_stop) {
		if (upper->timer_joinable)
			pthread_join(upper->timer, NULL); /* it has ended, or is about to */
		pthread_attr_init(&attr);
		pthread_attr_setstacksize(&attr, TIMER_STACK);
		upper->timer_runs = !obd_thread_create(&upper->timer, &attr, timer_main, upper);
		upper->timer_joinable = upper->timer_runs;
		pthread_attr_destroy(&attr);
	}
	pthread_mutex_unlock(&upper->timer_lock);
}

void obd_upper_timer_stop(struct obd_upper *upper)
{
	pthread_mutex_lock(&upper->timer_lock);
	upper->timer_stop = true;
	pthread_cond_signal(&upper->timer_wake);
	pthread_mutex_unlock(&upper->timer_lock);
	if (upper->timer_joinable)
		pthread_join(upper->timer, NULL);
	upper->timer_joinable = false;
}
