/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_PAGES_H
#define OBD_PAGES_H
#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Reading a file where it already lies: in the page cache, through a mapping, without a system call and without the
 * kernel's copy, which takes twice as long as ours. Touching a page that is not there would wait for the disk, so the
 * kernel is asked for 64 pages at a time, and its answer is believed for a while:
 *
 *     unknown --- mincore() says it is there --> seen --- obd_pages_forget, some seconds later --> unknown, unmapped
 *
 * Only seen pages are touched. One can be gone all the same:
 *
 *     the kernel needed its memory       the touch waits for the disk. Rare: what was used seconds ago goes last
 *     the file was cut, the disk failed  SIGBUS, which obd_guard turns into a return; the caller then reads by system
 *                                        call, and gets the error there
 *
 * Pages touched count as resident memory of the process, though they are page cache; forgetting gives them back.
 */
struct obd_pages {
	const uint8_t *bytes;
	uint64_t size;
	bool any;	/**< atomic: a page is seen */
	uint64_t *seen; /**< atomic: a bit for each page */
};

enum { OBD_PAGE_SHIFT = 12 };

/** Maps size bytes of fd, a regular file. 0, or -errno when it cannot be mapped or is too large to be worth it. */
int obd_pages_create(int fd, uint64_t size, struct obd_pages **ret);
void obd_pages_destroy(struct obd_pages *pages);
/**
 * From now on they are those of fd, another file with the same bytes: whoever reads meanwhile finds either. -errno:
 * they are still those of the first, and must not be read any more once that changes.
 */
int obd_pages_move(struct obd_pages *pages, int fd);

/** Asks the kernel for the range and what is around it; true: all of the range is seen. Costs as much as a small read.
 */
bool obd_pages_ask(struct obd_pages *pages, uint64_t offset, uint64_t count);
/** Nothing is seen any more, and nothing mapped. Whoever reads meanwhile goes on. */
void obd_pages_forget(struct obd_pages *pages);

static inline bool obd_pages_any(const struct obd_pages *pages)
{
	return __atomic_load_n(&pages->any, __ATOMIC_RELAXED);
}

static inline bool obd_pages_seen(const struct obd_pages *pages, uint64_t offset, uint64_t count)
{
	for (uint64_t page = offset >> OBD_PAGE_SHIFT; page <= (offset + count - 1) >> OBD_PAGE_SHIFT; page++)
		if (!(__atomic_load_n(&pages->seen[page / 64], __ATOMIC_RELAXED) >> page % 64 & 1))
			return false;
	return true;
}

/**
 * After bytes were taken that have no checksum: the file is still as long as it was. Else the end of its new last page
 * may have been zeros. No signal, no news: a file that was cut has lost its last page, which is touched here.
 */
static inline void obd_pages_check(const struct obd_pages *pages)
{
	// Loads in their order, which x86 keeps by itself.
#if defined(__aarch64__)
	__asm__ volatile("dmb ishld" ::: "memory");
#else
	__asm__ volatile("" ::: "memory");
#endif
	(void)*(const volatile uint8_t *)&pages->bytes[pages->size - 1];
}

/**
 * Surrounds what touches pages, in the function that calls sigsetjmp:
 *
 *     if (sigsetjmp(guard.back, 0) == 0) { obd_guard_set(&guard); ...; obd_guard_set(NULL); } else { they are gone }
 *
 * The guard is off again when sigsetjmp returns for the second time. No lock may be held inside, and nothing be half
 * done that matters. The thread must not block SIGBUS.
 */
struct obd_guard {
	sigjmp_buf back;
};
void obd_guard_set(struct obd_guard *guard);

#endif
