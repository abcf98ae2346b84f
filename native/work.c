/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who does the work of an image. A request is cut into pieces of about 128 KiB; pieces are taken by
 *
 *     the front end's thread   inline, as long as it need not wait for the disk
 *     helpers                  what the front end's thread would take too long over, on the other cores
 *     more threads, on demand  pieces that wait for the disk, one thread each, up to options.depth
 *
 * All three are the same loop. Threads start when there is work for them and end after some idle seconds, so an idle
 * device has none. One-piece requests are served before longer ones: a long command does not delay a short one.
 */
#include <errno.h>
#include <stdlib.h>

#include "change.h"
#include "image_private.h"
#include "miss.h"
#include "thread.h"

enum {
	PIECE = 128 * 1024,
	CLAIM_MAX = 8,	/* small pieces taken under one lock, */
	CLAIM_US = 100, /* and what they may cost: so long nobody looks at the front end's ring */
	BULK_TURN = 8,	/* every so many small pieces a bulk one is served */
	STACK = 256 * 1024,
	WORTH_A_WAKE_US = 12, /* waking a sleeping thread costs about this much until it works */
	SPIN_MAX_US = 60,
};

struct claim {
	struct obd_piece pieces[CLAIM_MAX];
	unsigned count;
	struct obd_slot *ready;	   /* a slot whose reads are done */
	struct obd_slot *slot;	   /* a fresh slot for pieces[0] */
	struct obd_piece *waiting; /* a piece that has to wait for the disk */
};

/* ---- lists; the lock is held ---- */

static void requests_push(struct obd_requests *list, struct obd_request *request)
{
	request->next = NULL;
	if (list->tail)
		list->tail->next = request;
	else
		list->head = request;
	list->tail = request;
}

static void requests_pop(struct obd_requests *list)
{
	list->head = list->head->next;
	if (!list->head)
		list->tail = NULL;
}

static inline void queued_add(struct obd_work *work, unsigned count)
{
	__atomic_store_n(&work->queued, work->queued + count, __ATOMIC_RELAXED);
}

static inline void queued_sub(struct obd_work *work, unsigned count)
{
	__atomic_store_n(&work->queued, work->queued - count, __ATOMIC_RELAXED);
}

static inline void busy_add(struct obd_work *work, int more)
{
	__atomic_store_n(&work->busy, work->busy + (unsigned)more, __ATOMIC_RELAXED);
}

static inline unsigned cost_us(const struct obd_image *image, const struct obd_request *request)
{
	return image->small_cost_us + (unsigned)(request->count / 16384);
}

/* What it will cost. */
static unsigned take_small(struct obd_image *image, struct claim *claim)
{
	struct obd_work *work = &image->work;
	struct obd_request *request = work->small.head;
	const unsigned cost = cost_us(image, request);

	requests_pop(&work->small);
	work->small_count--;
	work->small_us -= cost;
	work->since_bulk++;
	claim->pieces[claim->count++] = (struct obd_piece){.request = request, .offset = 0, .count = request->count};
	queued_sub(work, 1);
	return cost;
}

/* false: there is more of the request. */
static bool take_piece(struct obd_work *work, struct claim *claim, uint64_t count)
{
	struct obd_request *request = work->bulk.head;

	claim->pieces[claim->count++] = (struct obd_piece){
		.request = request, .offset = request->issued, .count = count};
	request->issued += count;
	if (request->issued == request->count) {
		requests_pop(&work->bulk);
		queued_sub(work, 1);
		return true;
	}
	/* one more piece is known to be there: whoever takes the last one still has to count down to zero */
	__atomic_add_fetch(&request->pending, 1, __ATOMIC_RELAXED);
	return false;
}

static void take_bulk(struct obd_image *image, struct claim *claim)
{
	struct obd_work *work = &image->work;
	struct obd_request *request = work->bulk.head, *next;
	uint64_t left = request->count - request->issued, end = request->offset + request->count, head;

	work->since_bulk = 0;
	if (left > PIECE + PIECE / 2)
		left = obd_read_cut(image, request->offset + request->issued, PIECE);
	if (!take_piece(work, claim, left) || image->engine)
		return;
	/* the rest of a block that ends in the next request: two threads would decode it twice */
	next = work->bulk.head;
	head = next && next->offset == end && !next->issued ? obd_read_head(image, end) : 0;
	if (head && head < next->count)
		take_piece(work, claim, head);
}

static void take_resumed(struct obd_work *work, struct claim *claim)
{
	struct obd_piece *record = work->resumed;

	work->resumed = record->next;
	if (!work->resumed)
		work->resumed_tail = &work->resumed;
	claim->pieces[claim->count++] = *record;
	record->next = work->spare;
	work->spare = record;
	queued_sub(work, 1);
}

/* Takes the most urgent work this thread may do. helper: a thread of ours. false: nothing. */
static bool claim_work(struct obd_image *image, struct claim *claim, bool helper)
{
	struct obd_work *work = &image->work;
	unsigned want, cost = 0;

	claim->count = 0;
	claim->ready = claim->slot = NULL;
	claim->waiting = NULL;
	if (work->ready) {
		claim->ready = work->ready;
		work->ready = claim->ready->next;
		if (!work->ready)
			work->ready_tail = &work->ready;
		queued_sub(work, 1);
		return true;
	}
	if (work->resumed) {
		while (work->resumed && claim->count < CLAIM_MAX)
			take_resumed(work, claim);
		return true;
	}
	if (helper && work->blocked) {
		claim->waiting = work->blocked;
		work->blocked = claim->waiting->next;
		if (!work->blocked)
			work->blocked_tail = &work->blocked;
		queued_sub(work, 1);
		return true;
	}
	if (helper && !image->engine && work->busy >= image->options.helpers)
		return false;
	if (image->engine) {
		if (!work->free_slots)
			return false;
		want = 1;
	} else {
		want = 1 + work->small_count / 4;
		if (want > CLAIM_MAX)
			want = CLAIM_MAX;
	}
	if (work->bulk.head && (!work->small.head || work->since_bulk >= BULK_TURN))
		take_bulk(image, claim);
	else
		while (work->small.head && claim->count < want && cost < CLAIM_US)
			cost += take_small(image, claim);
	if (!claim->count)
		return false;
	if (image->engine) {
		claim->slot = work->free_slots;
		work->free_slots = claim->slot->next;
		work->slots_used++;
		work->slots_taken++;
	}
	return true;
}

/* ---- doing it ---- */

void obd_piece_done(struct obd_worker *worker, const struct obd_piece *piece, int result)
{
	struct obd_request *request = piece->request;

	if (result) {
		int none = 0;

		if (worker)
			obd_count(&worker->counters.errors, 1);
		__atomic_compare_exchange_n(&request->result, &none, result, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
		if (worker)
			obd_report_error(worker, request->op, request->offset + piece->offset, piece->count, -result);
	}
	/* nobody adds to the count of the last piece, so that one is not worth a locked instruction */
	if (__atomic_load_n(&request->pending, __ATOMIC_ACQUIRE) == 1 ||
	    __atomic_sub_fetch(&request->pending, 1, __ATOMIC_ACQ_REL) == 0)
		request->done(request);
}

static void serve_piece(struct obd_worker *worker, const struct obd_piece *piece)
{
	const uint64_t waited = piece->since ? obd_now_ns() - piece->since : 0;
	int r = obd_piece_serve(worker, piece);

	if (r == OBD_MISSING) {
		obd_miss_park(worker, piece);
		return;
	}
	if (piece->since)
		obd_latency_add(&worker->counters.stages[OBD_STAGE_WAIT], waited);
	if (r == -EAGAIN && !worker->may_block)
		obd_work_blocked(worker->image, piece);
	else
		obd_piece_done(worker, piece, r);
}

static void serve_pieces(struct obd_worker *worker, struct obd_piece *pieces, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		struct obd_piece *piece = &pieces[i], *next = piece + 1;

		if (i + 1 < count) {
			piece->followed = piece->request->offset + piece->offset + piece->count ==
					  next->request->offset + next->offset;
			obd_read_prefetch(worker, next);
		}
		serve_piece(worker, piece);
	}
}

static void serve_claim(struct obd_worker *worker, struct claim *claim)
{
	struct obd_image *image = worker->image;

	if (claim->ready) {
		obd_slot_finish(worker, claim->ready);
	} else if (claim->waiting) {
		obd_latency_add(&worker->counters.stages[OBD_STAGE_QUEUE], obd_now_ns() - claim->waiting->left);
		serve_piece(worker, claim->waiting);
		pthread_mutex_lock(&image->work.lock);
		claim->waiting->next = image->work.spare;
		image->work.spare = claim->waiting;
		pthread_mutex_unlock(&image->work.lock);
	} else if (claim->slot) {
		claim->slot->piece = claim->pieces[0];
		claim->slot->done = 0;
		obd_slot_run(worker, claim->slot);
	} else {
		serve_pieces(worker, claim->pieces, claim->count);
	}
}

/* ---- threads ---- */

static void *helper_main(void *argument);

/* Everything a thread needs is made before it starts, so that a thread that exists can always work. */
static bool start_thread(struct obd_image *image)
{
	struct obd_worker *worker;
	pthread_attr_t attr;
	pthread_t thread;
	int r;

	if (obd_worker_create(image, &worker))
		return false;
	worker->may_block = true;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	r = obd_thread_create(&thread, &attr, helper_main, worker);
	pthread_attr_destroy(&attr);
	if (r)
		obd_worker_destroy(worker);
	return r == 0;
}

/* false: no thread will look, and none could be started. Called with the lock held. */
static bool wake_one(struct obd_image *image)
{
	struct obd_work *work = &image->work;

	if (work->idle > work->wakes) {
		work->wakes++;
		pthread_cond_signal(&work->wake);
		return true;
	}
	if (work->threads < image->options.depth && start_thread(image)) {
		work->threads++;
		work->idle++; /* it counts as called and not up yet */
		work->wakes++;
		return true;
	}
	return work->threads > 0; /* those that are there will get to it */
}

static inline void relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

/* Looks for new work without sleeping. A thread that found some that way will try longer next time. */
static bool spin(struct obd_work *work, unsigned *budget_us)
{
	const uint64_t until = obd_now_ns() + *budget_us * UINT64_C(1000);

	do {
		for (int i = 0; i < 32; i++) {
			if (__atomic_load_n(&work->queued, __ATOMIC_RELAXED)) {
				*budget_us = *budget_us * 2 + 5 < SPIN_MAX_US ? *budget_us * 2 + 5 : SPIN_MAX_US;
				return true;
			}
			relax();
		}
	} while (obd_now_ns() < until);
	*budget_us /= 2;
	return false;
}

/* Sleeps until woken. false: nobody wanted this thread for a while. Called with the lock held. */
static bool sleep_idle(struct obd_image *image)
{
	const uint64_t until = obd_deadline_ns((int)image->idle_ms);
	struct obd_work *work = &image->work;
	int r = 0;

	work->idle++;
	while (!work->wakes && !work->stop && r != ETIMEDOUT)
		r = obd_cond_wait_until(&work->wake, &work->lock, until);
	work->idle--;
	if (work->wakes) {
		work->wakes--;
		return true;
	}
	return work->stop;
}

static void helper_loop(struct obd_image *image, struct obd_worker *worker)
{
	struct obd_work *work = &image->work;
	unsigned spin_us = SPIN_MAX_US / 2;
	struct claim claim;

	pthread_mutex_lock(&work->lock);
	work->idle--;
	if (work->wakes)
		work->wakes--;
	for (;;) {
		if (claim_work(image, &claim, true)) {
			const int counted = !claim.waiting;

			busy_add(work, counted);
			pthread_mutex_unlock(&work->lock);
			serve_claim(worker, &claim);
			pthread_mutex_lock(&work->lock);
			busy_add(work, -counted);
			continue;
		}
		if (work->stop)
			return;
		if (!image->engine && work->busy < image->options.helpers) {
			bool found;

			busy_add(work, 1); /* the one that spins is the one that will help */
			pthread_mutex_unlock(&work->lock);
			found = spin(work, &spin_us);
			pthread_mutex_lock(&work->lock);
			busy_add(work, -1);
			if (found || work->queued)
				continue;
		}
		if (!sleep_idle(image))
			return;
	}
}

static void *helper_main(void *argument)
{
	struct obd_worker *worker = argument;
	struct obd_image *image = worker->image;

	pthread_setname_np(pthread_self(), "obd-helper");
	helper_loop(image, worker);
	/* with the lock that helper_loop looked for work under: nobody may count on this thread any more */
	image->work.threads--;
	image->work.leaving++;
	pthread_mutex_unlock(&image->work.lock);
	obd_worker_destroy(worker);
	pthread_mutex_lock(&image->work.lock);
	image->work.leaving--;
	pthread_cond_broadcast(&image->work.gone);
	pthread_mutex_unlock(&image->work.lock);
	return NULL;
}

/* ---- handing work over ---- */

/* Nobody else can: better to hold up the front end than to lose its command. */
static void serve_here(struct obd_image *image, const struct obd_piece *piece)
{
	struct obd_worker *worker = obd_image_lend(image);

	if (worker)
		serve_piece(worker, piece);
	else
		obd_piece_done(NULL, piece, -ENOMEM);
	obd_image_return(worker);
}

void obd_work_blocked(struct obd_image *image, const struct obd_piece *piece)
{
	struct obd_work *work = &image->work;
	struct obd_piece *record;
	const uint64_t now = obd_now_ns();
	bool queued = false;

	pthread_mutex_lock(&work->lock);
	record = work->spare;
	if (record)
		work->spare = record->next;
	else
		record = malloc(sizeof(*record));
	if (record && wake_one(image)) {
		*record = *piece;
		record->left = now;
		record->since = 0; // what it waited for has come, and is counted
		record->next = NULL;
		*work->blocked_tail = record;
		work->blocked_tail = &record->next;
		queued_add(work, 1);
		queued = true;
	} else if (record) {
		record->next = work->spare;
		work->spare = record;
	}
	pthread_mutex_unlock(&work->lock);
	if (!queued)
		serve_here(image, piece);
}

void obd_work_resume(struct obd_image *image, struct obd_piece *piece)
{
	struct obd_work *work = &image->work;

	pthread_mutex_lock(&work->lock);
	piece->next = NULL;
	*work->resumed_tail = piece;
	work->resumed_tail = &piece->next;
	queued_add(work, 1);
	if (work->busy + work->wakes < image->options.helpers || !(work->busy + work->wakes))
		wake_one(image);
	pthread_mutex_unlock(&work->lock);
}

void obd_work_ready(struct obd_image *image, struct obd_slot *slot)
{
	struct obd_work *work = &image->work;

	pthread_mutex_lock(&work->lock);
	slot->next = NULL;
	*work->ready_tail = slot;
	work->ready_tail = &slot->next;
	queued_add(work, 1);
	if (work->busy + work->wakes < image->options.helpers || !(work->busy + work->wakes))
		wake_one(image);
	pthread_mutex_unlock(&work->lock);
}

void obd_work_slot_free(struct obd_image *image, struct obd_slot *slot)
{
	struct obd_work *work = &image->work;

	pthread_mutex_lock(&work->lock);
	slot->next = work->free_slots;
	work->free_slots = slot;
	work->slots_used--;
	/* a piece may have found no slot a moment ago, and its submitter gone back to sleep */
	if ((work->small.head || work->bulk.head) && !(work->busy + work->wakes))
		wake_one(image);
	pthread_mutex_unlock(&work->lock);
}

static inline bool is_small(const struct obd_request *request)
{
	return request->count <= PIECE + PIECE / 2;
}

void obd_image_submit(struct obd_image *image, struct obd_worker *worker, struct obd_request **batch, unsigned count)
{
	struct obd_work *work = &image->work;

	count = obd_change_submit(image, worker, batch, count);
	if (!count)
		return;
	obd_count(&worker->counters.reads, count);
	for (unsigned i = 0; i < count; i++) {
		obd_count(&worker->counters.read_bytes, batch[i]->count);
		batch[i]->result = 0;
		batch[i]->issued = 0;
		__atomic_store_n(&batch[i]->pending, 1, __ATOMIC_RELAXED);
	}
	if (count == 1 && is_small(batch[0]) && !image->engine && !__atomic_load_n(&work->queued, __ATOMIC_RELAXED)) {
		struct obd_piece piece = {.request = batch[0], .offset = 0, .count = batch[0]->count};

		obd_count(&worker->counters.inline_reads, 1);
		serve_piece(worker, &piece);
		return;
	}
	pthread_mutex_lock(&work->lock);
	for (unsigned i = 0; i < count; i++) {
		if (is_small(batch[i])) {
			requests_push(&work->small, batch[i]);
			work->small_count++;
			work->small_us += cost_us(image, batch[i]);
		} else {
			requests_push(&work->bulk, batch[i]);
		}
	}
	queued_add(work, count);
	/* all that waits counts, for it may have come one by one while no helper was awake */
	if ((work->small_us >= WORTH_A_WAKE_US || work->bulk.head) && !image->engine &&
	    work->busy + work->wakes < image->options.helpers)
		wake_one(image);
	pthread_mutex_unlock(&work->lock);
}

bool obd_image_work(struct obd_image *image, struct obd_worker *worker)
{
	struct obd_work *work = &image->work;
	struct claim claim;
	bool got, more;

	if (!__atomic_load_n(&work->queued, __ATOMIC_RELAXED))
		return false;
	pthread_mutex_lock(&work->lock);
	got = claim_work(image, &claim, false);
	more = work->small.head || work->bulk.head || work->ready || work->resumed;
	pthread_mutex_unlock(&work->lock);
	if (got)
		serve_claim(worker, &claim);
	return got && more;
}

void obd_work_init(struct obd_image *image)
{
	struct obd_work *work = &image->work;
	pthread_mutexattr_t mutex;

	/* held for a few list operations: spinning a little beats sleeping */
	pthread_mutexattr_init(&mutex);
	pthread_mutexattr_settype(&mutex, PTHREAD_MUTEX_ADAPTIVE_NP);
	pthread_mutex_init(&work->lock, &mutex);
	pthread_mutexattr_destroy(&mutex);
	obd_cond_init(&work->wake);
	obd_cond_init(&work->gone);
	work->blocked_tail = &work->blocked;
	work->resumed_tail = &work->resumed;
	work->ready_tail = &work->ready;
}

void obd_work_deinit(struct obd_image *image)
{
	struct obd_work *work = &image->work;

	pthread_mutex_lock(&work->lock);
	work->stop = true;
	pthread_cond_broadcast(&work->wake);
	while (work->threads || work->leaving)
		pthread_cond_wait(&work->gone, &work->lock);
	pthread_mutex_unlock(&work->lock);
	while (work->spare) {
		struct obd_piece *next = work->spare->next;

		free(work->spare);
		work->spare = next;
	}
	pthread_cond_destroy(&work->gone);
	pthread_cond_destroy(&work->wake);
	pthread_mutex_destroy(&work->lock);
}
