/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Space of an append-only layer that was overwritten or discarded. The file only grows at its end, so it is given back
 * in the middle: as holes, which every reader takes for what they are, places nobody refers to.
 *
 * A hole may only be made when a flush has confirmed the entries that made it garbage, else a power cut would bring
 * back entries that lead into it; and when no reader is left that found the old ones.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include "lsmt_record.h"
#include "upper.h"

enum {
	BLOCK = 4096,		      /* what file systems give back at once */
	WORTH_SECTORS = 64 * 2,	      /* smaller holes cost more than they give: they wait for their neighbours */
	WAIT = OBD_UPPER_GARBAGE / 2, /* ... but not more of them than this */
};

void obd_upper_lose(void *opaque, uint64_t msector, uint64_t length)
{
	struct obd_upper *upper = opaque;
	struct obd_upper_run *last;

	if (!upper->garbage)
		return;
	upper->garbage_sectors += length;
	last = upper->garbage_count ? &upper->garbage[upper->garbage_count - 1] : NULL;
	if (last && last->sector + last->sectors == msector)
		last->sectors += length;
	else if (upper->garbage_count < OBD_UPPER_GARBAGE) /* beyond, space is lost and memory is not */
		upper->garbage[upper->garbage_count++] = (struct obd_upper_run){msector, length};
}

static int compare(const void *a, const void *b)
{
	const struct obd_upper_run *first = a, *second = b;

	return first->sector < second->sector ? -1 : first->sector > second->sector;
}

static size_t merge(struct obd_upper_run *runs, size_t count)
{
	size_t merged = 0;

	qsort(runs, count, sizeof(*runs), compare);
	for (size_t i = 0; i < count; i++) {
		if (merged && runs[merged - 1].sector + runs[merged - 1].sectors == runs[i].sector)
			runs[merged - 1].sectors += runs[i].sectors;
		else
			runs[merged++] = runs[i];
	}
	return merged;
}

/* false: this file system has no holes. */
static bool punch(int fd, const struct obd_upper_run *run)
{
	const uint64_t begin = (run->sector * OBD_SECTOR + BLOCK - 1) / BLOCK * BLOCK;
	const uint64_t end = (run->sector + run->sectors) * OBD_SECTOR / BLOCK * BLOCK;

	return begin >= end ||
	       !fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)begin, (off_t)(end - begin)) ||
	       errno != EOPNOTSUPP;
}

size_t obd_upper_punch(struct obd_upper *upper, struct obd_upper_run *runs, size_t count)
{
	size_t waiting = 0;

	count = merge(runs, count);
	for (size_t i = 0; i < count; i++) {
		if (runs[i].sectors < WORTH_SECTORS && waiting < WAIT)
			runs[waiting++] = runs[i];
		else if (runs[i].sectors >= WORTH_SECTORS && !punch(upper->data_fd, &runs[i]))
			return 0;
	}
	return waiting;
}
