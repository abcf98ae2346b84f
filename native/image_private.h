/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_IMAGE_PRIVATE_H
#define OBD_IMAGE_PRIVATE_H
#include <pthread.h>

#include "clock.h"
#include "engine.h"
#include "grace.h"
#include "read.h"

enum { OBD_LAYERS_MAX = 255 };

struct obd_requests {
	struct obd_request *head, *tail;
};

/*
 * The work of one image. lock guards everything here but the atomics; it is held for list operations only, never
 * across a read, a decode or a call of done.
 */
struct obd_work {
	pthread_mutex_t lock;
	pthread_cond_t wake;		 /**< a thread should look again */
	pthread_cond_t gone;		 /**< a thread has ended */
	struct obd_requests small, bulk; /**< pieces nobody has taken yet: one-piece requests, longer ones */
	unsigned small_count;
	unsigned small_us;   /**< what the requests in small will cost, roughly */
	unsigned since_bulk; /**< small pieces taken since the last bulk one, so that bulk cannot starve */
	struct obd_piece *blocked, **blocked_tail; /**< pieces that have to wait for the disk */
	struct obd_piece *resumed, **resumed_tail; /**< pieces that waited for the registry and need not any more */
	struct obd_piece *spare;		   /**< piece records to reuse */
	struct obd_slot *ready, **ready_tail;	   /**< slots whose reads are done */
	struct obd_slot *free_slots;
	unsigned slots_used;	/**< not free now */
	uint64_t slots_taken;	/**< so far, since their memory was last given back */
	unsigned threads, idle; /**< ready to work; asleep */
	unsigned leaving;	/**< threads that only clean up behind themselves */
	unsigned busy;		/**< atomic: threads busy with work that is not in blocked */
	unsigned wakes;		/**< sleepers that have been called and are not up yet */
	bool stop;
	unsigned queued; /**< atomic: pieces, slots and requests in the lists, for looking without the lock */
};

struct obd_image {
	struct obd_layer **layers; /**< room for OBD_LAYERS_MAX: a snapshot adds one before the index leads to it */
	struct obd_index *index;
	struct obd_image_info info;
	struct obd_image_options options;
	struct obd_events *events;
	char *name;
	bool writable;
	struct obd_stack *stack;      /**< of lean layers: the index has a part of what it shows; else NULL */
	struct obd_upper *lean_upper; /**< then the topmost of them is this one's data, or NULL */
	struct obd_task *strips;      /**< then what ends the waiting for their indexes */
	struct obd_upper *upper;      /**< atomic; NULL: read-only. A snapshot replaces it and the index */
	struct obd_grace grace;	      /**< of a writable image: around each look at upper and index */
	pthread_rwlock_t change_lock; /**< shared by each change while it is made; a snapshot has it alone */
	pthread_rwlock_t fill_lock;   /**< shared by writes of whole blocks to a sparse layer, others have it alone */
	uint64_t avoid_until;	      /**< atomic, ns: the disk is behind, front ends' threads write nothing */
	uint32_t block_size_max;      /**< largest ZFile block of any layer, 0 when all are raw */
	unsigned small_cost_us;	      /**< what a 4 KiB read costs, roughly; decides whether waking a helper pays */
	uint64_t busy_reads;	      /**< reads of a worker within an epoch, above which it reads in place */
	bool in_place;		      /**< some layer has pages */
	struct obd_misses *misses;    /**< of lazily fetched layers that have; NULL: none has */
	unsigned idle_ms;	      /**< what is kept only for busy times is given back after so long */
	uint64_t epoch;		      /**< atomic: when what is known of pages will be too old, ns of obd_recent_ns */
	struct obd_work work;
	const struct obd_engine_ops *engine; /**< NULL: psync */
	struct obd_engine_state *engine_state;
	struct obd_slot *slots;
	uint8_t *slot_memory;
	uint64_t rest_slots_taken, rest_since; /**< slots_taken when the front end last rested; since when it is that */
	unsigned inflight, inflight_max;       /**< atomic: reads in flight towards the disk */
	int cancelled;		      /**< under the lock of the misses: what pieces that would wait end with */
	pthread_mutex_t workers_lock; /**< guards the next three */
	struct obd_worker *workers, *lent;
	struct obd_counters retired; /**< of workers that are gone */
};

/** In this order: whoever sees a new upper layer sees the index that goes with it. */
static inline struct obd_upper *obd_image_upper(const struct obd_image *image)
{
	return __atomic_load_n(&image->upper, __ATOMIC_ACQUIRE);
}
static inline struct obd_index *obd_image_index(const struct obd_image *image)
{
	return __atomic_load_n(&image->index, __ATOMIC_ACQUIRE);
}

/** Bytes; grows at any time. What was inside it once stays so. */
static inline uint64_t obd_image_size(const struct obd_image *image)
{
	return __atomic_load_n(&image->info.virtual_size, __ATOMIC_RELAXED);
}

/* image_strips.c */
/** Makes an image of lean layers one that is gone through; 0 for an image of others, and when that is settled. */
int obd_image_strips(struct obd_image *image, struct obd_error *err);

/* work.c */
void obd_work_init(struct obd_image *image);
void obd_work_deinit(struct obd_image *image);
void obd_work_blocked(struct obd_image *image, const struct obd_piece *piece);
/** The piece, a record of its own that becomes ours, shall be tried again. */
void obd_work_resume(struct obd_image *image, struct obd_piece *piece);
/** The slot's reads are done; some thread of ours, or whoever calls obd_image_work, will finish it. */
void obd_work_ready(struct obd_image *image, struct obd_slot *slot);
void obd_work_slot_free(struct obd_image *image, struct obd_slot *slot);
/** Puts a piece's outcome into its request and completes it with the last one. worker may be NULL (no memory). */
void obd_piece_done(struct obd_worker *worker, const struct obd_piece *piece, int result);

/** No other thread works for the image now, as far as one can know without the lock. */
static inline bool obd_work_alone(const struct obd_image *image)
{
	return !__atomic_load_n(&image->work.busy, __ATOMIC_RELAXED);
}

/* slot.c */
int obd_slots_init(struct obd_image *image);
void obd_slots_deinit(struct obd_image *image);
/** Plans and submits; delivers at once what needs no read. Releases the slot when its piece is complete. */
void obd_slot_run(struct obd_worker *worker, struct obd_slot *slot);
void obd_slot_finish(struct obd_worker *worker, struct obd_slot *slot);

/* rest.c; obd_image_rest is there too */
int obd_rest_init(struct obd_image *image, struct obd_error *err);
/** Maps the layers where that is of use. */
void obd_rest_map(struct obd_image *image);
/**
 * Notes a read. Whether the worker reads in place: pages become memory of this process by being touched, and asking for
 * them costs something, so only one with much to do does.
 */
bool obd_rest_busy(struct obd_worker *worker, uint64_t count);

/* image.c */
/** The merged index of layers, none of which may be NULL. 0 or -errno; -EFBIG as obd_index_create. */
int obd_image_merge(struct obd_layer *const *layers, uint32_t count, struct obd_index **ret);
/** What info says of layers and index; nobody looks at it meanwhile, or change_lock is held. */
void obd_image_count(struct obd_image *image);
/** A worker that may block, made when none is idle; NULL without memory. */
struct obd_worker *obd_image_lend(struct obd_image *image);
void obd_image_return(struct obd_worker *worker);
void obd_inflight_add(struct obd_image *image);
void obd_inflight_sub(struct obd_image *image);
void obd_report_error(struct obd_worker *worker, enum obd_op op, uint64_t offset, uint64_t count, int code);
/** A read that waited for the disk: counted, and told when it was slow. */
void obd_report_wait(struct obd_worker *worker, const struct obd_layer *layer, uint64_t offset, uint64_t count,
		     uint64_t latency_ns);

#endif
