/* SPDX-License-Identifier: Apache-2.0 */
#include "pages.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <ucontext.h>
#include <unistd.h>

enum { PAGE = 1 << OBD_PAGE_SHIFT, WORD = 64 * PAGE /**< bytes of the file that a word of bits stands for */ };

/* The bits of a file of this size take 256 KiB, and only where it is read. */
#define SIZE_MAX_WORTH (UINT64_C(8) << 30)

/* The kernel allows a process 65530 mappings, and threads need theirs. */
enum { FILES_MAX = 16384 };
static unsigned files; /* atomic: mapped now */

/* ---- SIGBUS ---- */

static __thread struct obd_guard *guarded; /* this thread touches mapped pages now */
static struct sigaction before;		   /* whose SIGBUS it is when it is not ours */

void obd_guard_set(struct obd_guard *guard)
{
	guarded = guard;
	// What touches pages must not move out of the guarded section.
	__asm__ volatile("" ::: "memory");
}

static void bus_error(int signal, siginfo_t *info, void *context)
{
	struct obd_guard *guard = guarded;

	if (guard && info->si_code > 0) {
		guarded = NULL;
		pthread_sigmask(SIG_SETMASK, &((ucontext_t *)context)->uc_sigmask, NULL); // as when it struck
		siglongjmp(guard->back, 1);
	}
	if (before.sa_flags & SA_SIGINFO)
		before.sa_sigaction(signal, info, context);
	else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN)
		before.sa_handler(signal);
	else
		sigaction(SIGBUS, &before, NULL); // and again, for good
}

static void install(void)
{
	struct sigaction ours = {.sa_sigaction = bus_error, .sa_flags = SA_SIGINFO | SA_ONSTACK};

	sigemptyset(&ours.sa_mask);
	sigaction(SIGBUS, &ours, &before);
}

/* ---- life ---- */

/* Of a file of somebody else mincore() says that all of it is there. */
static bool mincore_tells(int fd)
{
	struct stat st;

	return !fstat(fd, &st) && S_ISREG(st.st_mode) && (geteuid() == 0 || geteuid() == st.st_uid);
}

static int pages_init(struct obd_pages *pages, int fd)
{
	void *bytes;

	pages->seen = calloc((size_t)(pages->size / WORD + 1), sizeof(*pages->seen));
	if (!pages->seen)
		return -ENOMEM;
	if (__atomic_add_fetch(&files, 1, __ATOMIC_RELAXED) > FILES_MAX) {
		__atomic_sub_fetch(&files, 1, __ATOMIC_RELAXED);
		return -EMFILE;
	}
	bytes = mmap(NULL, (size_t)pages->size, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (bytes == MAP_FAILED) {
		__atomic_sub_fetch(&files, 1, __ATOMIC_RELAXED);
		return -errno;
	}
	pages->bytes = bytes;
	return 0;
}

int obd_pages_create(int fd, uint64_t size, struct obd_pages **ret)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct obd_pages *pages;
	int r;

	if (!size || size > SIZE_MAX_WORTH || sysconf(_SC_PAGESIZE) != PAGE)
		return -EFBIG;
	if (!mincore_tells(fd))
		return -EPERM;
	pages = calloc(1, sizeof(*pages));
	if (!pages)
		return -ENOMEM;
	pages->size = size;
	r = pages_init(pages, fd);
	if (r) {
		obd_pages_destroy(pages);
		return r;
	}
	pthread_once(&once, install);
	*ret = pages;
	return 0;
}

void obd_pages_destroy(struct obd_pages *pages)
{
	if (!pages)
		return;
	if (pages->bytes) {
		munmap((void *)(uintptr_t)pages->bytes, (size_t)pages->size);
		__atomic_sub_fetch(&files, 1, __ATOMIC_RELAXED);
	}
	free(pages->seen);
	free(pages);
}

static void unsee(struct obd_pages *pages)
{
	for (uint64_t i = 0; i <= pages->size / WORD; i++)
		if (__atomic_load_n(&pages->seen[i], __ATOMIC_RELAXED))
			__atomic_store_n(&pages->seen[i], 0, __ATOMIC_RELAXED);
}

int obd_pages_move(struct obd_pages *pages, int fd)
{
	void *bytes = (void *)(uintptr_t)pages->bytes;

	if (!mincore_tells(fd))
		return -EPERM;
	if (mmap(bytes, (size_t)pages->size, PROT_READ, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, fd, 0) == MAP_FAILED)
		return -errno;
	unsee(pages);
	return 0;
}

/* ---- what is seen ---- */

static uint64_t ask_word(const struct obd_pages *pages, uint64_t word)
{
	const uint64_t begin = word * WORD, left = pages->size - begin;
	unsigned char there[64] = {0};
	uint64_t bits = 0;

	if (mincore((void *)(uintptr_t)(pages->bytes + begin), left < WORD ? (size_t)left : WORD, there))
		return 0;
	for (unsigned i = 0; i < 64; i++)
		bits |= (uint64_t)(there[i] & 1) << i;
	return bits;
}

bool obd_pages_ask(struct obd_pages *pages, uint64_t offset, uint64_t count)
{
	const uint64_t end = pages->size - 1;

	if (!obd_pages_seen(pages, end, 1)) {
		__atomic_store_n(&pages->seen[end / WORD], ask_word(pages, end / WORD), __ATOMIC_RELAXED);
		if (!obd_pages_seen(pages, end, 1))
			return false; // obd_pages_check would wait
	}
	for (uint64_t word = offset / WORD; word <= (offset + count - 1) / WORD; word++)
		__atomic_store_n(&pages->seen[word], ask_word(pages, word), __ATOMIC_RELAXED);
	__atomic_store_n(&pages->any, true, __ATOMIC_RELEASE);
	return obd_pages_seen(pages, offset, count);
}

void obd_pages_forget(struct obd_pages *pages)
{
	// What is seen meanwhile is either cleared below, or has set this again.
	if (!obd_pages_any(pages) || !__atomic_exchange_n(&pages->any, false, __ATOMIC_ACQ_REL))
		return;
	unsee(pages);
	madvise((void *)(uintptr_t)pages->bytes, (size_t)pages->size, MADV_DONTNEED);
}
