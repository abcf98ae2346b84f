/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Open addressing with linear probing; removal moves later keys back, so there are no tombstones. Names come from
 * outside, so the hash is SipHash-1-3 with a key of chance: nobody can prepare names that collide.
 */
#include "marks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum { START = 1024 /**< slots, a power of two */ };

struct obd_marks {
	uint64_t *slots; /**< 0 = empty */
	size_t size, count;
	uint64_t secret[2];
};

int obd_marks_create(struct obd_marks **ret)
{
	struct obd_marks *marks = calloc(1, sizeof(*marks));

	if (!marks)
		return -ENOMEM;
	marks->size = START;
	marks->slots = calloc(marks->size, sizeof(*marks->slots));
	if (!marks->slots) {
		free(marks);
		return -ENOMEM;
	}
	// Without entropy (early boot) the secret stays zero: slower for hostile names, no less right.
	if (getrandom(marks->secret, sizeof(marks->secret), GRND_NONBLOCK) < 0)
		memset(marks->secret, 0, sizeof(marks->secret));
	*ret = marks;
	return 0;
}

void obd_marks_destroy(struct obd_marks *marks)
{
	if (!marks)
		return;
	free(marks->slots);
	free(marks);
}

static uint64_t rotate(uint64_t value, unsigned bits)
{
	return value << bits | value >> (64 - bits);
}

static void sip_round(uint64_t v[4])
{
	v[0] += v[1];
	v[1] = rotate(v[1], 13) ^ v[0];
	v[0] = rotate(v[0], 32);
	v[2] += v[3];
	v[3] = rotate(v[3], 16) ^ v[2];
	v[0] += v[3];
	v[3] = rotate(v[3], 21) ^ v[0];
	v[2] += v[1];
	v[1] = rotate(v[1], 17) ^ v[2];
	v[2] = rotate(v[2], 32);
}

static void sip_word(uint64_t v[4], uint64_t word)
{
	v[3] ^= word;
	sip_round(v);
	v[0] ^= word;
}

uint64_t obd_marks_key(const struct obd_marks *marks, uint32_t dir, const char *name, size_t length)
{
	uint64_t v[4] = {
		marks->secret[0] ^ UINT64_C(0x736f6d6570736575), marks->secret[1] ^ UINT64_C(0x646f72616e646f6d),
		marks->secret[0] ^ UINT64_C(0x6c7967656e657261), marks->secret[1] ^ UINT64_C(0x7465646279746573)};
	uint64_t key;

	sip_word(v, (uint64_t)length << 32 | dir);
	while (length) {
		uint64_t word = 0;
		const size_t part = length < sizeof(word) ? length : sizeof(word);

		memcpy(&word, name, part);
		sip_word(v, word);
		name += part;
		length -= part;
	}
	v[2] ^= 0xff;
	for (int i = 0; i < 3; i++)
		sip_round(v);
	key = v[0] ^ v[1] ^ v[2] ^ v[3];
	return key ? key : 1;
}

static size_t home_of(const struct obd_marks *marks, uint64_t key)
{
	return (size_t)key & (marks->size - 1);
}

/** Where key is, or the empty slot where it belongs. */
static size_t slot_of(const struct obd_marks *marks, uint64_t key)
{
	size_t slot = home_of(marks, key);

	while (marks->slots[slot] && marks->slots[slot] != key)
		slot = (slot + 1) & (marks->size - 1);
	return slot;
}

bool obd_marks_has(const struct obd_marks *marks, uint64_t key)
{
	return marks->slots[slot_of(marks, key)] == key;
}

static int grow(struct obd_marks *marks)
{
	const struct obd_marks old = *marks;

	marks->slots = calloc(2 * old.size, sizeof(*marks->slots));
	if (!marks->slots) {
		*marks = old;
		return -ENOMEM;
	}
	marks->size = 2 * old.size;
	for (size_t i = 0; i < old.size; i++)
		if (old.slots[i])
			marks->slots[slot_of(marks, old.slots[i])] = old.slots[i];
	free(old.slots);
	return 0;
}

int obd_marks_add(struct obd_marks *marks, uint64_t key)
{
	size_t slot = slot_of(marks, key);

	if (marks->slots[slot] == key)
		return 0;
	if (marks->count >= marks->size / 4 * 3) {
		const int r = grow(marks);

		if (r)
			return r;
		slot = slot_of(marks, key);
	}
	marks->slots[slot] = key;
	marks->count++;
	return 0;
}

void obd_marks_remove(struct obd_marks *marks, uint64_t key)
{
	size_t hole = slot_of(marks, key);

	if (marks->slots[hole] != key)
		return;
	marks->slots[hole] = 0;
	marks->count--;
	for (size_t at = (hole + 1) & (marks->size - 1); marks->slots[at]; at = (at + 1) & (marks->size - 1)) {
		const size_t home = home_of(marks, marks->slots[at]);

		// It may stay where it is as long as the way to it, from its home, does not lead over the hole.
		if (((at - home) & (marks->size - 1)) < ((at - hole) & (marks->size - 1)))
			continue;
		marks->slots[hole] = marks->slots[at];
		marks->slots[at] = 0;
		hole = at;
	}
}
