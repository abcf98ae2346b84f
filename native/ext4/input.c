/* SPDX-License-Identifier: Apache-2.0 */
/*
 *     fd --> raw --> plain | gzip | zstd --> slots --> obd_input_next
 *            `------- the input's thread ------'
 *
 * The first bytes say what the stream is. The slots are a ring: slot i is the thread's while i >= filled, the
 * consumer's while taken <= i < filled.
 */
#include "input.h"

#include <errno.h>
#include <openssl/evp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "../error.h"
#include "../thread.h"

enum { SLOTS = 4, SLOT = 512 * 1024, RAW = 256 * 1024, MAGIC = 4, LOOK_MS = 100 };
enum format { PLAIN, GZIP, ZSTD };

struct obd_input {
	int fd, stop_fd;
	struct obd_ext4_progress *progress;
	struct obd_error *err;
	uint64_t offset; /**< the consumer's */

	pthread_t thread;
	pthread_mutex_t lock; /**< all up to failure */
	pthread_cond_t changed;
	uint64_t filled, taken;
	size_t counts[SLOTS];
	bool end, stop;
	struct obd_error failure; /**< code 0: none */

	uint8_t *slots; /**< SLOTS * SLOT bytes */
	bool held;	/**< the consumer works on slot taken, from at on */
	size_t at;

	/* the thread's */
	uint8_t *raw; /**< RAW bytes, of which [raw_at, raw_end) are to be used */
	size_t raw_at, raw_end;
	uint64_t raw_offset; /**< of raw_end, in the stream */
	bool raw_eof;
	enum format format;
	bool between; /**< members or frames: the stream may end */
	z_stream gzip;
	ZSTD_DStream *zstd;
	EVP_MD_CTX *digest;
	unsigned char sha256[32];
};

/* ---- the thread */

static int failed(struct obd_input *input, int code, const char *what)
{
	return obd_fail(&input->failure, code, "the %s stream at offset %llu: %s",
			input->format == GZIP	? "gzip"
			: input->format == ZSTD ? "zstd"
						: "input",
			(unsigned long long)(input->raw_offset - (input->raw_end - input->raw_at)), what);
}

/** Waits until fd can be read; -ECANCELED when the consumer has gone. */
static int wait_readable(struct obd_input *input)
{
	struct pollfd fds[2] = {{input->fd, POLLIN, 0}, {input->stop_fd, POLLIN, 0}};

	while (poll(fds, 2, -1) < 0)
		if (errno != EINTR)
			return failed(input, errno, strerror(errno));
	return fds[1].revents ? failed(input, ECANCELED, "stopped") : 0;
}

/** Reads what there is into to; *count 0 says that the stream is at its end. */
static int read_some(struct obd_input *input, uint8_t *to, size_t room, size_t *count)
{
	ssize_t n;
	int r;

	do {
		r = wait_readable(input);
		if (r)
			return r;
		n = read(input->fd, to, room);
	} while (n < 0 && (errno == EINTR || errno == EAGAIN));
	if (n < 0)
		return failed(input, errno, strerror(errno));
	*count = (size_t)n;
	input->raw_eof = n == 0;
	input->raw_offset += (size_t)n;
	__atomic_store_n(&input->progress->input, input->raw_offset, __ATOMIC_RELAXED);
	return 0;
}

/** More raw bytes behind those that are left. */
static int read_raw(struct obd_input *input)
{
	size_t n = 0;
	int r;

	memmove(input->raw, input->raw + input->raw_at, input->raw_end - input->raw_at);
	input->raw_end -= input->raw_at;
	input->raw_at = 0;
	r = read_some(input, input->raw + input->raw_end, RAW - input->raw_end, &n);
	input->raw_end += n;
	return r;
}

static int detect(struct obd_input *input)
{
	static const uint8_t gzip[] = {0x1f, 0x8b}, zstd[] = {0x28, 0xb5, 0x2f, 0xfd};
	int r = 0;

	while (!r && !input->raw_eof && input->raw_end < MAGIC)
		r = read_raw(input);
	if (r)
		return r;
	if (input->raw_end >= sizeof(gzip) && !memcmp(input->raw, gzip, sizeof(gzip))) {
		input->format = GZIP;
		if (inflateInit2(&input->gzip, 15 + 16) != Z_OK)
			return failed(input, ENOMEM, "no memory");
	} else if (input->raw_end >= sizeof(zstd) && !memcmp(input->raw, zstd, sizeof(zstd))) {
		input->format = ZSTD;
		input->zstd = ZSTD_createDStream();
		if (!input->zstd)
			return failed(input, ENOMEM, "no memory");
	}
	return 0;
}

/** Behind a member: zeros are padding, another member goes on, and anything else is damage. */
static int next_member(struct obd_input *input)
{
	while (input->raw_at < input->raw_end && !input->raw[input->raw_at])
		input->raw_at++;
	if (input->raw_at == input->raw_end)
		return 0;
	if (input->raw[input->raw_at] != 0x1f)
		return failed(input, EINVAL, "data that is no gzip follows");
	input->between = false;
	return inflateReset(&input->gzip) == Z_OK ? 0 : failed(input, EINVAL, "cannot go on");
}

static int inflate_some(struct obd_input *input, uint8_t *to, size_t room, size_t *count)
{
	z_stream *gzip = &input->gzip;
	int r;

	if (input->between) {
		r = next_member(input);
		if (r || input->between)
			return r;
	}
	gzip->next_in = input->raw + input->raw_at;
	gzip->avail_in = (uInt)(input->raw_end - input->raw_at);
	gzip->next_out = to;
	gzip->avail_out = (uInt)room;
	r = inflate(gzip, Z_NO_FLUSH);
	input->raw_at = input->raw_end - gzip->avail_in;
	*count = room - gzip->avail_out;
	if (r == Z_STREAM_END)
		input->between = true;
	else if (r != Z_OK && r != Z_BUF_ERROR)
		return failed(input, EINVAL, gzip->msg ? gzip->msg : "damaged");
	return 0;
}

static int unzstd_some(struct obd_input *input, uint8_t *to, size_t room, size_t *count)
{
	ZSTD_inBuffer in = {input->raw, input->raw_end, input->raw_at};
	ZSTD_outBuffer out = {to, room, 0};
	size_t left;

	// Behind a frame it would say how many bytes the next one begins with.
	if (input->between && in.pos == in.size)
		return 0;
	left = ZSTD_decompressStream(input->zstd, &out, &in);
	if (ZSTD_isError(left))
		return failed(input, EINVAL, ZSTD_getErrorName(left));
	input->raw_at = in.pos;
	input->between = left == 0;
	*count = out.pos;
	return 0;
}

static int some(struct obd_input *input, uint8_t *to, size_t room, size_t *count)
{
	const size_t left = input->raw_end - input->raw_at;

	switch (input->format) {
	case GZIP:
		return inflate_some(input, to, room, count);
	case ZSTD:
		return unzstd_some(input, to, room, count);
	case PLAIN:
		break;
	}
	if (!left && !input->raw_eof)
		return read_some(input, to, room, count);
	*count = left < room ? left : room;
	memcpy(to, input->raw + input->raw_at, *count);
	input->raw_at += *count;
	return 0;
}

/** Fills a slot; fewer bytes than it holds are the last ones. */
static int fill(struct obd_input *input, uint8_t *slot, size_t *count)
{
	int r = 0;

	*count = 0;
	while (*count < SLOT) {
		const size_t before = input->raw_at;
		size_t n = 0;

		// A decoder may still have something to say when all has been read.
		r = some(input, slot + *count, SLOT - *count, &n);
		if (r)
			return r;
		*count += n;
		if (n || input->raw_at != before)
			continue;
		if (input->raw_eof)
			break;
		r = read_raw(input);
		if (r)
			return r;
	}
	if (*count < SLOT && input->format != PLAIN && !input->between)
		return failed(input, EINVAL, "ends in the middle");
	return 0;
}

/** The next slot that is free; NULL when the consumer has gone. */
static uint8_t *free_slot(struct obd_input *input)
{
	uint8_t *slot = NULL;

	pthread_mutex_lock(&input->lock);
	while (!input->stop && input->filled - input->taken == SLOTS)
		pthread_cond_wait(&input->changed, &input->lock);
	if (!input->stop)
		slot = input->slots + input->filled % SLOTS * SLOT;
	pthread_mutex_unlock(&input->lock);
	return slot;
}

static void publish(struct obd_input *input, size_t count, bool end)
{
	pthread_mutex_lock(&input->lock);
	if (count) {
		input->counts[input->filled % SLOTS] = count;
		input->filled++;
	}
	input->end = end;
	pthread_cond_signal(&input->changed);
	pthread_mutex_unlock(&input->lock);
}

static void *run(void *argument)
{
	struct obd_input *input = argument;
	bool end = false;
	int r = detect(input);

	while (!end) {
		uint8_t *slot = free_slot(input);
		size_t count = 0;

		if (!slot)
			break;
		if (!r)
			r = fill(input, slot, &count);
		end = r || count < SLOT;
		if (input->digest && count)
			EVP_DigestUpdate(input->digest, slot, count);
		if (end && input->digest)
			EVP_DigestFinal_ex(input->digest, input->sha256, NULL);
		publish(input, count, end);
	}
	return NULL;
}

/* ---- the consumer */

/** Waits for a change, or so long that a wish to stop has to be looked for. */
static void wait_a_while(struct obd_input *input)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += LOOK_MS * 1000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000;
	}
	pthread_cond_timedwait(&input->changed, &input->lock, &until);
}

static bool is_stopped(const struct obd_input *input)
{
	return __atomic_load_n(&input->progress->stop, __ATOMIC_RELAXED);
}

int64_t obd_input_next(struct obd_input *input, size_t max, const uint8_t **data)
{
	size_t slot, count;

	pthread_mutex_lock(&input->lock);
	if (input->held && input->at == input->counts[input->taken % SLOTS]) {
		input->held = false;
		input->taken++;
		pthread_cond_signal(&input->changed);
	}
	while (input->taken == input->filled && !input->end && !is_stopped(input))
		wait_a_while(input);
	if (is_stopped(input)) {
		pthread_mutex_unlock(&input->lock);
		return obd_fail(input->err, ECANCELED, "stopped");
	}
	if (input->taken == input->filled) {
		const struct obd_error failure = input->failure;

		pthread_mutex_unlock(&input->lock);
		if (!failure.code)
			return 0;
		*input->err = failure;
		return -failure.code;
	}
	slot = input->taken % SLOTS;
	if (!input->held)
		input->at = 0;
	input->held = true;
	count = input->counts[slot] - input->at;
	pthread_mutex_unlock(&input->lock);

	if (count > max)
		count = max;
	*data = input->slots + slot * SLOT + input->at;
	input->at += count;
	input->offset += count;
	__atomic_store_n(&input->progress->archive, input->offset, __ATOMIC_RELAXED);
	return (int64_t)count;
}

uint64_t obd_input_offset(const struct obd_input *input)
{
	return input->offset;
}

void obd_input_sha256(const struct obd_input *input, char hex[65])
{
	for (size_t i = 0; i < sizeof(input->sha256); i++)
		snprintf(hex + 2 * i, 3, "%02x", input->sha256[i]);
}

static void input_free(struct obd_input *input)
{
	if (input->format == GZIP)
		inflateEnd(&input->gzip);
	ZSTD_freeDStream(input->zstd);
	EVP_MD_CTX_free(input->digest);
	pthread_cond_destroy(&input->changed);
	pthread_mutex_destroy(&input->lock);
	if (input->stop_fd >= 0)
		close(input->stop_fd);
	free(input->slots);
	free(input->raw);
	free(input);
}

int obd_input_create(int fd, bool digest, struct obd_ext4_progress *progress, struct obd_input **ret,
		     struct obd_error *err)
{
	struct obd_input *input = calloc(1, sizeof(*input));
	pthread_condattr_t monotonic;
	int r = ENOMEM;

	if (!input)
		return obd_fail(err, ENOMEM, "no memory");
	input->fd = fd;
	input->progress = progress;
	input->err = err;
	pthread_mutex_init(&input->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&input->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	input->stop_fd = eventfd(0, EFD_CLOEXEC);
	input->slots = malloc((size_t)SLOTS * SLOT);
	input->raw = malloc(RAW);
	if (digest)
		input->digest = EVP_MD_CTX_new();
	if (input->slots && input->raw && input->stop_fd >= 0 &&
	    (!digest || (input->digest && EVP_DigestInit_ex(input->digest, EVP_sha256(), NULL))))
		r = obd_thread_create(&input->thread, NULL, run, input);
	if (r) {
		input_free(input);
		return obd_fail(err, r, "reading the input: %s", strerror(r));
	}
	*ret = input;
	return 0;
}

void obd_input_destroy(struct obd_input *input)
{
	static const uint64_t one = 1;

	if (!input)
		return;
	pthread_mutex_lock(&input->lock);
	input->stop = true;
	pthread_cond_signal(&input->changed);
	pthread_mutex_unlock(&input->lock);
	if (write(input->stop_fd, &one, sizeof(one)) < 0) {
		// cannot happen: a counter of 1 is far from full
	}
	pthread_join(input->thread, NULL);
	input_free(input);
}
