/* SPDX-License-Identifier: Apache-2.0 */
#include "presence.h"

#include <errno.h>
#include <stdlib.h>

enum { WORD_SHIFT = 6, WORD_BITS = 1 << WORD_SHIFT };

int obd_presence_init(struct obd_presence *presence, uint64_t size)
{
	presence->granules = (size >> OBD_GRANULE_SHIFT) + (size % OBD_GRANULE != 0);
	presence->sequence = 0;
	presence->words = calloc((size_t)(presence->granules >> WORD_SHIFT) + 1, sizeof(*presence->words));
	return presence->words ? 0 : -ENOMEM;
}

void obd_presence_deinit(struct obd_presence *presence)
{
	free(presence->words);
	presence->words = NULL;
}

/** The bits of word that lie in [first, stop), both granules. */
static uint64_t mask_of(uint64_t word, uint64_t first, uint64_t stop)
{
	const uint64_t begin = word << WORD_SHIFT;
	uint64_t mask = ~UINT64_C(0);

	if (first > begin)
		mask &= ~UINT64_C(0) << (first - begin);
	if (stop < begin + WORD_BITS)
		mask &= ~(~UINT64_C(0) << (stop - begin));
	return mask;
}

static uint64_t stop_of(uint64_t offset, uint64_t count)
{
	return (offset + count + OBD_GRANULE - 1) >> OBD_GRANULE_SHIFT;
}

void obd_presence_set(struct obd_presence *presence, uint64_t offset, uint64_t count)
{
	const uint64_t first = offset >> OBD_GRANULE_SHIFT, stop = stop_of(offset, count);

	if (!count)
		return;
	/* release: whoever sees a bit reads what was written before it was set */
	for (uint64_t word = first >> WORD_SHIFT; word << WORD_SHIFT < stop; word++)
		__atomic_fetch_or(&presence->words[word], mask_of(word, first, stop), __ATOMIC_RELEASE);
}

void obd_presence_clear(struct obd_presence *presence, uint64_t offset, uint64_t count)
{
	const uint64_t first = offset >> OBD_GRANULE_SHIFT, stop = stop_of(offset, count);

	if (!count)
		return;
	for (uint64_t word = first >> WORD_SHIFT; word << WORD_SHIFT < stop; word++)
		__atomic_fetch_and(&presence->words[word], ~mask_of(word, first, stop), __ATOMIC_RELAXED);
	/* whoever sees the new sequence sees the bits cleared; and it is out before the file changes */
	__atomic_fetch_add(&presence->sequence, 1, __ATOMIC_RELEASE);
	obd_presence_cleared();
}

/** Length in bytes of the run at offset whose bits, after flip, are all set. */
static uint64_t run(const struct obd_presence *presence, uint64_t offset, uint64_t count, uint64_t flip)
{
	const uint64_t first = offset >> OBD_GRANULE_SHIFT, stop = stop_of(offset, count);
	uint64_t end;

	for (uint64_t word = first >> WORD_SHIFT; word << WORD_SHIFT < stop; word++) {
		const uint64_t bits = __atomic_load_n(&presence->words[word], __ATOMIC_ACQUIRE) ^ flip;
		const uint64_t others = ~bits & mask_of(word, first, stop);

		if (!others)
			continue;
		end = ((word << WORD_SHIFT) + (unsigned)__builtin_ctzll(others)) << OBD_GRANULE_SHIFT;
		return end > offset ? end - offset : 0;
	}
	return count;
}

uint64_t obd_presence_run(const struct obd_presence *presence, uint64_t offset, uint64_t count)
{
	return run(presence, offset, count, 0);
}

uint64_t obd_presence_gap(const struct obd_presence *presence, uint64_t offset, uint64_t count)
{
	return run(presence, offset, count, ~UINT64_C(0));
}

uint64_t obd_presence_count(const struct obd_presence *presence, uint64_t first, uint64_t stop)
{
	uint64_t count = 0;

	for (uint64_t word = first >> WORD_SHIFT; word << WORD_SHIFT < stop; word++) {
		const uint64_t bits = __atomic_load_n(&presence->words[word], __ATOMIC_RELAXED);

		count += (unsigned)__builtin_popcountll(bits & mask_of(word, first, stop));
	}
	return count;
}
