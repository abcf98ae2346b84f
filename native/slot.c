/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A slot's life, for engines that read behind our back:
 *
 *     free -> planned -> submitted -> (engine: last read done) ready -> delivered -> planned again, or free
 *
 * There are options.depth slots, so there are never more pieces towards the disk, and none is allocated on the way.
 * Their buffers are one mapping; pages are touched as far as reads use them.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "image_private.h"

int obd_slots_init(struct obd_image *image)
{
	const size_t count = image->options.depth;
	void *memory;

	image->slots = calloc(count, sizeof(*image->slots));
	if (!image->slots)
		return -ENOMEM;
	memory = mmap(NULL, count * OBD_SLOT_BUFFER, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED)
		return -ENOMEM;
	image->slot_memory = memory;
	for (size_t i = 0; i < count; i++) {
		image->slots[i].image = image;
		image->slots[i].buffer = image->slot_memory + i * OBD_SLOT_BUFFER;
		image->slots[i].next = image->work.free_slots;
		image->work.free_slots = &image->slots[i];
	}
	return 0;
}

void obd_slots_deinit(struct obd_image *image)
{
	if (image->slot_memory)
		munmap(image->slot_memory, image->options.depth * (size_t)OBD_SLOT_BUFFER);
	free(image->slots);
	image->slot_memory = NULL;
	image->slots = NULL;
}

void obd_io_arm(struct obd_slot *slot, struct obd_io *io)
{
	obd_inflight_add(slot->image);
	__atomic_store_n(&io->slot, slot, __ATOMIC_RELEASE);
}

struct obd_slot *obd_io_done(struct obd_io *io, int64_t result)
{
	/* pairs with the store in obd_io_arm: the way here led through the kernel, which orders nothing in C's eyes */
	struct obd_slot *slot = __atomic_load_n(&io->slot, __ATOMIC_ACQUIRE);

	io->result = result;
	obd_inflight_sub(slot->image);
	return __atomic_sub_fetch(&slot->outstanding, 1, __ATOMIC_ACQ_REL) == 0 ? slot : NULL;
}

void obd_slot_run(struct obd_worker *worker, struct obd_slot *slot)
{
	struct obd_image *image = slot->image;

	while (slot->done < slot->piece.count) {
		int r = obd_read_plan(worker, slot);

		if (!r && slot->count) {
			slot->since = obd_now_ns();
			__atomic_store_n(&slot->outstanding, slot->count, __ATOMIC_RELAXED);
			image->engine->submit(image->engine_state, slot);
			return; /* from here on the slot is the engine's */
		}
		if (!r)
			r = obd_read_finish(worker, slot);
		if (r) {
			obd_piece_done(worker, &slot->piece, r);
			obd_work_slot_free(slot->image, slot);
			return;
		}
	}
	obd_piece_done(worker, &slot->piece, 0);
	obd_work_slot_free(slot->image, slot);
}

void obd_slot_finish(struct obd_worker *worker, struct obd_slot *slot)
{
	const uint64_t took = obd_now_ns() - slot->since;
	int r;

	for (unsigned i = 0; i < slot->count; i++)
		obd_report_wait(worker, slot->io[i].layer, slot->io[i].offset, slot->io[i].count, took);
	r = obd_read_finish(worker, slot);
	if (r) {
		obd_piece_done(worker, &slot->piece, r);
		obd_work_slot_free(slot->image, slot);
		return;
	}
	obd_slot_run(worker, slot);
}
