/* SPDX-License-Identifier: Apache-2.0 */
/* From any file to a ZFile and back. What is in it is nobody's business here. */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "compress.h"
#include "error.h"
#include "pipeline.h"
#include "unwrap.h"

enum {
	PATIENCE_MS = 100, /**< how long a pipe may say nothing before we look whether we are to stop */
	VERIFY_JOB = 128 * 1024,
};

/* ---- compressing ---- */

struct input {
	int fd;
	struct obd_task *task;
};

static int64_t read_file(void *opaque, unsigned thread, const void *plan, void *buf, size_t count, uint64_t offset,
			 struct obd_error *err)
{
	const struct input *input = opaque;
	size_t done = 0;

	(void)thread, (void)plan;
	while (done < count) {
		ssize_t r = pread(input->fd, (uint8_t *)buf + done, count - done, (off_t)(offset + done));

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return obd_fail(err, errno, "reading the source at offset %llu: %s",
					(unsigned long long)(offset + done), strerror(errno));
		if (!r)
			break;
		done += (size_t)r;
	}
	return (int64_t)done;
}

/** Waits for the pipe to say something: 0, or -ECANCELED. */
static int wait_for_input(const struct input *input, struct obd_error *err)
{
	struct pollfd what = {.fd = input->fd, .events = POLLIN};

	while (!poll(&what, 1, PATIENCE_MS))
		if (obd_task_stopped(input->task))
			return obd_fail(err, ECANCELED, "stopped");
	return 0;
}

/** However the bytes trickle in, only the last job is short: a short block in the middle would be lost. */
static int64_t read_pipe(void *opaque, unsigned thread, const void *plan, void *buf, size_t count, uint64_t offset,
			 struct obd_error *err)
{
	const struct input *input = opaque;
	size_t done = 0;

	(void)thread, (void)plan;
	while (done < count) {
		ssize_t r = wait_for_input(input, err);

		if (r)
			return r;
		r = read(input->fd, (uint8_t *)buf + done, count - done);
		if (r < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (r < 0)
			return obd_fail(err, errno, "reading the source at offset %llu: %s",
					(unsigned long long)(offset + done), strerror(errno));
		if (!r)
			break;
		done += (size_t)r;
	}
	return (int64_t)done;
}

int obd_zfile_compress(int fd, const struct obd_output_options *output, struct obd_task *task, struct obd_error *err)
{
	struct input input = {fd, task};
	struct obd_source source = {.size = OBD_UNKNOWN_SIZE, .read = read_pipe, .opaque = &input};
	struct obd_output_options settled = *output;
	struct stat st;

	if (fstat(fd, &st))
		return obd_fail(err, errno, "the source: fstat: %s", strerror(errno));
	if (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode)) {
		const off_t end = S_ISREG(st.st_mode) ? st.st_size : lseek(fd, 0, SEEK_END);

		if (end < 0)
			return obd_fail(err, errno, "the source: its size: %s", strerror(errno));
		source.size = (uint64_t)end;
		source.read = read_file;
	}
	settled.threads = obd_pipeline_threads(output->threads);
	return obd_store_file(&source, &settled, task, err);
}

/* ---- decompressing ---- */

struct stored {
	struct obd_layer *layer;
	struct obd_unwrap *unwraps[OBD_PIPELINE_THREADS];
	struct obd_task *task;
};

/** blob stays the caller's in any case. */
static void stored_deinit(struct stored *stored)
{
	for (unsigned i = 0; i < OBD_PIPELINE_THREADS; i++)
		obd_unwrap_destroy(stored->unwraps[i]);
	if (stored->layer)
		stored->layer->blob = NULL;
	obd_layer_close(stored->layer);
}

static int stored_init(struct stored *stored, struct obd_blob *blob, unsigned threads, struct obd_error *err)
{
	int r = obd_layer_open_wrappers(blob, &stored->layer, err);

	if (r)
		return r;
	if (!stored->layer->zfile)
		return obd_fail(err, EMEDIUMTYPE, "%s: is not a ZFile", blob->path);
	for (unsigned i = 0; i < threads; i++)
		if (obd_unwrap_create(&stored->unwraps[i]))
			return obd_fail(err, ENOMEM, "no memory to decode with %u threads", threads);
	return 0;
}

static int64_t read_stored(void *opaque, unsigned thread, const void *plan, void *buf, size_t count, uint64_t offset,
			   struct obd_error *err)
{
	const struct stored *stored = opaque;
	int r = obd_unwrap_pread(stored->unwraps[thread], stored->layer, buf, count, offset, err);

	(void)plan;
	return r ? r : (int64_t)count;
}

int obd_zfile_extract(struct obd_blob *blob, const struct obd_output_options *output, struct obd_task *task,
		      struct obd_error *err)
{
	struct obd_output_options settled = *output;
	struct stored stored = {.task = task};
	int r;

	settled.threads = obd_pipeline_threads(output->threads);
	if (output->algo)
		return obd_fail(err, EINVAL, "algo: %u, what is extracted is written as it is", output->algo);
	r = stored_init(&stored, blob, settled.threads, err);
	if (!r) {
		const struct obd_source source = {
			.size = obd_unwrap_size(stored.layer), .read = read_stored, .opaque = &stored};

		r = obd_store_file(&source, &settled, task, err);
	}
	stored_deinit(&stored);
	return r;
}

static size_t verify_count(const struct stored *stored, uint64_t job)
{
	const uint64_t left = obd_unwrap_size(stored->layer) - job * VERIFY_JOB;

	return left < VERIFY_JOB ? (size_t)left : VERIFY_JOB;
}

static int verify_work(void *opaque, unsigned thread, void *slot, uint64_t job, struct obd_error *err)
{
	const struct stored *stored = opaque;

	return obd_unwrap_pread(stored->unwraps[thread], stored->layer, slot, verify_count(stored, job),
				job * VERIFY_JOB, err);
}

static int verify_deliver(void *opaque, void *slot, uint64_t job, struct obd_error *err)
{
	const struct stored *stored = opaque;

	(void)slot, (void)err;
	obd_task_advance(stored->task, verify_count(stored, job));
	return 0;
}

int obd_zfile_verify(struct obd_blob *blob, uint32_t threads, struct obd_task *task, struct obd_error *err)
{
	struct stored stored = {.task = task};
	struct obd_pipeline pipeline = {
		.threads = obd_pipeline_threads(threads),
		.slot_size = VERIFY_JOB,
		.work = verify_work,
		.deliver = verify_deliver,
		.opaque = &stored,
		.task = task,
	};
	int r = stored_init(&stored, blob, pipeline.threads, err);

	if (!r && !stored.layer->zfile->verify)
		r = obd_fail(err, ENODATA, "%s: its blocks carry no checksums", blob->path);
	if (!r) {
		const uint64_t size = obd_unwrap_size(stored.layer);

		pipeline.jobs = (size + VERIFY_JOB - 1) / VERIFY_JOB;
		obd_task_expect(task, size);
		r = obd_pipeline_run(&pipeline, err);
	}
	stored_deinit(&stored);
	return r;
}
