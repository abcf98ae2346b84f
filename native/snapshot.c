/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A live snapshot. Each step leaves files that open to what was written, whoever dies when:
 *
 *     changes wait -> flush -> seal -> the sealed file is read -> config renamed -> swap -> changes go on
 *                                                                  |
 *     config still names the pair: it opens as it was,             |  config names the sealed file and the new pair:
 *     an index behind its data is only garbage to it               |  nothing was written to that yet
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "error.h"
#include "image_private.h"
#include "upper.h"

/* What is made before the swap. */
struct successor {
	struct obd_layer *sealed;
	struct obd_index *index;
};

static int refuse_next(const struct obd_image *image, const struct obd_upper *next, struct obd_error *err)
{
	const char *path = next->layer.blob->path;

	if (next->read_only)
		return obd_fail(err, EINVAL, "%s: is open for reading only", path);
	if (next->map.segments)
		return obd_fail(err, EINVAL, "%s: is not new: it has %llu segments", path,
				(unsigned long long)next->map.segments);
	if (next->virtual_size && next->virtual_size != image->info.virtual_size)
		return obd_fail(err, EINVAL, "%s: virtual_size: %llu is not that of the image, %llu", path,
				(unsigned long long)next->virtual_size, (unsigned long long)image->info.virtual_size);
	if (image->info.layers == OBD_LAYERS_MAX)
		return obd_fail(err, EINVAL, "layers: the image has %d already, and can have no more", OBD_LAYERS_MAX);
	return 0;
}

/* The sealed file as anybody would open it: what cannot be read must not be relied upon. */
static int open_sealed(const char *path, struct obd_layer **ret, struct obd_error *err)
{
	struct obd_blob *blob;
	int r = obd_blob_open(path, 0, &blob, err);

	if (r)
		return r;
	r = obd_layer_open(blob, ret, err);
	if (r)
		obd_blob_close(blob);
	return r;
}

static int prepare(struct obd_image *image, struct obd_upper *next, struct successor *successor, struct obd_error *err)
{
	struct obd_upper *upper = image->upper;
	struct obd_layer *layers[OBD_LAYERS_MAX];
	const uint32_t count = image->info.layers;
	int r = obd_upper_seal(upper, err);

	if (!r)
		r = open_sealed(upper->layer.blob->path, &successor->sealed, err);
	if (r)
		return r;
	memcpy(layers, image->layers, count * sizeof(struct obd_layer *));
	layers[count] = successor->sealed;
	r = obd_image_merge(layers, count + 1, &successor->index);
	if (r)
		return obd_fail(err, -r, "merging the indexes of %u layers: %s", count + 1, strerror(-r));
	return next->virtual_size ? 0 : obd_upper_resize(next, image->info.virtual_size, err);
}

static int sync_path(const char *path, int flags, struct obd_error *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | flags);

	if (fd < 0 || fsync(fd)) {
		const int code = errno;

		if (fd >= 0)
			close(fd);
		return obd_fail(err, code, "%s: syncing: %s", path, strerror(code));
	}
	close(fd);
	return 0;
}

static int rename_config(const char *from, const char *to, struct obd_error *err)
{
	char folder[PATH_MAX];
	int r = sync_path(from, 0, err);

	if (r)
		return r;
	if (rename(from, to))
		return obd_fail(err, errno, "%s: renaming to %s: %s", from, to, strerror(errno));
	/* from here on there is no way back; if this fails a power cut may still show the old config, which is whole */
	snprintf(folder, sizeof(folder), "%s", to);
	sync_path(dirname(folder), O_DIRECTORY, NULL);
	return 0;
}

/* Readers see the layer before the index that leads to it, and that before the upper layer that lacks it. */
static void swap(struct obd_image *image, struct obd_upper *next, const struct successor *successor)
{
	struct obd_upper *old = image->upper;
	struct obd_index *index = image->index;

	next->readers = old->readers;
	next->readers_gone = old->readers_gone;
	image->layers[image->info.layers++] = successor->sealed;
	__atomic_store_n(&image->index, successor->index, __ATOMIC_RELEASE);
	__atomic_store_n(&image->upper, next, __ATOMIC_RELEASE);
	obd_image_count(image);
	obd_grace_wait(&image->grace);
	obd_index_destroy(index);
	obd_upper_close(old, NULL); /* sealed and synced: nothing of it is left to fail */
}

int obd_image_snapshot(struct obd_image *image, struct obd_upper *next, const char *config_from, const char *config_to,
		       struct obd_error *err)
{
	struct successor successor = {0};
	int r;

	if (!image->writable)
		return obd_fail(err, EROFS, "the image has no writable layer");
	pthread_rwlock_wrlock(&image->change_lock);
	r = refuse_next(image, next, err);
	if (!r)
		r = prepare(image, next, &successor, err);
	if (!r && config_from)
		r = rename_config(config_from, config_to, err);
	if (!r) {
		swap(image, next, &successor);
	} else {
		obd_index_destroy(successor.index);
		obd_layer_close(successor.sealed);
		obd_upper_unseal(image->upper);
	}
	pthread_rwlock_unlock(&image->change_lock);
	return r;
}
