/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing streams: as they are, or as ZFiles (zfile.c has the layout). A job is a run of blocks, read, compressed and
 * checksummed by one thread, so that they stay in its CPU's cache; jobs are appended in their order.
 *
 * Nothing here grows with the stream but the lengths of the blocks, and those beyond the first MiB wait in a file.
 */
#include "compress.h"

#include <errno.h>
#include <lz4.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

#include "crc32c.h"
#include "error.h"
#include "little_endian.h"
#include "pages.h"
#include "pipeline.h"
#include "zfile.h"

enum {
	RECORD = OBD_ZFILE_RECORD,
	CRC = OBD_ZFILE_CRC,
	ZSTD_LEVEL = 3,
	JOB = OBD_SOURCE_MAX, /**< input of one job: with its output it fits the cache of a core */
	JOB_BLOCKS = JOB / OBD_ZFILE_BLOCK_MIN,
	FORGET = 32 * 1024 * 1024, /**< input after which its pages are given back: they count as ours */
	ALIGN = 64,
	LENGTHS = 256 * 1024, /**< lengths held before they go to a file */
};

/* ---- the lengths of the blocks ---- */

struct lengths {
	uint32_t *held; /**< little-endian */
	size_t count;	/**< of held */
	uint64_t total;
	uint32_t crc;
	int fd; /**< those before held; -1: there are none */
};

static int write_fully(int fd, const void *buf, size_t count)
{
	const uint8_t *from = buf;

	while (count) {
		ssize_t r = write(fd, from, count);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		from += r;
		count -= (size_t)r;
	}
	return 0;
}

static int lengths_spill(struct lengths *lengths, const struct obd_output *output, struct obd_error *err)
{
	int r;

	if (lengths->fd < 0) {
		lengths->fd = obd_output_scratch(output, err);
		if (lengths->fd < 0)
			return lengths->fd;
	}
	r = write_fully(lengths->fd, lengths->held, lengths->count * sizeof(*lengths->held));
	lengths->count = 0;
	return r ? obd_fail(err, -r, "keeping the index in a file: %s", strerror(-r)) : 0;
}

static int lengths_append(struct lengths *lengths, const struct obd_output *output, const uint32_t *more,
			  unsigned count, struct obd_error *err)
{
	if (lengths->count + count > LENGTHS) {
		int r = lengths_spill(lengths, output, err);

		if (r)
			return r;
	}
	for (unsigned i = 0; i < count; i++)
		lengths->held[lengths->count + i] = htole32(more[i]);
	lengths->crc = obd_crc32c(lengths->held + lengths->count, count * sizeof(*more), lengths->crc);
	lengths->count += count;
	lengths->total += count;
	return 0;
}

static int lengths_write(struct lengths *lengths, struct obd_output *output, struct obd_error *err)
{
	uint8_t buffer[64 * 1024];
	off_t at = 0;

	while (lengths->fd >= 0) {
		ssize_t count = pread(lengths->fd, buffer, sizeof(buffer), at);
		int r;

		if (count < 0)
			return obd_fail(err, errno, "reading the index kept in a file: %s", strerror(errno));
		if (!count)
			break;
		r = obd_output_write(output, buffer, (size_t)count, err);
		if (r)
			return r;
		at += count;
	}
	return obd_output_write(output, lengths->held, lengths->count * sizeof(*lengths->held), err);
}

/* ---- what one job and one thread have ---- */

/** The memory of a pipeline's slot: this, the input, room for it compressed at its worst, and the source's plan. */
struct job {
	size_t count;  /**< bytes of input */
	size_t at;     /**< of them compressed */
	size_t stored; /**< bytes of output */
	unsigned blocks;
	uint32_t length[JOB_BLOCKS];
	_Alignas(64) uint8_t input[];
};

struct encoder {
	void *lz4;
	ZSTD_CCtx *zstd;
};

struct store {
	const struct obd_source *source;
	const struct obd_output_options *options;
	struct obd_output *output;
	struct obd_task *task;
	size_t bound;  /**< bytes a block may take, CRC included */
	size_t plan;   /**< where in a job's memory the source's plan is, behind the input */
	uint64_t size; /**< bytes of input delivered */
	bool ended;    /**< a source of unknown size has given its last */
	struct encoder encoders[OBD_PIPELINE_THREADS];
	struct lengths lengths;
};

static uint8_t *job_output(struct job *job)
{
	return job->input + JOB;
}

static void *job_plan(const struct store *store, struct job *job)
{
	return job->input + store->plan;
}

static size_t block_bound(const struct obd_output_options *options)
{
	const size_t size = options->block_size;

	return (options->algo == OBD_LZ4 ? (size_t)LZ4_compressBound((int)size) : ZSTD_compressBound(size)) + CRC;
}

/** Bytes of a job, as far as is known. */
static size_t job_size(const struct store *store, uint64_t number)
{
	const uint64_t size = store->source->size, left = size - number * JOB;

	return size != OBD_UNKNOWN_SIZE && left < JOB ? (size_t)left : JOB;
}

static int64_t read_source(struct store *store, unsigned thread, struct job *job, uint64_t number,
			   struct obd_error *err)
{
	const uint64_t offset = number * JOB;
	const size_t count = job_size(store, number);
	int64_t r;

	r = store->source->read(store->source->opaque, thread, job_plan(store, job), job->input, count, offset, err);
	if (r < 0)
		return r;
	job->count = (size_t)r;
	if (store->source->size != OBD_UNKNOWN_SIZE && job->count < count)
		return obd_fail(err, EIO, "the source ends at offset %llu, %llu bytes were expected",
				(unsigned long long)(offset + job->count), (unsigned long long)store->source->size);
	return r;
}

/** obd_pipeline's take for a source that has to be read in order. */
static int take_read(void *opaque, void *slot, uint64_t number, struct obd_error *err)
{
	struct store *store = opaque;
	struct job *job = slot;
	int64_t r;

	if (store->ended)
		return 0;
	r = read_source(store, 0, job, number, err);
	if (r < 0)
		return (int)r;
	store->ended = job->count < JOB;
	return r > 0;
}

/** ... and for one that has to be planned in order. */
static int take_plan(void *opaque, void *slot, uint64_t number, struct obd_error *err)
{
	struct store *store = opaque;
	const struct obd_source *source = store->source;
	const uint64_t offset = number * JOB;
	int r;

	if (offset >= source->size)
		return 0;
	r = source->plan(source->opaque, job_plan(store, slot), job_size(store, number), offset, err);
	return r < 0 ? r : 1;
}

/* ---- as it is ---- */

static int copy_work(void *opaque, unsigned thread, void *slot, uint64_t number, struct obd_error *err)
{
	struct store *store = opaque;
	int64_t r = store->source->size == OBD_UNKNOWN_SIZE ? 0 : read_source(store, thread, slot, number, err);

	return r < 0 ? (int)r : 0;
}

static int copy_deliver(void *opaque, void *slot, uint64_t number, struct obd_error *err)
{
	struct store *store = opaque;
	const struct job *job = slot;

	(void)number;
	obd_task_advance(store->task, job->count);
	return obd_output_write(store->output, job->input, job->count, err);
}

/* ---- a ZFile's blocks ---- */

static void encoder_deinit(struct encoder *encoder)
{
	free(encoder->lz4);
	ZSTD_freeCCtx(encoder->zstd);
}

static int encoder_init(struct encoder *encoder, uint32_t algo)
{
	if (algo == OBD_LZ4)
		encoder->lz4 = malloc((size_t)LZ4_sizeofState());
	else
		encoder->zstd = ZSTD_createCCtx();
	return encoder->lz4 || encoder->zstd ? 0 : -ENOMEM;
}

/** Bytes of the payload, 0 when the library refuses: with room for the worst case it has no reason to. */
static size_t encode(const struct encoder *encoder, const uint8_t *from, size_t count, uint8_t *to, size_t room)
{
	size_t r;

	if (encoder->lz4)
		return (size_t)LZ4_compress_fast_extState(encoder->lz4, (const char *)from, (char *)to, (int)count,
							  (int)room, 1);
	r = ZSTD_compressCCtx(encoder->zstd, to, room, from, count, ZSTD_LEVEL);
	return ZSTD_isError(r) ? 0 : r;
}

/** The next block, with its CRC, to to, where there is room for the longest. Bytes, or -errno. */
static int encode_block(const struct store *store, unsigned thread, const struct job *job, const uint8_t *from,
			uint8_t *to, struct obd_error *err)
{
	const size_t block_size = store->options->block_size, left = job->count - job->at;
	const size_t payload = encode(&store->encoders[thread], from + job->at, left < block_size ? left : block_size,
				      to, store->bound - CRC);

	if (!payload)
		return obd_fail(err, EIO, "compressing a block of %zu bytes failed",
				left < block_size ? left : block_size);
	obd_put_le32(to, payload, obd_crc32c(to, payload, OBD_ZFILE_SEED));
	return (int)payload + CRC;
}

/** What is left of a job's input, which is at from. */
typedef int encode_job(struct store *store, unsigned thread, struct job *job, const uint8_t *from,
		       struct obd_error *err);

/** To the slot, from where it is written in its turn. */
static int encode_to_slot(struct store *store, unsigned thread, struct job *job, const uint8_t *from,
			  struct obd_error *err)
{
	while (job->at < job->count) {
		int r = encode_block(store, thread, job, from, job_output(job) + job->stored, err);

		if (r < 0)
			return r;
		job->stored += (size_t)r;
		job->length[job->blocks++] = (uint32_t)r;
		job->at += store->options->block_size;
	}
	return 0;
}

/** To where it is written from: it is its turn. */
static int encode_to_output(struct store *store, unsigned thread, struct job *job, const uint8_t *from,
			    struct obd_error *err)
{
	int r = 0;

	while (!r && job->at < job->count) {
		uint8_t *room = obd_output_room(store->output, store->bound);
		const int length = encode_block(store, thread, job, from, room ? room : job_output(job), err);

		if (length < 0)
			return length;
		job->length[job->blocks++] = (uint32_t)length;
		job->at += store->options->block_size;
		r = room ? obd_output_advance(store->output, (size_t)length, err)
			 : obd_output_write(store->output, job_output(job), (size_t)length, err);
	}
	return r;
}

/** -EFAULT when a page has gone: what was encoded before stays. */
static int encode_in_place(struct store *store, unsigned thread, struct job *job, const uint8_t *from,
			   const struct obd_pages *pages, encode_job *encode_rest, struct obd_error *err)
{
	struct obd_guard guard;
	int r;

	if (sigsetjmp(guard.back, 0))
		return -EFAULT;
	obd_guard_set(&guard);
	r = encode_rest(store, thread, job, from, err);
	obd_pages_check(pages);
	obd_guard_set(NULL);
	return r;
}

/**
 * A job's input is taken from where it lies in memory, if it does: that is worth 4 % of the time. A file that was cut
 * meanwhile is seen as shorter by the reading that follows.
 */
static int compress_job(struct store *store, unsigned thread, struct job *job, uint64_t number, encode_job *encode_rest,
			struct obd_error *err)
{
	const struct obd_source *source = store->source;
	struct obd_pages *pages;
	const uint8_t *from = NULL;
	int r = -EFAULT;

	job->at = job->stored = job->blocks = 0;
	if (source->look && source->size - number * JOB >= JOB)
		from = source->look(source->opaque, job_plan(store, job), JOB, number * JOB, &pages);
	if (from) {
		job->count = JOB;
		r = encode_in_place(store, thread, job, from, pages, encode_rest, err);
	}
	if (r != -EFAULT)
		return r;
	r = copy_work(store, thread, job, number, err);
	return r ? r : encode_rest(store, thread, job, job->input, err);
}

static int compress_work(void *opaque, unsigned thread, void *slot, uint64_t number, struct obd_error *err)
{
	return compress_job(opaque, thread, slot, number, encode_to_slot, err);
}

static int account(struct store *store, const struct job *job, struct obd_error *err)
{
	store->size += job->count;
	if (store->source->forget && store->size % FORGET == 0)
		store->source->forget(store->source->opaque);
	obd_task_advance(store->task, job->count);
	return lengths_append(&store->lengths, store->output, job->length, job->blocks, err);
}

static int compress_deliver(void *opaque, void *slot, uint64_t number, struct obd_error *err)
{
	struct store *store = opaque;
	struct job *job = slot;
	int r = account(store, job, err);

	(void)number;
	return r ? r : obd_output_write(store->output, job_output(job), job->stored, err);
}

/** With one thread nothing has to wait for its turn: 3 % of the time are saved. */
static int compress_finish(void *opaque, void *slot, uint64_t number, struct obd_error *err)
{
	struct store *store = opaque;
	struct job *job = slot;
	int r = compress_job(store, 0, job, number, encode_to_output, err);

	return r ? r : account(store, job, err);
}

/* ---- a ZFile's records ---- */

/** The first header has 0 wherever the end decides: index_offset tells whether it is known. */
static void fill_record(const struct store *store, uint64_t flags, uint64_t index_offset, uint8_t *raw)
{
	struct obd_zfile_record record = {
		.flags = flags | OBD_ZFILE_DATA | OBD_ZFILE_DIGEST,
		.block_size = store->options->block_size,
		.algo = (uint8_t)store->options->algo,
		.verify = 1,
	};

	if (index_offset) {
		record.index_offset = index_offset;
		record.index_size = store->lengths.total;
		record.original_size = store->size;
		record.index_crc = store->lengths.crc;
	}
	obd_zfile_put_record(raw, &record);
}

static int run(struct store *store, bool compressed, struct obd_error *err)
{
	const bool in_order = store->source->size == OBD_UNKNOWN_SIZE;
	const size_t output = compressed ? JOB / store->options->block_size * store->bound : 0;
	const size_t plan = JOB + (output + ALIGN - 1) / ALIGN * ALIGN;
	const struct obd_pipeline pipeline = {
		.threads = store->options->threads,
		.jobs = in_order ? UINT64_MAX : (store->source->size + JOB - 1) / JOB,
		.slot_size = sizeof(struct job) + plan + store->source->plan_size,
		.take = in_order	      ? take_read
			: store->source->plan ? take_plan
					      : NULL,
		.work = compressed ? compress_work : copy_work,
		.deliver = compressed ? compress_deliver : copy_deliver,
		.finish = compressed ? compress_finish : NULL,
		.opaque = store,
		.task = store->task,
	};

	store->plan = plan;
	obd_task_expect(store->task, in_order ? 0 : store->source->size);
	return obd_pipeline_run(&pipeline, err);
}

static int write_zfile(struct store *store, struct obd_error *err)
{
	uint8_t record[RECORD];
	uint64_t index_offset;
	int r;

	fill_record(store, OBD_ZFILE_HEADER, 0, record);
	r = obd_output_write(store->output, record, RECORD, err);
	if (!r)
		r = run(store, true, err);
	if (r)
		return r;
	index_offset = obd_output_size(store->output);
	r = lengths_write(&store->lengths, store->output, err);
	if (r)
		return r;
	fill_record(store, OBD_ZFILE_SEALED, index_offset, record);
	r = obd_output_write(store->output, record, RECORD, err);
	if (!r && store->options->final_header) {
		fill_record(store, OBD_ZFILE_HEADER | OBD_ZFILE_FINAL, index_offset, record);
		obd_output_head(store->output, record, RECORD);
	}
	return r;
}

static int check_options(const struct obd_output_options *options, struct obd_error *err)
{
	const uint32_t size = options->block_size;

	if (options->threads < 1 || options->threads > OBD_PIPELINE_THREADS)
		return obd_fail(err, EINVAL, "threads: %u is not between 1 and %d", options->threads,
				OBD_PIPELINE_THREADS);
	if (!options->algo)
		return 0;
	if (options->algo != OBD_LZ4 && options->algo != OBD_ZSTD)
		return obd_fail(err, EINVAL, "algo: %u is none of 0 (none), 1 (lz4), 2 (zstd)", options->algo);
	if (size < OBD_ZFILE_BLOCK_MIN || size > OBD_ZFILE_BLOCK_MAX || size & (size - 1))
		return obd_fail(err, EINVAL, "block_size: %u is not a power of two between 512 and 65536", size);
	return 0;
}

static int store_zfile(struct store *store, struct obd_error *err)
{
	int r = 0;

	store->bound = block_bound(store->options);
	store->lengths.fd = -1;
	store->lengths.held = malloc(LENGTHS * sizeof(*store->lengths.held));
	for (unsigned i = 0; i < store->options->threads; i++)
		r |= encoder_init(&store->encoders[i], store->options->algo);
	if (!store->lengths.held || r)
		r = obd_fail(err, ENOMEM, "no memory to compress with %u threads", store->options->threads);
	else
		r = write_zfile(store, err);
	for (unsigned i = 0; i < store->options->threads; i++)
		encoder_deinit(&store->encoders[i]);
	if (store->lengths.fd >= 0)
		close(store->lengths.fd);
	free(store->lengths.held);
	return r;
}

int obd_store(const struct obd_source *source, const struct obd_output_options *options, struct obd_output *output,
	      struct obd_task *task, struct obd_error *err)
{
	struct store store = {.source = source, .options = options, .output = output, .task = task};
	int r = check_options(options, err);

	if (r)
		return r;
	return options->algo ? store_zfile(&store, err) : run(&store, false, err);
}

int obd_store_file(const struct obd_source *source, const struct obd_output_options *options, struct obd_task *task,
		   struct obd_error *err)
{
	struct obd_output *output;
	int r = obd_output_create(options, &output, err);

	if (r)
		return r;
	r = obd_store(source, options, output, task, err);
	if (!r)
		r = obd_output_publish(output, err);
	obd_output_destroy(output);
	return r;
}
