/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A page is read before it is written, so that a write can be compared with what is there; unless all of it is written,
 * for then it is most likely new. Dirty pages leave in runs:
 * whoever has to go takes its dirty neighbours along, and a write-back goes through the disk in order.
 *
 * Streamed data is in one buffer until a gap comes or it is full. Both sides look at the other: a streamed range has no
 * pages any more, and a page is not read from the disk before streamed data that overlaps it has been written.
 */
#include "pages.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "../error.h"

enum {
	SECTOR = 512,
	PAGE = 4096,
	COUNT = 8192,	      /**< pages: 32 MiB */
	BUCKETS = 2 * COUNT,  /**< a power of two */
	RUN = 256,	      /**< pages written at once, at most */
	STREAM = 1024 * 1024, /**< bytes */
	NONE = COUNT,	      /**< end of a chain */
};

struct page {
	uint64_t number; /**< offset / PAGE */
	uint32_t next;	 /**< in its bucket */
	bool used, dirty;
	bool touched; /**< since the hand passed */
};

struct obd_pages {
	const struct obd_ext4_disk *disk;
	struct page *pages;
	uint32_t *buckets;
	uint8_t *data;	 /**< COUNT pages */
	uint8_t *run;	 /**< RUN pages, for writing */
	uint8_t *stream; /**< STREAM bytes, of which stream_count lie at stream_at */
	uint64_t stream_at;
	size_t stream_count;
	bool compare;  /**< whole pages, too */
	uint32_t hand; /**< where the search for a page to give up goes on */
	char cause[256];
};

int obd_pages_create(const struct obd_ext4_disk *disk, struct obd_pages **ret)
{
	const size_t memory = (size_t)(COUNT + RUN) * PAGE + STREAM;
	struct obd_pages *pages = calloc(1, sizeof(*pages));
	void *data;

	if (!pages)
		return -ENOMEM;
	pages->disk = disk;
	pages->pages = calloc(COUNT, sizeof(*pages->pages));
	pages->buckets = malloc(BUCKETS * sizeof(*pages->buckets));
	data = mmap(NULL, memory, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (data != MAP_FAILED)
		pages->data = data;
	if (!pages->pages || !pages->buckets || !pages->data) {
		obd_pages_destroy(pages);
		return -ENOMEM;
	}
	pages->run = pages->data + (size_t)COUNT * PAGE;
	pages->stream = pages->run + (size_t)RUN * PAGE;
	for (size_t i = 0; i < BUCKETS; i++)
		pages->buckets[i] = NONE;
	*ret = pages;
	return 0;
}

void obd_pages_destroy(struct obd_pages *pages)
{
	if (!pages)
		return;
	if (pages->data)
		munmap(pages->data, (size_t)(COUNT + RUN) * PAGE + STREAM);
	free(pages->buckets);
	free(pages->pages);
	free(pages);
}

const char *obd_pages_cause(const struct obd_pages *pages)
{
	return pages->cause;
}

static int failed(struct obd_pages *pages, const char *what, size_t count, uint64_t offset, int64_t code)
{
	if (!pages->cause[0])
		snprintf(pages->cause, sizeof(pages->cause), "%s %zu bytes at offset %llu of the disk: %s", what, count,
			 (unsigned long long)offset, strerror((int)-code));
	return (int)code;
}

static int disk_read(struct obd_pages *pages, void *buf, size_t count, uint64_t offset)
{
	const int64_t n = pages->disk->pread(pages->disk->handle, buf, count, offset);

	if (n == (int64_t)count)
		return 0;
	return failed(pages, "reading", count, offset, n < 0 ? n : -EIO);
}

static int disk_write(struct obd_pages *pages, const void *buf, size_t count, uint64_t offset)
{
	const int64_t n = pages->disk->pwrite(pages->disk->handle, buf, count, offset);

	if (n == (int64_t)count)
		return 0;
	return failed(pages, "writing", count, offset, n < 0 ? n : -EIO);
}

/** The disk's last page may be short. */
static size_t page_size(const struct obd_pages *pages, uint64_t number)
{
	const uint64_t left = pages->disk->size - number * PAGE;

	return left < PAGE ? (size_t)left : PAGE;
}

static uint8_t *page_data(const struct obd_pages *pages, uint32_t slot)
{
	return pages->data + (size_t)slot * PAGE;
}

static uint32_t *bucket_of(const struct obd_pages *pages, uint64_t number)
{
	return &pages->buckets[(number * UINT64_C(0x9E3779B97F4A7C15) >> 32) & (BUCKETS - 1)];
}

static uint32_t find(const struct obd_pages *pages, uint64_t number)
{
	uint32_t slot = *bucket_of(pages, number);

	while (slot != NONE && pages->pages[slot].number != number)
		slot = pages->pages[slot].next;
	return slot;
}

static void forget(struct obd_pages *pages, uint32_t slot)
{
	uint32_t *link = bucket_of(pages, pages->pages[slot].number);

	while (*link != slot)
		link = &pages->pages[*link].next;
	*link = pages->pages[slot].next;
	pages->pages[slot] = (struct page){0};
}

static bool is_dirty(const struct obd_pages *pages, uint64_t number)
{
	const uint32_t slot = find(pages, number);

	return slot != NONE && pages->pages[slot].dirty;
}

/** Writes the dirty page of that number, and the dirty ones beside it. */
static int write_run(struct obd_pages *pages, uint64_t number)
{
	uint64_t first = number;
	size_t count = 0;
	int r;

	while (first && number - first < RUN / 2 && is_dirty(pages, first - 1))
		first--;
	for (uint64_t n = first; n - first < RUN && is_dirty(pages, n); n++) {
		const size_t size = page_size(pages, n);

		memcpy(pages->run + count, page_data(pages, find(pages, n)), size);
		count += size;
	}
	r = disk_write(pages, pages->run, count, first * PAGE);
	if (r)
		return r;
	for (uint64_t n = first; n * PAGE < first * PAGE + count; n++)
		pages->pages[find(pages, n)].dirty = false;
	return 0;
}

static int write_stream(struct obd_pages *pages)
{
	const size_t count = (pages->stream_count + SECTOR - 1) / SECTOR * SECTOR;

	// Only a file that was given up ends inside a sector; the rest of it is nobody's.
	memset(pages->stream + pages->stream_count, 0, count - pages->stream_count);
	pages->stream_count = 0; // also when it fails: the caller gives up, and it must not be tried for ever
	return count ? disk_write(pages, pages->stream, count, pages->stream_at) : 0;
}

/** A free slot: the next one, by the hand, that nobody wanted since it passed last time. */
static int free_slot(struct obd_pages *pages, uint32_t *ret)
{
	for (;; pages->hand = (pages->hand + 1) % COUNT) {
		struct page *page = &pages->pages[pages->hand];
		int r;

		if (page->used && page->touched) {
			page->touched = false;
			continue;
		}
		if (page->used && page->dirty) {
			r = write_run(pages, page->number);
			if (r)
				return r;
		}
		if (page->used)
			forget(pages, pages->hand);
		*ret = pages->hand;
		return 0;
	}
}

static bool overlaps_stream(const struct obd_pages *pages, uint64_t offset, size_t count)
{
	return pages->stream_count && offset < pages->stream_at + pages->stream_count &&
	       pages->stream_at < offset + count;
}

void obd_pages_compare(struct obd_pages *pages)
{
	pages->compare = true;
}

/** The slot that holds the page of that number, read if it has to be. */
static int get(struct obd_pages *pages, uint64_t number, bool fresh, uint32_t *ret)
{
	uint32_t slot = find(pages, number), *bucket;
	int r;

	if (slot == NONE) {
		r = free_slot(pages, &slot);
		if (!r && overlaps_stream(pages, number * PAGE, PAGE))
			r = write_stream(pages);
		if (!r && !fresh)
			r = disk_read(pages, page_data(pages, slot), page_size(pages, number), number * PAGE);
		if (r)
			return r;
		bucket = bucket_of(pages, number);
		pages->pages[slot] = (struct page){.number = number, .next = *bucket, .used = true, .dirty = fresh};
		*bucket = slot;
	}
	pages->pages[slot].touched = true;
	*ret = slot;
	return 0;
}

static int check_range(struct obd_pages *pages, const char *what, size_t count, uint64_t offset)
{
	if (offset <= pages->disk->size && count <= pages->disk->size - offset)
		return 0;
	return failed(pages, what, count, offset, -EINVAL);
}

/** How much of a range from offset on lies in offset's page. */
static size_t part_of(uint64_t offset, size_t count)
{
	const size_t room = PAGE - (size_t)(offset % PAGE);

	return count < room ? count : room;
}

int obd_pages_read(struct obd_pages *pages, void *buf, size_t count, uint64_t offset)
{
	int r = check_range(pages, "reading", count, offset);

	for (uint8_t *to = buf; !r && count;) {
		const size_t part = part_of(offset, count);
		uint32_t slot;

		r = get(pages, offset / PAGE, false, &slot);
		if (r)
			break;
		memcpy(to, page_data(pages, slot) + offset % PAGE, part);
		to += part;
		offset += part;
		count -= part;
	}
	return r;
}

int obd_pages_write(struct obd_pages *pages, const void *buf, size_t count, uint64_t offset)
{
	int r = check_range(pages, "writing", count, offset);

	for (const uint8_t *from = buf; !r && count;) {
		const size_t part = part_of(offset, count);
		uint32_t slot;
		uint8_t *to;

		r = get(pages, offset / PAGE, part == PAGE && !pages->compare, &slot);
		if (r)
			break;
		to = page_data(pages, slot) + offset % PAGE;
		if (pages->pages[slot].dirty || memcmp(to, from, part)) {
			memcpy(to, from, part);
			pages->pages[slot].dirty = true;
		}
		from += part;
		offset += part;
		count -= part;
	}
	return r;
}

/** Pages of a streamed range: whole ones are void now, of others the rest still counts. */
static int void_pages(struct obd_pages *pages, uint64_t offset, size_t count)
{
	while (count) {
		const size_t part = part_of(offset, count);
		const uint32_t slot = find(pages, offset / PAGE);
		int r;

		if (slot != NONE && pages->pages[slot].dirty && part < page_size(pages, offset / PAGE)) {
			r = write_run(pages, offset / PAGE);
			if (r)
				return r;
		}
		if (slot != NONE)
			forget(pages, slot);
		offset += part;
		count -= part;
	}
	return 0;
}

int obd_pages_stream(struct obd_pages *pages, const void *buf, size_t count, uint64_t offset)
{
	int r = check_range(pages, "writing", count, offset);

	if (!r)
		r = void_pages(pages, offset, count);
	for (const uint8_t *from = buf; !r && count;) {
		size_t part = STREAM - pages->stream_count;

		if (pages->stream_count && offset != pages->stream_at + pages->stream_count) {
			r = write_stream(pages);
			continue;
		}
		if (!pages->stream_count)
			pages->stream_at = offset;
		if (part > count)
			part = count;
		memcpy(pages->stream + pages->stream_count, from, part);
		pages->stream_count += part;
		from += part;
		offset += part;
		count -= part;
		if (pages->stream_count == STREAM)
			r = write_stream(pages);
	}
	return r;
}

static int by_number(const void *a, const void *b)
{
	const uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;

	return left < right ? -1 : left > right;
}

int obd_pages_write_back(struct obd_pages *pages)
{
	uint64_t *numbers = malloc(COUNT * sizeof(*numbers));
	size_t count = 0;
	int r;

	if (!numbers)
		return -ENOMEM;
	r = write_stream(pages);
	for (size_t i = 0; i < COUNT; i++)
		if (pages->pages[i].used && pages->pages[i].dirty)
			numbers[count++] = pages->pages[i].number;
	qsort(numbers, count, sizeof(*numbers), by_number);
	for (size_t i = 0; !r && i < count; i++)
		if (is_dirty(pages, numbers[i]))
			r = write_run(pages, numbers[i]);
	free(numbers);
	return r;
}
