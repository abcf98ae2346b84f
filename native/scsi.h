/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_SCSI_H
#define OBD_SCSI_H
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

/*
 * What a disk answers to a SCSI command. Knows neither rings nor images: a command is a CDB and the buffers of its
 * data, the outcome an answer or a range to read.
 */

/** What the disk says of itself; strings stay the caller's. */
struct obd_scsi {
	uint64_t blocks;
	uint32_t block_size;
	uint32_t max_transfer; /**< bytes a command may carry, 0 = no limit */
	bool read_only;
	bool discard;		 /**< discarded blocks read as zeros */
	bool capacity_changed;	 /**< and nobody was told yet */
	const char *serial_path; /**< configfs file, read when asked for; NULL = no serial */
	const char *cfgstring;
};

enum { OBD_SCSI_CDB = 16, OBD_SCSI_SENSE = 18 };
enum { OBD_SCSI_GOOD = 0x00, OBD_SCSI_CHECK_CONDITION = 0x02, OBD_SCSI_TASK_SET_FULL = 0x28 };

struct obd_scsi_command {
	uint8_t cdb[OBD_SCSI_CDB]; /**< zero-filled behind the command's own length */
	struct iovec *iov;
	unsigned iov_count;
	uint64_t data_count; /**< bytes of iov */
};

struct obd_scsi_answer {
	uint8_t status;
	uint8_t sense[OBD_SCSI_SENSE]; /**< fixed format, with OBD_SCSI_CHECK_CONDITION only */
	uint32_t read_count;	       /**< bytes put into iov; fewer than data_count is a residual */
};

enum obd_scsi_verdict {
	OBD_SCSI_ANSWERED, /**< *answer is complete */
	OBD_SCSI_REJECTED, /**< likewise, with an error */
	OBD_SCSI_READ,	   /**< fill iov with [*offset, *offset + *count), count > 0 and at most data_count */
	OBD_SCSI_WRITE,	   /**< likewise, from iov, which holds it all */
	OBD_SCSI_REPEAT,   /**< the block that iov[0] begins with goes to every block of the range */
	OBD_SCSI_DISCARD,  /**< the range shall read as zeros */
	OBD_SCSI_FLUSH,	   /**< whatever was written shall last */
};

/** Only the device's own thread: a unit attention is told once. */
enum obd_scsi_verdict obd_scsi_execute(struct obd_scsi *scsi, const struct obd_scsi_command *command,
				       struct obd_scsi_answer *answer, uint64_t *offset, uint64_t *count);
/** The answer to a read that failed in the block of offset. */
void obd_scsi_read_failed(const struct obd_scsi *scsi, uint64_t offset, struct obd_scsi_answer *answer);
/** The answer to anything else that failed with this errno. */
void obd_scsi_change_failed(int code, struct obd_scsi_answer *answer);

#endif
