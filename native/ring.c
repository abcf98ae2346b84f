/* SPDX-License-Identifier: Apache-2.0 */
#include "ring.h"

#include <errno.h>
#include <string.h>

#include "error.h"
#include "obd_test.h"

/* struct tcmu_mailbox */
enum {
	MAILBOX_VERSION = 0, /* u16 */
	MAILBOX_FLAGS = 2,   /* u16 */
	MAILBOX_OFFSET = 4,  /* u32, and so on */
	MAILBOX_SIZE = 8,
	MAILBOX_HEAD = 12,
	MAILBOX_TAIL = 64,
	MAILBOX_END = 128,
};
enum { FLAG_OUT_OF_ORDER = 1, FLAG_READ_LENGTH = 2 };

/* struct tcmu_cmd_entry; the answer lies over the request */
enum {
	ENTRY_LENGTH = 0, /* u32; the low three bits are the kind */
	ENTRY_ID = 4,	  /* u16 */
	ENTRY_FLAGS = 7,  /* u8: ours, about the answer */
	REQUEST_IOV_COUNT = 8,
	REQUEST_CDB = 24, /* u64: offset in the map */
	REQUEST_IOV = 48,
	ANSWER_STATUS = 8, /* u8, and three unused bytes */
	ANSWER_READ_COUNT = 12,
	ANSWER_SENSE = 16,
	ANSWER_END = 112,
};
enum { KIND_MASK = 7, KIND_COMMAND = 1, ALIGNMENT = 8, IOV_SIZE = 16, CDB_MAX = 16, ANSWERED_READ_LENGTH = 2 };

static inline uint32_t *word(const struct obd_ring *ring, uint64_t offset)
{
	return (uint32_t *)(void *)(ring->map + offset);
}

static inline uint16_t *half(const struct obd_ring *ring, uint64_t offset)
{
	return (uint16_t *)(void *)(ring->map + offset);
}

static inline uint64_t load64(const uint8_t *p)
{
	uint64_t value;

	memcpy(&value, p, sizeof(value));
	return value;
}

int obd_ring_init(struct obd_ring *ring, uint64_t map, uint64_t map_size, struct obd_error *err)
{
	*ring = (struct obd_ring){.map = (uint8_t *)(uintptr_t)map, .map_size = map_size};
	if (!map || map % ALIGNMENT || map_size < MAILBOX_END)
		return obd_fail(err, EINVAL, "ring: a mapping of %llu bytes holds no mailbox",
				(unsigned long long)map_size);
	if (*half(ring, MAILBOX_VERSION) != 2)
		return obd_fail(err, ENOTSUP, "ring: mailbox version %u, only 2 is known",
				*half(ring, MAILBOX_VERSION));
	if (!(*half(ring, MAILBOX_FLAGS) & FLAG_OUT_OF_ORDER))
		return obd_fail(err, ENOTSUP, "ring: the kernel takes no out-of-order completions (before 4.6)");
	ring->read_length = (*half(ring, MAILBOX_FLAGS) & FLAG_READ_LENGTH) != 0;
	ring->offset = *word(ring, MAILBOX_OFFSET);
	ring->size = *word(ring, MAILBOX_SIZE);
	ring->taken = *word(ring, MAILBOX_TAIL);
	if (ring->offset < MAILBOX_END || ring->offset % ALIGNMENT || ring->size < ANSWER_END ||
	    ring->size % ALIGNMENT || (uint64_t)ring->offset + ring->size > map_size)
		return obd_fail(err, EINVAL, "ring: %u bytes at offset %u do not fit a mapping of %llu", ring->size,
				ring->offset, (unsigned long long)map_size);
	if (ring->taken % ALIGNMENT || ring->taken >= ring->size)
		return obd_fail(err, EINVAL, "ring: cmd_tail %u is outside of a ring of %u bytes", ring->taken,
				ring->size);
	return 0;
}

/* Length and kind of the entry at position; 0 when no entry can be there. */
static uint32_t entry_length(const struct obd_ring *ring, uint32_t position, uint32_t *kind)
{
	const uint32_t both = *word(ring, ring->offset + position + ENTRY_LENGTH);
	const uint32_t length = both & ~(uint32_t)KIND_MASK;

	*kind = both & KIND_MASK;
	if (length < ALIGNMENT || length > ring->size - position)
		return 0;
	return *kind == KIND_COMMAND && length < ANSWER_END ? 0 : length;
}

static inline uint32_t advance(const struct obd_ring *ring, uint32_t position, uint32_t length)
{
	position += length;
	return position == ring->size ? 0 : position;
}

int obd_ring_next(struct obd_ring *ring, struct obd_ring_entry *ret)
{
	const uint32_t head = __atomic_load_n(word(ring, MAILBOX_HEAD), __ATOMIC_ACQUIRE);

	if (head >= ring->size || head % ALIGNMENT)
		return -EPROTO;
	while (ring->taken != head) {
		const uint8_t *entry = ring->map + ring->offset + ring->taken;
		uint32_t kind, length = entry_length(ring, ring->taken, &kind);
		uint64_t cdb;

		if (!length)
			return -EPROTO;
		ring->taken = advance(ring, ring->taken, length);
		if (kind != KIND_COMMAND) /* padding, or a task management function we did not ask to be told */
			continue;
		cdb = load64(entry + REQUEST_CDB);
		memcpy(&ret->id, entry + ENTRY_ID, sizeof(ret->id));
		memcpy(&ret->iov_count, entry + REQUEST_IOV_COUNT, sizeof(ret->iov_count));
		if (ret->iov_count > (length - REQUEST_IOV) / IOV_SIZE || cdb >= ring->map_size)
			return -EPROTO;
		ret->iov = entry + REQUEST_IOV;
		ret->cdb = ring->map + cdb;
		ret->cdb_room = ring->map_size - cdb < CDB_MAX ? (uint32_t)(ring->map_size - cdb) : CDB_MAX;
		return 1;
	}
	return 0;
}

void obd_ring_untake(struct obd_ring *ring, const struct obd_ring_entry *entry)
{
	ring->taken = (uint32_t)(entry->iov - REQUEST_IOV - ring->map) - ring->offset;
}

int obd_ring_iovec(const struct obd_ring *ring, const struct obd_ring_entry *entry, struct iovec *iov,
		   unsigned *iov_count, uint64_t *bytes)
{
	*iov_count = 0;
	*bytes = 0;
	for (uint32_t i = 0; i < entry->iov_count; i++) {
		const uint64_t base = load64(entry->iov + i * (size_t)IOV_SIZE);
		const uint64_t count = load64(entry->iov + i * (size_t)IOV_SIZE + 8);

		if (base > ring->map_size || count > ring->map_size - base)
			return -EPROTO;
		if (!count)
			continue;
		iov[(*iov_count)++] = (struct iovec){ring->map + base, (size_t)count};
		*bytes += count;
	}
	return 0;
}

/* Where the first entry is that wants an answer; ends at taken. */
static uint32_t skip_others(const struct obd_ring *ring, uint32_t position, uint32_t taken)
{
	while (position != taken) {
		uint32_t kind, length = entry_length(ring, position, &kind);

		if (kind == KIND_COMMAND || !length)
			break;
		position = advance(ring, position, length);
	}
	return position;
}

void obd_ring_complete(struct obd_ring *ring, uint16_t id, const struct obd_ring_answer *answer)
{
	/* a command that was taken and not answered lies at the tail or behind it: the search always ends there */
	uint32_t kind, tail = skip_others(ring, *word(ring, MAILBOX_TAIL), UINT32_MAX);
	const uint32_t length = entry_length(ring, tail, &kind);
	uint8_t *entry = ring->map + ring->offset + tail;
	const bool residual = ring->read_length && answer->read_count && answer->status == 0;

	if (!length) /* overwritten behind our back; obd_ring_next has said so, or will */
		return;
	memcpy(entry + ENTRY_ID, &id, sizeof(id));
	entry[ENTRY_FLAGS] = residual ? ANSWERED_READ_LENGTH : 0;
	memset(entry + ANSWER_STATUS, 0, ANSWER_SENSE - ANSWER_STATUS);
	entry[ANSWER_STATUS] = answer->status;
	memcpy(entry + ANSWER_READ_COUNT, &answer->read_count, sizeof(answer->read_count));
	if (answer->sense) {
		memset(entry + ANSWER_SENSE, 0, ANSWER_END - ANSWER_SENSE);
		memcpy(entry + ANSWER_SENSE, answer->sense, answer->sense_count);
	}
	__atomic_store_n(word(ring, MAILBOX_TAIL), advance(ring, tail, length), __ATOMIC_RELEASE);
}

void obd_ring_skip(struct obd_ring *ring, uint32_t taken)
{
	const uint32_t tail = *word(ring, MAILBOX_TAIL), behind = skip_others(ring, tail, taken);

	if (behind != tail)
		__atomic_store_n(word(ring, MAILBOX_TAIL), behind, __ATOMIC_RELEASE);
}

uint32_t obd_test_load_acquire(const void *word)
{
	return __atomic_load_n((const uint32_t *)word, __ATOMIC_ACQUIRE);
}

void obd_test_store_release(void *word, uint32_t value)
{
	__atomic_store_n((uint32_t *)word, value, __ATOMIC_RELEASE);
}
